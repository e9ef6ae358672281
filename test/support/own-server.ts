/** A temporary server that a test may treat as it likes, whatever DATABASE_URL says. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

export interface OwnServer {
  readonly url: string
  /** Shuts it down as an administrator does; resolves when it has ended. Its data stay. */
  stop(): Promise<void>
  /** Starts it again; resolves when it accepts connections. */
  start(): Promise<void>
}

/** Removed with the test. */
export async function startOwnServer(): Promise<OwnServer> {
  const folder = await mkdtemp(path.join(tmpdir(), 'apalis-drizzle-'))
  const keeper = spawn(process.execPath, ['--import', 'tsx', 'scripts/postgres-keeper.ts', folder], {
    cwd: root,
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const ended = once(keeper, 'exit')
  onTestFinished(async () => {
    keeper.stdin.end()
    await ended
  })
  const answers = createInterface({ input: keeper.stdout })
  const answer = async (): Promise<string> => {
    const line = await Promise.race([once(answers, 'line'), ended.then(() => [])])
    if (line[0] === undefined) throw new Error('The temporary PostgreSQL server did not start.')
    return line[0] as string
  }
  const ask = async (command: string) => {
    keeper.stdin.write(`${command}\n`)
    await answer()
  }
  return { url: await answer(), stop: () => ask('stop'), start: () => ask('start') }
}
