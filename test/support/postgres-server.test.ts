import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { startPostgres } from '../../scripts/postgres-server.js'

describe('a temporary server', () => {
  let folder: string

  beforeEach(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'postgres-server-test-'))
    // As root the server runs as another user, who has to get in.
    await chmod(folder, 0o755)
  })

  afterEach(() => rm(folder, { recursive: true }))

  const servers = async () => (await readdir(folder)).filter((name) => name.startsWith('apalis-drizzle-'))

  /** Runs the program, which sees `server` and calls `ready`, in a process group of its own, as a terminal does. */
  function start(program: string) {
    const child = spawn(
      process.execPath,
      [
        ...['--import', 'tsx', '--input-type=module', '--eval'],
        `import { startPostgres } from './scripts/postgres-server.ts'
         const server = await startPostgres()
         const ready = () => console.log(server.url)
         ${program}`,
      ],
      {
        cwd: fileURLToPath(new URL('../..', import.meta.url)),
        detached: true,
        env: { ...process.env, DATABASE_URL: '', TMPDIR: folder },
        stdio: ['ignore', 'pipe', 'ignore'],
      },
    )
    return {
      ended: once(child, 'exit') as Promise<[code: number | null]>,
      url: once(child.stdout, 'data').then(([text]) => String(text).trim()),
      interrupt: (signal: NodeJS.Signals) => process.kill(-child.pid!, signal),
    }
  }

  it.each([
    ['stop()', 'ready(); await server.stop(); process.exitCode = 3', 3],
    ['process.exit()', 'ready(); process.exit(4)', 4],
    ['an error', 'ready(); throw new Error()', 1],
  ])('is gone after %s, and the exit code is kept', async (_end, program, code) => {
    const { ended, url } = start(program)
    expect(await url).toMatch(/^postgres:/)
    expect(await ended).toEqual([code, null])
    expect(await servers()).toEqual([])
    await expect(postgres(await url)`select 1`).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('is gone after %s', async (signal, code) => {
    const { ended, url, interrupt } = start('ready(); setInterval(() => {}, 1000)')
    await url
    interrupt(signal)
    expect(await ended).toEqual([code, null])
    expect(await servers()).toEqual([])
  })

  it('is gone after a signal during its start', async () => {
    const { ended, interrupt } = start('await server.stop()')
    await expect.poll(servers).toHaveLength(1)
    interrupt('SIGINT')
    expect(await ended).toEqual([130, null])
    expect(await servers()).toEqual([])
  })

  it('works on while the program handles a signal', async () => {
    const { ended, url, interrupt } = start(`
      const postgres = (await import('postgres')).default
      process.once('SIGINT', async () => {
        const sql = postgres(server.url)
        const [{ code }] = await sql\`select 5 as code\`
        await sql.end()
        await server.stop()
        process.exit(code)
      })
      setInterval(() => {}, 1000)
      ready()`)
    await url
    interrupt('SIGINT')
    expect(await ended).toEqual([5, null])
    expect(await servers()).toEqual([])
  })
})

describe('the server of DATABASE_URL', () => {
  afterEach(() => vi.unstubAllEnvs())

  it('is named by host and port alone when it cannot be reached', async () => {
    const port = await closedPort()
    vi.stubEnv('DATABASE_URL', `postgres://joe:secret@127.0.0.1:${port}/shop`)
    const failure = await startPostgres().catch(String)
    expect(failure).toContain(`127.0.0.1:${port} (ECONNREFUSED)`)
    expect(failure).not.toMatch(/joe|secret|shop/)
  })

  it('is not quoted when it is no URL', async () => {
    vi.stubEnv('DATABASE_URL', 'joe secret')
    await expect(startPostgres()).rejects.toThrow(/^DATABASE_URL is not a PostgreSQL URL such as [^ ]+$/)
  })

  async function closedPort(): Promise<number> {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    server.close()
    await once(server, 'close')
    return port
  }
})
