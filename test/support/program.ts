/** Child processes: programs of test/programs, killed at the end of the test that starts them. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'

export interface Program {
  readonly child: ChildProcess
  /** What it has printed so far. */
  readonly lines: readonly string[]
  /** The next line that no earlier call has returned. Rejects when the program ends without one. */
  nextLine(): Promise<string>
  /** Exit code or signal, and what it wrote to stderr. */
  readonly ended: Promise<{ readonly end: number | NodeJS.Signals; readonly errors: string }>
}

export function startProgram(name: string, env: Record<string, string>): Program {
  const file = fileURLToPath(new URL(`../programs/${name}.ts`, import.meta.url))
  const child = spawn(process.execPath, ['--import', 'tsx', file], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
  const ended = once(child, 'close').then(([code, signal]) => ({
    end: (code ?? signal) as number | NodeJS.Signals,
    errors,
  }))
  const lines: string[] = []
  const output = createInterface({ input: child.stdout }).on('line', (line) => void lines.push(line))
  let returned = 0
  return {
    child,
    lines,
    ended,
    nextLine: async () => {
      while (returned === lines.length) {
        const end = await Promise.race([ended, once(output, 'line').then(() => undefined)])
        if (end !== undefined && returned === lines.length) throw new Error(`${name} ended: ${JSON.stringify(end)}`)
      }
      return lines[returned++]!
    },
  }
}
