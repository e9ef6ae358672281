/**
 * A PostgreSQL server for the tests and the demo: the one of DATABASE_URL, or a temporary one from npm.
 *
 * The temporary server belongs to a keeper process (postgres-keeper.ts) in a process group of its own. So Ctrl-C reaches
 * this program only, which can still use the server while it shuts down, and no signal handler has to be added here. The
 * keeper removes server and folder as soon as this process is gone, whatever ended it.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'

export interface PostgresServer {
  url: string
  stop(): Promise<void>
}

/** What the keeper reports, as one line of JSON, once its server accepts connections. */
export interface KeeperReport {
  url: string
  folder: string
}

const CONNECT_TIMEOUT_SECONDS = 5
const REMOVAL_TIMEOUT_MS = 5_000

export async function startPostgres(): Promise<PostgresServer> {
  const url = process.env['DATABASE_URL']
  return url ? await useServer(url) : await startTemporaryServer()
}

async function useServer(url: string): Promise<PostgresServer> {
  const client = connect(url)
  try {
    await client`select 1`
  } catch (error) {
    // Neither the URL nor the driver's message may be shown: both can contain credentials.
    const { host, port } = client.options
    throw new Error(
      `No PostgreSQL server can be used at ${host.join(',')}:${port.join(',')} (${errorCode(error)}): start it, correct DATABASE_URL, or unset DATABASE_URL to use a temporary server.`,
    )
  } finally {
    await client.end({ timeout: 0 })
  }
  return { url, stop: () => Promise.resolve() }
}

function connect(url: string): postgres.Sql {
  try {
    return postgres(url, { max: 1, connect_timeout: CONNECT_TIMEOUT_SECONDS, onnotice: () => undefined })
  } catch {
    throw new Error('DATABASE_URL is not a PostgreSQL URL such as postgres://user:password@localhost:5432/app.')
  }
}

function errorCode(error: unknown): string {
  const { code } = error as { code?: unknown }
  return typeof code === 'string' ? code : 'no error code'
}

async function startTemporaryServer(): Promise<PostgresServer> {
  const root = fileURLToPath(new URL('..', import.meta.url))
  const keeper = spawn(process.execPath, ['--import', 'tsx', 'scripts/postgres-keeper.ts'], {
    cwd: root,
    detached: true,
    stdio: ['pipe', 'pipe', 'inherit'],
    windowsHide: true,
  })
  const ended = once(keeper, 'exit')
  const [line] = await Promise.race([
    once(createInterface({ input: keeper.stdout }), 'line'),
    ended.then(() => {
      throw new Error('The temporary PostgreSQL server did not start; the reason is printed above.')
    }),
  ])
  const { url, folder } = JSON.parse(line as string) as KeeperReport

  // process.exit() cannot wait for the keeper, so wait here: whoever looks after this process finds nothing left.
  const onExit = () => {
    keeper.kill()
    waitUntilGone(folder)
  }
  process.once('exit', onExit)
  return {
    url,
    async stop() {
      keeper.stdin.end()
      await ended
      process.off('exit', onExit)
    },
  }
}

function waitUntilGone(folder: string): void {
  const clock = new Int32Array(new SharedArrayBuffer(4))
  const deadline = Date.now() + REMOVAL_TIMEOUT_MS
  while (existsSync(folder) && Date.now() < deadline) Atomics.wait(clock, 0, 0, 10)
}
