/** PgBouncer in transaction mode in front of a database. It has to be installed: see `npm run test:pgbouncer` in .ci/run. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { onTestFinished } from 'vitest'

/** Ended with the test. @returns The database's URL through the pooler. */
export async function startPgBouncer(databaseUrl: string): Promise<string> {
  const url = new URL(databaseUrl)
  const port = await freePort()
  const folder = mkdtempSync(path.join(tmpdir(), 'apalis-drizzle-pgbouncer-'))
  const file = path.join(folder, 'pgbouncer.ini')
  const name = url.pathname.slice(1)
  const login = `user=${url.username}${url.password === '' ? '' : ` password=${decodeURIComponent(url.password)}`}`
  writeFileSync(
    file,
    `[databases]
${name} = host=${url.hostname} port=${url.port || '5432'} ${login}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
`,
  )
  // It refuses to run as root.
  const user = process.getuid?.() === 0 ? { uid: idOf('-u'), gid: idOf('-g') } : {}
  if (user.uid !== undefined) for (const one of [folder, file]) chownSync(one, user.uid, user.gid)
  const env = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin` }
  const bouncer = spawn('pgbouncer', [file], { ...user, env, cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] })
  onTestFinished(async () => {
    if (bouncer.exitCode === null && bouncer.kill('SIGQUIT')) await once(bouncer, 'exit')
    rmSync(folder, { recursive: true, force: true })
  })
  await new Promise<void>((resolve, reject) => {
    let log = ''
    bouncer.stderr.setEncoding('utf8').on('data', (text: string) => {
      log += text
      if (log.includes('process up')) resolve()
    })
    bouncer.on('error', reject)
    bouncer.on('exit', () => reject(new Error(`PgBouncer ended while starting.\n${log}`)))
  })
  url.hostname = '127.0.0.1'
  url.port = String(port)
  url.password = ''
  return url.href
}

function idOf(flag: '-u' | '-g'): number {
  return Number(execFileSync('id', [flag, 'nobody'], { encoding: 'utf8' }))
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as AddressInfo
  probe.close()
  await once(probe, 'close')
  return port
}
