/**
 * Shows setup on tables in use: with transactions of other sessions in its way it neither waits for ever nor stops enqueues,
 * and what an interrupted run left behind is finished by the next one.
 */
import { performance } from 'node:perf_hooks'
import { beforeEach, describe, expect, it } from 'vitest'
import { bringUpToDate, setup } from '../src/processes/setup.js'
import { verifySchema } from '../src/processes/verify-schema.js'
import { MigrationError } from '../src/vocabulary/errors.js'
import { useDatabase } from './support/database.js'
import { clear, fingerprint, load } from './support/fixtures.js'
import { hold, waitingFor } from './support/held.js'
import { until } from './support/until.js'

const database = useDatabase({ migrated: false })
beforeEach(async () => {
  await clear(database.sql)
  await setup(database.db)
  await database.sql`insert into apalis.jobs (job, id, job_type) select '', 'id-' || n, 'q' from generate_series(1, 100) n`
})

const UNCOMMITTED_TASK = `insert into apalis.jobs (job, id, job_type) values ('', 'uncommitted', 'q')`
const migrate = (patienceMs: number, rustInterop = false) => bringUpToDate(database.db, { rustInterop, patienceMs })
const failure = (setting: Promise<unknown>) => setting.then(() => undefined).catch((error: unknown) => error)

/** Enqueues one task after the other until `done`, and tells how long the slowest took, in milliseconds. */
async function slowestEnqueue(done: Promise<unknown>): Promise<{ count: number; slowestMs: number }> {
  let going = true
  void done.finally(() => (going = false))
  let count = 0
  let slowestMs = 0
  while (going) {
    const start = performance.now()
    await database.sql`insert into apalis.jobs (job, id, job_type) values ('', ${`live-${String(count)}`}, 'q')`
    slowestMs = Math.max(slowestMs, performance.now() - start)
    count += 1
  }
  return { count, slowestMs }
}

describe('work that needs a lock on jobs, while a transaction holds one', () => {
  // CREATE TRIGGER conflicts with every writer.
  beforeEach(() => database.sql`drop trigger notify_workers on apalis.jobs`)

  it('waits, lets enqueues pass, and succeeds when the transaction ends', async () => {
    const held = await hold(database.sql, UNCOMMITTED_TASK)
    const setting = migrate(20_000)
    const enqueues = slowestEnqueue(setting)
    await waitingFor(database.sql, held)
    await until(async () => (await waiting(held.pid)) === 0, 'setup lets the others pass')
    await waitingFor(database.sql, held)
    await held.release()
    expect(await setting).toEqual(['0002_notify_new_jobs'])
    await verifySchema(database.db)
    const { count, slowestMs } = await enqueues
    expect(count).toBeGreaterThan(10)
    expect(slowestMs).toBeLessThan(2_500)
  })

  it('gives up in time, and names the session', async () => {
    const held = await hold(database.sql, `set local application_name = 'long report'`, UNCOMMITTED_TASK)
    const before = await fingerprint(database.sql)
    const setting = failure(migrate(1_500))
    const { slowestMs } = await slowestEnqueue(setting)
    const error = await setting
    expect(error).toMatchObject({ code: 'MIGRATION', migration: '0002_notify_new_jobs', sqlState: '55P03' })
    expect((error as Error).message).toMatch(
      new RegExp(
        `session ${held.pid} \\("long report", idle in transaction for \\d+ s\\).*pg_terminate_backend.*run setup again`,
      ),
    )
    expect(slowestMs).toBeLessThan(2_500)
    expect(await fingerprint(database.sql)).toEqual(before)
    await held.release()
    await setup(database.db)
  })

  it('of several setups one at a time gets into the way of enqueues, and all end', async () => {
    const held = await hold(database.sql, UNCOMMITTED_TASK)
    const settings = Promise.all([1, 2, 3].map(() => failure(migrate(3_000))))
    const enqueues = slowestEnqueue(settings)
    await waitingFor(database.sql, held)
    const most = await mostWaitingFor(held.pid, settings)
    expect(await settings).toEqual([expect.any(MigrationError), expect.any(MigrationError), expect.any(MigrationError)])
    expect(most).toBe(1)
    expect((await enqueues).slowestMs).toBeLessThan(2_500)
    await held.release()
  })

  it('of several setups all succeed once the transaction ends', async () => {
    const held = await hold(database.sql, UNCOMMITTED_TASK)
    const settings = Promise.all([1, 2, 3].map(() => migrate(20_000)))
    await waitingFor(database.sql, held)
    await held.release()
    const applied = await settings
    expect(applied.flat()).toEqual(['0002_notify_new_jobs'])
    await verifySchema(database.db)
  })
})

