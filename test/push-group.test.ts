/**
 * Shows how concurrent pushes outside a transaction share statements, that each still gets its own outcome, whatever
 * happens to its neighbours or to the connection, and that none waits for ever.
 */
import { drizzle as drizzleNodePostgres } from 'drizzle-orm/node-postgres'
import { drizzle } from 'drizzle-orm/postgres-js'
import pg from 'pg'
import postgres from 'postgres'
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  defineQueue,
  isApalisError,
  PostgresStorage,
  pushTasksWithTx,
  type IdempotencyConflictError,
  type Task,
  type TaskOptions,
} from '../src/index.js'
import { PushGroup } from '../src/processes/push-group.js'
import type { Db, PgDb } from '../src/vocabulary/db.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { hold, waitingFor } from './support/held.js'
import { startProxy, type PostgresProxy } from './support/proxy.js'
import { clearTasks, storedIn, taskId } from './support/rows.js'
import { until } from './support/until.js'

const database = useDatabase()
const emails = defineQueue<string>('emails')
const invoices = defineQueue<string>('invoices')

/** The server counts the rows of each INSERT, and refuses or delays tasks whose metadata ask for it. */
beforeAll(() =>
  database.sql.unsafe(`
    create table inserts (position serial, rows int);
    create sequence attempts;
    create function count_insert() returns trigger language plpgsql as $$
      begin insert into inserts (rows) select count(*) from added; return null; end $$;
    create trigger count_insert after insert on apalis.jobs referencing new table as added
      for each statement execute function count_insert();
    create function obey_metadata() returns trigger language plpgsql as $$
      begin
        if new.metadata ? 'refuse' then raise exception 'refused by the application'; end if;
        if new.metadata ? 'wait' then perform pg_advisory_xact_lock(1); end if;
        if new.metadata ? 'conflicts' and nextval('attempts') <= (new.metadata ->> 'conflicts')::int then
          raise exception 'try again' using errcode = '40001';
        end if;
        return new;
      end $$;
    create trigger obey_metadata before insert on apalis.jobs for each row execute function obey_metadata();
    alter table apalis.jobs add constraint no_check check (not metadata ? 'check')`),
)

beforeEach(async () => {
  await clearTasks(database.sql)
  await database.sql.unsafe(`truncate inserts; alter sequence attempts restart`)
})

const storage = (db: PgDb = database.db) => new PostgresStorage(db, emails)
const times = <T>(count: number, make: (n: number) => T) => Array.from({ length: count }, (_, n) => make(n))

async function rowsOfInserts(): Promise<number[]> {
  const inserts = await database.sql<{ rows: number }[]>`select rows from inserts where rows > 0 order by position`
  return inserts.map(({ rows }) => rows)
}

async function attempts(): Promise<number> {
  const [row] = await database.sql<{ last_value: string }[]>`select last_value from attempts`
  return Number(row?.last_value)
}

describe('concurrent pushes', () => {
  it('share the next statement while one is under way, of all queues', async () => {
    const other = new PostgresStorage(database.db, invoices)
    const pushed = times(50, (n) => [storage().push(`${n}`), other.pushTask(invoices.task(`${n}`))]).flat()
    const ids = await Promise.all(pushed)
    expect(await rowsOfInserts()).toEqual([1, 99])
    const stored = [...(await storedIn(database.sql, 'emails')), ...(await storedIn(database.sql, 'invoices'))]
    expect(stored.sort()).toEqual([...ids].sort())
  })

  it('share it up to 500 tasks', async () => {
    await Promise.all(times(1_101, (n) => storage().push(`${n}`)))
    expect(await rowsOfInserts()).toEqual([1, 500, 500, 100])
  })

  it('share it up to 4 MiB', async () => {
    const payload = 'x'.repeat(600_000)
    await Promise.all(times(5, () => storage().push(payload)))
    const rows = await rowsOfInserts()
    expect(rows.reduce((sum, count) => sum + count)).toBe(5)
    expect(Math.max(...rows)).toBe(3)
  })

  it('do not share it when they have a key or a chosen id', async () => {
    await Promise.all([
      storage().push('first'),
      storage().push('a', { idempotencyKey: 'a' }),
      storage().push('b', { idempotencyKey: 'b' }),
      storage().push('c', { id: taskId(1) }),
      storage().pushTasks([emails.task('d'), emails.task('e')]),
      storage().push('f'),
      storage().push('g'),
      storage().push('h'),
    ])
    expect((await rowsOfInserts()).sort()).toEqual([1, 1, 1, 1, 2, 3])
  })
})

