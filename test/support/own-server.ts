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

/** Removed with the test. @returns Its URL. */
export async function startOwnServer(): Promise<string> {
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
  const first = once(createInterface({ input: keeper.stdout }), 'line').then(([line]) => line as string)
  const url = await Promise.race([first, ended.then(() => undefined)])
  if (url === undefined) throw new Error('The temporary PostgreSQL server did not start.')
  return url
}