describe('an index of a table in use', () => {
  beforeEach(() => database.sql`drop index apalis.jobs_failed_idx`)

  it('is built without holding up enqueues, even while it waits for a transaction', async () => {
    const held = await hold(database.sql, UNCOMMITTED_TASK)
    const setting = migrate(20_000)
    const enqueues = slowestEnqueue(setting)
    await waitingFor(database.sql, held)
    const passed = await Promise.all(
      [1, 2, 3].map(
        (n) =>
          database.sql`insert into apalis.jobs (job, id, job_type) values ('', ${`meanwhile-${n}`}, 'q') returning id`,
      ),
    )
    expect(passed).toHaveLength(3)
    expect(await waiting(held.pid)).toBe(1)
    await held.release()
    expect(await setting).toEqual(['index jobs_failed_idx'])
    await verifySchema(database.db)
    expect((await enqueues).slowestMs).toBeLessThan(1_000)
  })

  it.each([
    { name: 'a writer of jobs', statements: [UNCOMMITTED_TASK] },
    { name: 'an old snapshot', statements: ['set transaction isolation level repeatable read', 'select 1'] },
  ])('is given up in time behind $name, and finished by the next setup', async ({ statements }) => {
    const held = await hold(database.sql, ...statements)
    const error = await failure(migrate(1_000))
    expect(error).toMatchObject({ code: 'MIGRATION', migration: 'index jobs_failed_idx', sqlState: '55P03' })
    expect((error as Error).message).toContain(`session ${held.pid} (`)
    await expect(verifySchema(database.db)).rejects.toMatchObject({
      differences: ['index jobs_failed_idx is invalid: its build is under way or was interrupted'],
    })
    await held.release()
    expect(await migrate(20_000)).toEqual(['index jobs_failed_idx'])
    await verifySchema(database.db)
  })

  it('is built once, however many setups find it missing', async () => {
    const held = await hold(database.sql, UNCOMMITTED_TASK)
    const settings = Promise.all([1, 2, 3, 4].map(() => migrate(20_000)))
    await waitingFor(database.sql, held)
    const [row] = await database.sql`select oid from pg_class where relname = 'jobs_failed_idx'`
    await held.release()
    expect((await settings).flat()).toEqual(['index jobs_failed_idx'])
    expect(await database.sql`select oid from pg_class where relname = 'jobs_failed_idx'`).toEqual([row])
  })

  it('is waited for by other setups as long as its build is under way, however impatient they are', async () => {
    const held = await hold(database.sql, UNCOMMITTED_TASK)
    const building = migrate(20_000)
    await waitingFor(database.sql, held)
    let ended = false
    const other = migrate(100).finally(() => (ended = true))
    const asked = new Set<string>()
    await until(async () => {
      for (const { start } of await lastStatementsOfWaitingSetups()) asked.add(start)
      return asked.size >= 5
    }, 'the other setup has asked several times')
    expect(ended).toBe(false)
    await held.release()
    expect([await building, await other]).toEqual([['index jobs_failed_idx'], []])
  })

  it('of rustInterop on adopted tables is built beside enqueues too', async () => {
    await clear(database.sql)
    await load(database.sql, 'rust-g8')
    await database.sql`drop index apalis.jobs_run_at_idx`
    const held = await hold(database.sql, UNCOMMITTED_TASK)
    const setting = migrate(20_000, true)
    await waitingFor(database.sql, held)
    await database.sql`insert into apalis.jobs (job, id, job_type) values ('', 'meanwhile', 'q')`
    expect(await waiting(held.pid)).toBe(1)
    await held.release()
    expect(await setting).toEqual([
      '0002_notify_new_jobs',
      '0004_autovacuum',
      '0005_paused_queues',
      'index jobs_failed_idx',
      'index jobs_run_at_idx',
    ])
    await verifySchema(database.db)
  })
})

describe('a check of a table in use', () => {
  beforeEach(() => database.sql`alter table apalis.jobs drop constraint jobs_priority_check`)

  it('is added and validated', async () => {
    expect(await migrate(20_000)).toEqual(['constraint jobs_priority_check'])
    const [row] = await database.sql`select convalidated from pg_constraint where conname = 'jobs_priority_check'`
    expect(row).toEqual({ convalidated: true })
  })

  it('holds for new rows although an old one violates it, and setup says so until that is mended', async () => {
    await database.sql`update apalis.jobs set priority = -1 where id = 'id-1'`
    const error = await failure(setup(database.db))
    expect(error).toMatchObject({ code: 'MIGRATION', migration: 'constraint jobs_priority_check', sqlState: '23514' })
    await expect(database.sql`update apalis.jobs set priority = -1 where id = 'id-2'`).rejects.toMatchObject({
      code: '23514',
    })
    await expect(verifySchema(database.db)).rejects.toThrow(
      'constraint jobs_priority_check of apalis.jobs is not validated',
    )
    await database.sql`update apalis.jobs set priority = 0 where id = 'id-1'`
    await setup(database.db)
    await verifySchema(database.db)
  })
})

it('does not wait for ever to read the catalog of a table that somebody has locked', async () => {
  const held = await hold(database.sql, 'lock table apalis.jobs in access exclusive mode')
  const error = await failure(migrate(100))
  expect(error).toMatchObject({ code: 'MIGRATION', sqlState: '55P03' })
  expect((error as Error).message).toContain(`session ${held.pid} (`)
  await held.release()
  await setup(database.db)
})

async function waiting(pid: number): Promise<number> {
  const [row] = await database.sql<{ count: number }[]>`
    select count(*)::int from pg_stat_activity where ${pid} = any (pg_blocking_pids(pid))`
  return row?.count ?? 0
}

/** The most sessions seen waiting for that one at the same time, until `done`. */
async function mostWaitingFor(pid: number, done: Promise<unknown>): Promise<number> {
  let going = true
  void done.finally(() => (going = false))
  let most = 0
  while (going) most = Math.max(most, await waiting(pid))
  return most
}

/** When the sessions of setups that are not building started their last statement. */
async function lastStatementsOfWaitingSetups(): Promise<{ start: string }[]> {
  return database.sql<{ start: string }[]>`
    select query_start::text as start from pg_stat_activity
    where datname = current_database() and application_name = 'apalis-drizzle setup' and state = 'idle'`
}
