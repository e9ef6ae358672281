/**
 * A PostgreSQL server for the tests and the demo: the one of DATABASE_URL, or a temporary one from npm.
 *
 * The temporary server belongs to a keeper process (postgres-keeper.ts) in a process group of its own. So Ctrl-C reaches
 * this program only, which can still use the server while it shuts down. The keeper removes server and folder as soon as
 * this process is gone, whatever ended it.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { constants, tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'

export interface PostgresServer {
  url: string
  stop(): Promise<void>
}

const CONNECT_TIMEOUT_SECONDS = 5
const REMOVAL_TIMEOUT_MS = 20_000
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** @param settings - Of a temporary server, over those that suit the tests: nothing of theirs has to survive a crash. */
export async function startPostgres(settings: Readonly<Record<string, string>> = {}): Promise<PostgresServer> {
  const url = process.env['DATABASE_URL']
  return url ? await useServer(url) : await startTemporaryServer(settings)
}

async function useServer(url: string): Promise<PostgresServer> {
  const client = connect(url)
  const failure = await client`select 1`.then(() => undefined, errorCode)
  await client.end({ timeout: 0 })
  if (failure !== undefined) {
    // Neither the URL nor the driver's message may be shown: both can contain credentials.
    const { host, port } = client.options
    throw new Error(
      `No PostgreSQL server can be used at ${host.join(',')}:${port.join(',')} (${failure}): start it, correct DATABASE_URL, or unset DATABASE_URL to use a temporary server.`,
    )
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

async function startTemporaryServer(settings: Readonly<Record<string, string>>): Promise<PostgresServer> {
  // Before there is anything to remove: a signal without a listener ends the process at once.
  for (const signal of SIGNALS) process.on(signal, exitUnlessHandled)
  const folder = mkdtempSync(path.join(tmpdir(), 'apalis-drizzle-'))
  const program = ['--import', 'tsx', 'scripts/postgres-keeper.ts', folder, JSON.stringify(settings)]
  const keeper = spawn(process.execPath, program, {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    detached: true,
    stdio: ['pipe', 'pipe', 'inherit'],
    windowsHide: true,
  })
  const removeNow = () => {
    keeper.stdin.destroy()
    waitUntilGone(folder)
  }
  process.once('exit', removeNow)
  const ended = once(keeper, 'exit').then(() => {
    process.off('exit', removeNow)
    for (const signal of SIGNALS) process.off(signal, exitUnlessHandled)
  })

  const url = await Promise.race([firstLine(keeper.stdout), ended])
  if (!url) {
    await rm(folder, { recursive: true, force: true })
    throw new Error('The temporary PostgreSQL server did not start.')
  }
  return {
    url,
    stop() {
      keeper.stdin.end()
      return ended
    },
  }
}

/** process.exit() cannot wait for the keeper, so wait here: whoever looks after this process finds nothing left. */
function waitUntilGone(folder: string): void {
  const clock = new Int32Array(new SharedArrayBuffer(4))
  const deadline = Date.now() + REMOVAL_TIMEOUT_MS
  while (existsSync(folder) && Date.now() < deadline) Atomics.wait(clock, 0, 0, 10)
}

/** Without a listener a signal ends the process before it could wait. A program that listens decides for itself. */
function exitUnlessHandled(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) === 1) process.exit(128 + constants.signals[signal])
}

async function firstLine(input: Readable): Promise<string> {
  const [line] = (await once(createInterface({ input }), 'line')) as [string]
  return line
}
