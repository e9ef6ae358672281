/**
 * Shows the connections of the worker loops: made with the application's options, and with settings of their own.
 */
import { sql } from 'drizzle-orm'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import pg from 'pg'
import postgres from 'postgres'
import { describe, expect, it, onTestFinished } from 'vitest'
import { openControlClient, type ControlClient } from '../src/processes/control-client.js'
import type { PgDb } from 'apalis-drizzle'
import { useDatabase } from './support/database.js'
import { startProxy } from './support/proxy.js'
import { until } from './support/until.js'

const database = useDatabase()

async function controlClient(db: PgDb, answerMs?: number): Promise<ControlClient> {
  const control = await openControlClient(db, answerMs)
  onTestFinished(() => control.close())
  return control
}

/** Of the first column of the first row. */
async function valueOf(control: ControlClient, statement: string): Promise<unknown> {
  const answer = await control.run(async (db) => (db as unknown as PostgresJsDatabase).execute(sql.raw(statement)))
  const rows = (Array.isArray(answer) ? answer : (answer as { rows: unknown[] }).rows) as Record<string, unknown>[]
  return Object.values(rows[0]!)[0]
}

async function untilDisconnected(): Promise<void> {
  await until(async () => {
    const open = await database.sql`
      select 1 from pg_stat_activity where datname = current_database() and application_name = 'apalis-drizzle worker'`
    return open.length === 0
  }, 'no connection of the worker loops is open')
}

function postgresJs(url: string, options: postgres.Options<Record<string, postgres.PostgresType>> = {}): PgDb {
  const client = postgres(url, { max: 1, onnotice: () => undefined, ...options })
  onTestFinished(() => client.end({ timeout: 1 }))
  return drizzle({ client })
}

function nodePostgres(url: string, options: pg.PoolConfig = {}): PgDb {
  const client = new pg.Pool({ connectionString: url, max: 1, ...options })
  client.on('error', () => undefined)
  onTestFinished(() => client.end())
  return drizzlePg({ client })
}

/** What an application may have set, which must not reach the loops. */
const settings = 'application_name=shop&statement_timeout=123&lock_timeout=45'
const serializable = '-c default_transaction_isolation=serializable -c work_mem=5MB'

const drivers = [
  [
    'postgres.js',
    postgresJs,
    (url: string) =>
      postgresJs(`${url}?${settings}`, {
        connection: { default_transaction_isolation: 'serializable', work_mem: '5MB' },
      }),
  ],
  ['node-postgres', nodePostgres, (url: string) => nodePostgres(url, { options: serializable })],
  [
    'node-postgres with a connection string that sets everything',
    nodePostgres,
    (url: string) => nodePostgres(`${url}?${settings}&options=${encodeURIComponent(serializable)}`),
  ],
] as const

describe.each(drivers)('the control client of %s', (_driver, connect, withSettings) => {
  it.each([
    ['application_name', 'apalis-drizzle worker'],
    ['statement_timeout', '15s'],
    ['lock_timeout', '2s'],
    ['idle_in_transaction_session_timeout', '30s'],
    ['transaction_isolation', 'read committed'],
    ['work_mem', '5MB'],
  ])('has %s = %s', async (name, value) => {
    const control = await controlClient(withSettings(database.url))
    expect(await valueOf(control, `show ${name}`)).toBe(value)
  })

  it('logs in as the application does', async () => {
    const name = `worker_${Math.random().toString(36).slice(2)}`
    await database.sql.unsafe(`create role ${name} login password 'pass:word/@'`)
    onTestFinished(async () => {
      await database.sql.unsafe(`drop role ${name}`)
    })
    const url = new URL(database.url)
    url.username = name
    url.password = 'pass:word/@'
    const control = await controlClient(connect(url.href))
    expect(await valueOf(control, 'select current_user')).toBe(name)
    await control.close()
  })

  it('uses TLS as the application does', async () => {
    const db = connect(database.url, { ssl: { rejectUnauthorized: false } })
    const statement = 'select ssl from pg_stat_ssl where pid = pg_backend_pid()'
    const encrypted = (answer: Promise<unknown>) => answer.catch(() => 'refused, because the server has no TLS')
    const own = encrypted(valueOf(await controlClient(db), statement))
    const application: ControlClient = { run: (ask) => ask(db as never), close: () => Promise.resolve() }
    const asked = await encrypted(valueOf(application, statement))
    expect(asked).not.toBe(false)
    expect(await own).toBe(asked)
  })

  it('has few connections however many use it, and closes them with the last', async () => {
    const db = connect(database.url)
    const controls = await Promise.all([1, 2, 3, 4].map(() => controlClient(db)))
    const asked = controls.flatMap((control) =>
      [1, 2].map(() => valueOf(control, 'select pg_backend_pid() from pg_sleep(0.01)')),
    )
    expect(new Set(await Promise.all(asked)).size).toBeLessThanOrEqual(3)
    const [last, ...others] = controls
    for (const control of others) {
      await control.close()
      await control.close()
    }
    expect(await valueOf(last!, 'select 1')).toBe(1)
    await last!.close()
    await untilDisconnected()
  })

  it('is a new one after the last was closed', async () => {
    const db = connect(database.url)
    await (await controlClient(db)).close()
    expect(await valueOf(await controlClient(db), 'select 1')).toBe(1)
  })

  it('gives up a statement whose answer does not come, and goes on with new connections', async () => {
    const proxy = await startProxy(database.url)
    onTestFinished(() => proxy.stop())
    const control = await controlClient(connect(proxy.url), 200)
    expect(await valueOf(control, 'select 1')).toBe(1)
    proxy.swallow()
    await expect(valueOf(control, 'select 2')).rejects.toThrow(/no answer within 200 ms|timeout/)
    proxy.restore()
    await expect.poll(() => valueOf(control, 'select 3').catch(() => 'not yet'), { timeout: 15_000 }).toBe(3)
  })
})

describe.each(drivers)('closed while a statement gets no answer, with %s', (_driver, connect) => {
  it('rejects it at its deadline, opens nothing new and ends once', async () => {
    const proxy = await startProxy(database.url)
    onTestFinished(() => proxy.stop())
    const control = await controlClient(connect(proxy.url), 500)
    const unanswered = expect(valueOf(control, 'select 1 as unanswered from pg_sleep(60)')).rejects.toThrow()
    await until(async () => {
      const active = await database.sql`select 1 from pg_stat_activity where query like 'select 1 as unanswered%'`
      return active.length === 1
    }, 'the statement is under way')
    proxy.swallow()
    const { turns } = proxy
    await control.close()
    await unanswered
    expect(proxy.turns).toBe(turns)
    await database.sql`select pg_terminate_backend(pid) from pg_stat_activity where query like 'select 1 as unanswered%'`
  })
})

describe('the control client', () => {
  it('leaves nothing behind when the database cannot be reached', async () => {
    const control = await controlClient(postgresJs('postgres://postgres@127.0.0.1:1/none'))
    await expect(valueOf(control, 'select 1')).rejects.toMatchObject({ cause: { code: 'ECONNREFUSED' } })
    await control.close()
  })

  it('takes an answer that arrived in time although the process was too busy to read it', async () => {
    const control = await controlClient(database.db, 50)
    expect(await valueOf(control, 'select 1')).toBe(1)
    const answer = valueOf(control, 'select pg_backend_pid() from pg_sleep(0.02)')
    await new Promise((resolve) => setTimeout(resolve, 5))
    const until = Date.now() + 200
    while (Date.now() < until);
    expect(await answer).toEqual(expect.any(Number))
  })
})