describe('a task that the server refuses', () => {
  it.each([
    ['a check constraint', { check: true }, '23514'],
    ['a trigger', { refuse: true }, 'P0001'],
  ])('by %s does not fail its neighbours', async (_, metadata, sqlState) => {
    const bad = new Set([3, 17, 18])
    const pushed = times(40, (n) => storage().push(`${n}`, bad.has(n) ? { metadata } : undefined))
    const outcomes = await Promise.allSettled(pushed)
    for (const [n, outcome] of outcomes.entries()) {
      if (bad.has(n)) expect(outcome).toMatchObject({ reason: { code: 'DATABASE', sqlState } })
      else expect(outcome).toMatchObject({ status: 'fulfilled' })
    }
    const ids = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
    expect((await storedIn(database.sql, 'emails')).sort()).toEqual(ids.sort())
  })

  it('fails alone when it has no neighbours, and with its batch', async () => {
    const options = { metadata: { check: true } }
    expect(await caught(storage().push('a', options))).toMatchObject({ sqlState: '23514' })
    expect(await caught(storage().pushTasks([emails.task('a'), emails.task('b', options)]))).toMatchObject({
      sqlState: '23514',
    })
    expect(await storedIn(database.sql, 'emails')).toEqual([])
  })
})

describe('an error that may pass', () => {
  it.each([
    ['one task', (options: TaskOptions) => storage().push('a', options)],
    ['a batch', (options: TaskOptions) => storage().pushTasks([emails.task('a', options)])],
  ])('is tried once more: %s', async (_, push) => {
    await push({ metadata: { conflicts: 1 } })
    expect(await storedIn(database.sql, 'emails')).toHaveLength(1)

    expect(await caught(push({ metadata: { conflicts: 100 } }))).toMatchObject({ code: 'DATABASE', sqlState: '40001' })
    expect(await attempts()).toBe(4)
  })
})

describe('a key that another session has not committed', () => {
  it('fails its push after two lock timeouts, and unrelated pushes do not wait', async () => {
    const key = `insert into apalis.jobs (job, id, job_type, idempotency_key) values ('', '${taskId(1)}', 'emails', 'held')`
    const held = await hold(database.sql, key)
    const startedAt = performance.now()
    const keyed = [
      caught(storage().push('a', { idempotencyKey: 'held' })),
      caught(storage().pushTasks(['free', 'held'].map((idempotencyKey) => emails.task('a', { idempotencyKey })))),
    ]
    await waitingFor(database.sql, held, 2)
    await Promise.all([storage().push('b'), storage().push('c'), storage().push('d', { idempotencyKey: 'other' })])
    await waitingFor(database.sql, held, 2)

    for (const error of await Promise.all(keyed)) expect(error).toMatchObject({ code: 'DATABASE', sqlState: '55P03' })
    const ms = performance.now() - startedAt
    expect(ms).toBeGreaterThan(3_900)
    expect(ms).toBeLessThan(8_000)
    await held.release()
    expect(await storedIn(database.sql, 'emails')).toHaveLength(3)
  })

  it('is a conflict when that session commits in time', async () => {
    const held = await hold(database.sql)
    await held.session`insert into apalis.jobs (job, id, job_type, idempotency_key) values ('', ${taskId(1)}, 'emails', 'held')`
    const pushes = [
      caught(storage().push('a', { idempotencyKey: 'held' })),
      caught(storage().pushTasks(['free', 'held'].map((idempotencyKey) => emails.task('a', { idempotencyKey })))),
    ]
    await waitingFor(database.sql, held, 2)
    await held.session`commit`
    const [one, many] = await Promise.all(pushes)
    expect(one).toMatchObject({ code: 'IDEMPOTENCY_CONFLICT', conflictingKeys: ['held'], total: 1 })
    expect(many).toMatchObject({ code: 'IDEMPOTENCY_CONFLICT', conflictingKeys: ['held'], total: 2 })
    expect(await storedIn(database.sql, 'emails')).toEqual([taskId(1)])
    await held.release()
  })
})

describe('batches with the same keys in opposite order', () => {
  const batch = (...keys: string[]) =>
    keys.map((key) => emails.task(key, { idempotencyKey: key, metadata: key.startsWith('m') ? { wait: true } : {} }))

  it.each([
    ['outside a transaction', (tasks: Task<string>[]) => storage().pushTasks(tasks)],
    ['in transactions', (tasks: Task<string>[]) => database.db.transaction((tx) => pushTasksWithTx(tx, tasks))],
  ])('do not deadlock: %s', async (_, push) => {
    const held = await hold(database.sql, 'select pg_advisory_xact_lock(1)')
    const pushed = Promise.allSettled([push(batch('a', 'm1', 'z')), push(batch('z', 'm2', 'a'))])
    // In the order of the tasks each would have its first key by now, and wait for the other's after the release.
    await until(async () => {
      const waiting = await database.sql`
        select from pg_stat_activity where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0`
      return waiting.length === 2
    }, 'both batches wait')
    await held.release()
    const outcomes = await pushed
    const refused = outcomes.filter((outcome) => outcome.status === 'rejected')
    expect(refused).toMatchObject([{ reason: { code: 'IDEMPOTENCY_CONFLICT', conflictingKeys: expect.any(Array) } }])
    expect((refused[0]?.reason as IdempotencyConflictError).conflictingKeys.toSorted()).toEqual(['a', 'z'])
    expect(await storedIn(database.sql, 'emails')).toHaveLength(3)
  })
})

describe('when an answer is lost', () => {
  const INSERT = 'insert into "apalis"."jobs"'
  let proxy: PostgresProxy
  let client: postgres.Sql
  let db: PgDb

  beforeEach(async () => {
    proxy = await startProxy(database.url)
    client = postgres(proxy.url, { max: 3, onnotice: () => undefined })
    db = drizzle({ client })
  })
  afterEach(async () => {
    await client.end({ timeout: 0 })
    await proxy.stop()
  })

  it('a push finds its task stored', async () => {
    const lost = proxy.loseAnswer(INSERT)
    const id = await storage(db).push('a')
    await lost
    expect(await storedIn(database.sql, 'emails')).toEqual([id])
    expect(await rowsOfInserts()).toEqual([1])
  })

  it('each push of a group finds its own', async () => {
    const lost = proxy.loseAnswer('second')
    const metadata = { text: 'second' }
    const ids = await Promise.all([storage(db).push('a'), ...times(5, () => storage(db).push('b', { metadata }))])
    await lost
    expect((await storedIn(database.sql, 'emails')).sort()).toEqual([...ids].sort())
    expect(await rowsOfInserts()).toEqual([1, 5])
  })

  it('a push with a key finds its own task, and no conflict', async () => {
    const lost = proxy.loseAnswer(INSERT)
    const id = await storage(db).push('a', { idempotencyKey: 'a' })
    await lost
    expect(await storedIn(database.sql, 'emails')).toEqual([id])
  })

  it('a batch with keys finds all of it', async () => {
    const lost = proxy.loseAnswer(INSERT)
    const ids = await storage(db).pushTasks(['b', 'a'].map((idempotencyKey) => emails.task('a', { idempotencyKey })))
    await lost
    expect((await storedIn(database.sql, 'emails')).sort()).toEqual([...ids].sort())
  })

  it('a batch of several statements finds all of it', async () => {
    const blob = 'x'.repeat(1_000_000)
    const tasks = times(5, (n) => emails.task(blob, { idempotencyKey: `${n}` }))
    const lost = proxy.loseAnswer('commit')
    const ids = await storage(db).pushTasks(tasks)
    await lost
    expect((await storedIn(database.sql, 'emails')).sort()).toEqual([...ids].sort())
  })

  it("a push whose key was somebody else's learns of the conflict", async () => {
    const first = await storage().push('a', { idempotencyKey: 'taken' })
    const lost = proxy.loseAnswer(INSERT)
    expect(await caught(storage(db).push('b', { idempotencyKey: 'taken' }))).toMatchObject({
      code: 'IDEMPOTENCY_CONFLICT',
      conflictingKeys: ['taken'],
    })
    await lost
    expect(await storedIn(database.sql, 'emails')).toEqual([first])
  })

  it('a push that the server refused learns of it', async () => {
    const lost = proxy.loseAnswer(INSERT)
    expect(await caught(storage(db).push('a', { metadata: { check: true } }))).toMatchObject({ sqlState: '23514' })
    await lost
  })

  it('of a statement that still runs, its task is stored once', async () => {
    const held = await hold(database.sql, 'select pg_advisory_xact_lock(1)')
    const options = { metadata: { wait: true } }
    const pushed = Promise.all([
      storage(db).push('a', options),
      storage(db).push('b', { ...options, idempotencyKey: 'b' }),
    ])
    await waitingFor(database.sql, held, 2)
    proxy.cut()
    // The first attempts go on without a client; the second ones wait for the same lock.
    await waitingFor(database.sql, held, 4)
    await held.release()
    const ids = await pushed
    expect((await storedIn(database.sql, 'emails')).sort()).toEqual([...ids].sort())
  })

  it('a push with a chosen id is not repeated, because the task that is found may be another', async () => {
    const lost = proxy.loseAnswer(INSERT)
    const error = await caught(storage(db).push('a', { id: taskId(1) }))
    await lost
    expect(error).toMatchObject({ code: 'OUTCOME_UNKNOWN', taskId: taskId(1), taskIds: [taskId(1)] })
    expect(await rowsOfInserts()).toEqual([1])
  })

  it('for good, each promise gets its own id', async () => {
    const losses = [proxy.loseAnswer('shared'), proxy.loseAnswer('shared')]
    const shared = { metadata: { text: 'shared' } }
    const first = storage(db).push('a')
    const pushed = [
      ...times(2, () => caught(storage(db).push('b', shared))),
      caught(storage(db).pushTasks([emails.task('c', shared), emails.task('d', shared)])),
    ]
    await Promise.all(losses)
    await proxy.stop()
    const errors = await Promise.all(pushed)
    const ids = errors.map((error) => (isApalisError(error, 'OUTCOME_UNKNOWN') ? error.taskIds : error))
    expect(ids).toEqual([[expect.any(String)], [expect.any(String)], [expect.any(String), expect.any(String)]])
    expect([await first, ...ids.flat()].sort()).toEqual((await storedIn(database.sql, 'emails')).sort())
    proxy = await startProxy(database.url)
  })
})

describe('a push that gets no connection', () => {
  const DEADLINE_MS = 300
  let client: postgres.Sql
  let db: PgDb

  beforeEach(() => {
    const connection = database.connect({ max: 1 })
    client = connection.client
    db = connection.db
  })
  afterEach(() => client.end({ timeout: 1 }))

  const group = () => new PushGroup(db as Db, DEADLINE_MS)
  /** In a transaction that holds the only connection of the pool. */
  const onExhaustedPool = <T>(run: () => Promise<T>) => (db as typeof database.db).transaction(() => run())

  it.each([
    ['without a key', (pushes: PushGroup) => pushes.pushTask(emails.task('a'))],
    ['with a key', (pushes: PushGroup) => pushes.pushTask(emails.task('a', { idempotencyKey: 'a' }))],
    ['of a batch', (pushes: PushGroup) => pushes.pushTasks([emails.task('a')])],
  ])('%s ends with an error that names pushWithTx, and may be stored later', async (_, push) => {
    const error = await onExhaustedPool(() => caught(push(group())))
    expect(error).toMatchObject({ code: 'OUTCOME_UNKNOWN', taskId: expect.any(String) })
    expect((error as Error).message).toMatch(/within 300 ms, and the statement may still be executed.*pushWithTx/)
    // The driver had it in its queue.
    await until(
      async () => (await storedIn(database.sql, 'emails')).length === 1,
      'the abandoned statement is executed',
    )
  })

  it('is not stored later if it was not sent', async () => {
    const pushes = group()
    const errors = await onExhaustedPool(() =>
      Promise.all(times(3, (n) => caught(pushes.pushTask(emails.task(`${n}`))))),
    )
    expect(errors.map((error) => (error as { code: string }).code)).toEqual(['OUTCOME_UNKNOWN', 'POOL', 'POOL'])
    expect((errors[1] as Error).message).toMatch(/nothing was stored.*pushWithTx/)

    const after = await pushes.pushTask(emails.task('after'))
    const unknown = (errors[0] as { taskId: string }).taskId
    expect((await storedIn(database.sql, 'emails')).sort()).toEqual([unknown, after].sort())
  })

  it('gives up after 30 seconds', async () => {
    await client`select 1`
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    try {
      const error = await onExhaustedPool(async () => {
        let waits = true
        const push = caught(storage(db).push('a')).finally(() => (waits = false))
        await vi.advanceTimersByTimeAsync(29_000)
        expect(waits).toBe(true)
        await vi.advanceTimersByTimeAsync(2_000)
        return push
      })
      expect(error).toMatchObject({ code: 'OUTCOME_UNKNOWN' })
      expect((error as Error).message).toMatch(/30000 ms.*pushWithTx/)
    } finally {
      vi.useRealTimers()
    }
  })

  it('gives up with the pool of node-postgres, if that has a limit', async () => {
    const pool = new pg.Pool({ connectionString: database.url, max: 1, connectionTimeoutMillis: 100 })
    const nodePostgres = drizzleNodePostgres({ client: pool })
    const errors = await nodePostgres.transaction(() =>
      Promise.all([
        caught(storage(nodePostgres).push('a')),
        caught(storage(nodePostgres).push('a', { idempotencyKey: 'a' })),
      ]),
    )
    for (const error of errors) {
      expect(error).toMatchObject({ code: 'POOL', operation: 'pushing tasks' })
      expect((error as Error).message).toContain('pushWithTx')
    }
    await pool.end()
    expect(await caught(storage(nodePostgres).push('a'))).toMatchObject({ code: 'DATABASE' })
    expect(await storedIn(database.sql, 'emails')).toEqual([])
  })
})

describe('a statement that takes long', () => {
  it('does not hold up the next group', async () => {
    const held = await hold(database.sql, 'select pg_advisory_xact_lock(1)')
    const slow = storage().push('slow', { metadata: { wait: true } })
    await waitingFor(database.sql, held)
    await Promise.all(times(3, (n) => storage().push(`${n}`)))
    await waitingFor(database.sql, held)
    await held.release()
    await slow
    expect(await rowsOfInserts()).toEqual([3, 1])
  })
})
