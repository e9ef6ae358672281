/**
 * Shows that a task pushed with a transaction exists exactly when the transaction's other writes do, what it costs, and
 * that a taken key leaves the transaction usable.
 */
import { eq, sql } from 'drizzle-orm'
import { integer, pgTable, text } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  DatabaseError,
  defineQueue,
  IdempotencyConflictError,
  InvalidArgumentError,
  PostgresStorage,
  pushTasksWithTx,
  pushTaskWithTx,
  type PgTx,
} from '../src/index.js'
import { announcements } from './support/announcements.js'
import { useDatabase } from './support/database.js'
import { hold, waitingFor } from './support/held.js'
import { startProxy, type PostgresProxy } from './support/proxy.js'
import { caught } from './support/caught.js'
import { clearTasks, rowOf, storedIn, taskId } from './support/rows.js'

const database = useDatabase()
const orders = pgTable('orders', { id: integer('id').primaryKey(), item: text('item').notNull() })
const emails = defineQueue<{ to: string }>('emails')
const invoices = defineQueue<{ order: number }>('invoices')

beforeAll(() => database.sql`create table orders (id int primary key, item text not null)`)

beforeEach(async () => {
  await clearTasks(database.sql)
  await database.sql`delete from orders`
})

const orderIds = async () => (await database.db.select().from(orders)).map(({ id }) => id).sort()
const payload = async (id: string) => Buffer.from((await rowOf(database.sql, id))?.['job'] as Buffer).toString()

describe('a task pushed in a transaction', () => {
  it('is stored with the rows of the transaction when that commits [OUTBOX-01] [OUTBOX-02] [OUTBOX-03]', async () => {
    const id = await database.db.transaction(async (tx) => {
      await tx.insert(orders).values({ id: 1, item: 'tea' })
      return pushTaskWithTx(tx, emails.task({ to: 'a' }))
    })
    expect(await storedIn(database.sql, 'emails')).toEqual([id])
    expect(await payload(id)).toBe('{"to":"a"}')
    expect(await orderIds()).toEqual([1])
  })

  it('is gone with them when it rolls back, although the push succeeded [OUTBOX-04] [OUTBOX-05] [OUTBOX-06]', async () => {
    const stockCheck = new Error('out of stock')
    let pushed: string | undefined
    const outcome = database.db.transaction(async (tx) => {
      await tx.insert(orders).values({ id: 1, item: 'tea' })
      pushed = await pushTaskWithTx(tx, emails.task({ to: 'a' }))
      throw stockCheck
    })
    await expect(outcome).rejects.toBe(stockCheck)
    expect(pushed).toMatch(/^[0-9A-Z]{26}$/)
    expect(await storedIn(database.sql, 'emails')).toEqual([])
    expect(await orderIds()).toEqual([])
  })

  it('is announced once at the commit, and after a rollback not at all', async () => {
    let id: string | undefined
    const announced = await announcements(database.sql, async () => {
      await database.db
        .transaction(async (tx) => {
          await pushTaskWithTx(tx, emails.task({ to: 'never' }))
          tx.rollback()
        })
        .catch(() => undefined)
      await database.db.transaction(async (tx) => {
        id = await pushTaskWithTx(tx, emails.task({ to: 'a' }))
      })
    })
    expect(announced.map((text) => JSON.parse(text) as unknown)).toEqual([{ job_type: 'emails', ids: [id] }])
  })

  it('takes what its options say [OUTBOX-07] [OUTBOX-08] [OUTBOX-09] [OUTBOX-10] [OUTBOX-11] [OUTBOX-12]', async () => {
    const runAt = new Date(Date.now() + 3_600_000)
    const options = { id: taskId(1), priority: 5, maxAttempts: 9, runAt, idempotencyKey: 'order-1' }
    const metadata = { trace: 'abc', tags: ['x', { snake_case: null }] }
    const id = await database.db.transaction((tx) =>
      pushTaskWithTx(tx, emails.task({ to: 'a' }, { ...options, metadata })),
    )
    expect(id).toBe(taskId(1))
    expect(await rowOf(database.sql, id)).toMatchObject({
      status: 'Pending',
      attempts: 0,
      priority: 5,
      max_attempts: 9,
      run_at: runAt,
      metadata,
      idempotency_key: 'order-1',
      lock_by: null,
      lock_at: null,
      done_at: null,
      last_result: null,
    })
  })

  it('is due now, or after delayMs, by the clock of the database', async () => {
    const [now, later] = await database.db.transaction(async (tx) => {
      const ids = await pushTasksWithTx(tx, [emails.task({ to: 'a' }), emails.task({ to: 'b' }, { delayMs: 90_000.5 })])
      const rows = await tx.execute<{ id: string; delay: number }>(
        sql`select id, extract(epoch from run_at - now())::float8 as delay from apalis.jobs`,
      )
      return ids.map((id) => rows.find((row) => row.id === id)?.delay)
    })
    expect(now).toBe(0)
    expect(later).toBeCloseTo(90.0005, 4)
  })

  it('belongs to a nested transaction and shares its end', async () => {
    const [kept] = await database.db.transaction(async (tx) => {
      const id = await pushTaskWithTx(tx, emails.task({ to: 'outer' }))
      await tx
        .transaction(async (nested) => {
          await pushTaskWithTx(nested, emails.task({ to: 'undone' }))
          nested.rollback()
        })
        .catch(() => undefined)
      return [id, await tx.transaction((nested) => pushTaskWithTx(nested, emails.task({ to: 'inner' })))]
    })
    expect(await storedIn(database.sql, 'emails')).toHaveLength(2)
    expect(await storedIn(database.sql, 'emails')).toContain(kept)
  })

  it('can be pushed through a storage too, if it is of its queue', async () => {
    const storage = new PostgresStorage(database.db, emails)
    const ids = await database.db.transaction(async (tx) => {
      const foreign = invoices.task({ order: 1 }) as never
      await expect(storage.pushTaskWithTx(tx, foreign)).rejects.toThrow(InvalidArgumentError)
      return [
        await storage.pushWithTx(tx, { to: 'a' }, { priority: 3 }),
        await storage.pushTaskWithTx(tx, emails.task({ to: 'b' })),
      ]
    })
    expect((await storedIn(database.sql, 'emails')).sort()).toEqual(ids)
    expect(await rowOf(database.sql, ids[0] as string)).toMatchObject({ priority: 3 })
  })

  it('needs a transaction, whatever the types said', async () => {
    const db = database.db as unknown as PgTx
    await expect(pushTaskWithTx(db, emails.task({ to: 'a' }))).rejects.toThrow(/needs the transaction.*storage\.push/)
    await expect(pushTasksWithTx(db, [emails.task({ to: 'a' })])).rejects.toThrow(InvalidArgumentError)
    expect(await storedIn(database.sql, 'emails')).toEqual([])
  })

  it('is refused before any SQL when it cannot be stored', async () => {
    const id = await database.db.transaction(async (tx) => {
      const tooLong = emails.task({ to: 'a' }, { idempotencyKey: 'x'.repeat(1025) })
      await expect(pushTaskWithTx(tx, tooLong)).rejects.toThrow(InvalidArgumentError)
      await expect(pushTasksWithTx(tx, [emails.task({ to: 'a' }), tooLong])).rejects.toThrow(InvalidArgumentError)
      return pushTaskWithTx(tx, emails.task({ to: 'b' }))
    })
    expect(await storedIn(database.sql, 'emails')).toEqual([id])
  })
})

describe('a batch pushed in a transaction', () => {
  it('returns the ids in the order of the tasks, of mixed queues, with and without keys [NEXT-44]', async () => {
    const ids = await database.db.transaction((tx) =>
      pushTasksWithTx(tx, [
        invoices.task({ order: 1 }, { idempotencyKey: 'z' }),
        emails.task({ to: 'b' }),
        invoices.task({ order: 2 }, { idempotencyKey: 'a' }),
        emails.task({ to: 'c' }, { id: taskId(7), idempotencyKey: 'a' }),
      ]),
    )
    expect(ids[3]).toBe(taskId(7))
    expect(await Promise.all(ids.map(payload))).toEqual(['{"order":1}', '{"to":"b"}', '{"order":2}', '{"to":"c"}'])
    expect((await storedIn(database.sql, 'invoices')).sort()).toEqual([ids[0], ids[2]].sort())
  })

  it('rolls back with the transaction [NEXT-44]', async () => {
    const tasks = [emails.task({ to: 'a' }, { idempotencyKey: 'a' }), invoices.task({ order: 1 })]
    await database.db
      .transaction(async (tx) => {
        expect(await pushTasksWithTx(tx, tasks)).toHaveLength(2)
        tx.rollback()
      })
      .catch(() => undefined)
    expect(await database.sql`select from apalis.jobs`).toHaveLength(0)
  })

  it('may be empty, which takes no SQL', async () => {
    await database.db
      .transaction(async (tx) => {
        await tx.execute(sql`select 1 / 0`).catch(() => undefined)
        expect(await pushTasksWithTx(tx, [])).toEqual([])
      })
      .catch(() => undefined)
    expect.assertions(1)
  })

  it('takes any iterable and stores what fits no single statement', async () => {
    const blob = 'x'.repeat(1_000_000)
    const files = defineQueue<string>('files')
    function* tasks() {
      for (let n = 0; n < 5; n++) yield files.task(blob, { idempotencyKey: `file-${n}` })
    }
    const ids = await database.db.transaction((tx) => pushTasksWithTx(tx, tasks()))
    expect((await storedIn(database.sql, 'files')).sort()).toEqual([...ids].sort())
  })

  it('refuses an id that stands twice in it', async () => {
    const task = emails.task({ to: 'a' }, { id: taskId(1) })
    const error = await caught(database.db.transaction((tx) => pushTasksWithTx(tx, [task, task])))
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'id' })
  })
})

describe('a taken key', () => {
  beforeEach(() =>
    database.db.transaction((tx) => pushTaskWithTx(tx, emails.task({ to: 'first' }, { idempotencyKey: 'taken' }))),
  )

  it('is an error, and the transaction goes on and commits [OUTBOX-13] [OUTBOX-14] [OUTBOX-15]', async () => {
    const before = await storedIn(database.sql, 'emails')
    await database.db.transaction(async (tx) => {
      await tx.insert(orders).values({ id: 1, item: 'tea' })
      const error = await caught(pushTaskWithTx(tx, emails.task({ to: 'a' }, { idempotencyKey: 'taken' })))
      expect(error).toBeInstanceOf(IdempotencyConflictError)
      expect(error).toMatchObject({ queue: 'emails', conflictingKeys: ['taken'], total: 1 })
      expect((error as Error).message).toContain('1 of 1 task refused')
      await tx.update(orders).set({ item: 'coffee' }).where(eq(orders.id, 1))
    })
    expect(await storedIn(database.sql, 'emails')).toEqual(before)
    expect(await database.db.select().from(orders)).toEqual([{ id: 1, item: 'coffee' }])
  })

  it('undoes its batch and nothing else; the error names stored and repeated keys [NEXT-44] [NEXT-46]', async () => {
    const before = await storedIn(database.sql, 'emails')
    const keys = ['new', 'taken', undefined, 'twice', 'twice', 'twice']
    const other = await database.db.transaction(async (tx) => {
      await tx.insert(orders).values({ id: 1, item: 'tea' })
      const kept = await pushTaskWithTx(tx, invoices.task({ order: 1 }))
      const tasks = keys.map((idempotencyKey) => emails.task({ to: 'a' }, { idempotencyKey }))
      const error = await caught(pushTasksWithTx(tx, tasks))
      expect(error).toMatchObject({ code: 'IDEMPOTENCY_CONFLICT', queue: 'emails', total: 6 })
      expect((error as IdempotencyConflictError).conflictingKeys.toSorted()).toEqual(['taken', 'twice'])
      expect((error as Error).message).toContain('3 of 6 tasks refused')
      return kept
    })
    expect(await storedIn(database.sql, 'emails')).toEqual(before)
    expect(await storedIn(database.sql, 'invoices')).toEqual([other])
    expect(await orderIds()).toEqual([1])
  })

  it('is one in its own queue only', async () => {
    const id = await database.db.transaction((tx) =>
      pushTaskWithTx(tx, invoices.task({ order: 1 }, { idempotencyKey: 'taken' })),
    )
    expect(await storedIn(database.sql, 'invoices')).toEqual([id])
  })

  it.each([
    [{ onConflict: 'ignore' }, 'onConflict'],
    [{ onconflict: 'doNothing' }, 'options'],
    ['doNothing', 'options'],
  ])('refuses %j as options', async (options, argument) => {
    const push = (tx: PgTx) => pushTaskWithTx(tx, emails.task({ to: 'a' }), options as never)
    const pushMany = (tx: PgTx) => pushTasksWithTx(tx, [emails.task({ to: 'a' })], options as never)
    const refused = { code: 'INVALID_ARGUMENT', argument }
    expect(await caught(database.db.transaction(push))).toMatchObject(refused)
    expect(await caught(database.db.transaction(pushMany))).toMatchObject(refused)
  })

  it('refuses a task in place of a series', async () => {
    const push = (tx: PgTx) => pushTasksWithTx(tx, emails.task({ to: 'a' }) as never)
    expect(await caught(database.db.transaction(push))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'tasks' })
  })

  it("keeps the stored task with onConflict: 'doNothing'", async () => {
    const before = await storedIn(database.sql, 'emails')
    const task = emails.task({ to: 'a' }, { idempotencyKey: 'taken' })
    const [one, free, many] = await database.db.transaction(
      async (tx) =>
        [
          await pushTaskWithTx(tx, task, { onConflict: 'doNothing' }),
          await pushTaskWithTx(tx, emails.task({ to: 'a' }, { idempotencyKey: 'free' }), { onConflict: 'doNothing' }),
          await pushTasksWithTx(
            tx,
            [
              emails.task({ to: 'z first' }, { idempotencyKey: 'z' }),
              task,
              emails.task({ to: 'z second' }, { idempotencyKey: 'z' }),
              emails.task({ to: 'no key' }),
              invoices.task({ order: 1 }, { idempotencyKey: 'taken' }),
            ],
            { onConflict: 'doNothing' },
          ),
        ] as const,
    )
    expect(one).toBeUndefined()
    expect(many).toEqual([expect.any(String), undefined, undefined, expect.any(String), expect.any(String)])
    expect(await payload(many[0] as string)).toBe('{"to":"z first"}')
    const stored = [free, many[0], many[3]] as string[]
    expect((await storedIn(database.sql, 'emails')).sort()).toEqual([...before, ...stored].sort())
  })

  it('that another transaction has not committed yet is waited for', async () => {
    const held = await hold(
      database.sql,
      `insert into apalis.jobs (job, id, job_type, idempotency_key) values ('', '${taskId(1)}', 'emails', 'held')`,
    )
    const pushed = database.db.transaction((tx) =>
      pushTaskWithTx(tx, emails.task({ to: 'a' }, { idempotencyKey: 'held' })),
    )
    await waitingFor(database.sql, held)
    await held.release()
    const id = await pushed
    expect(await storedIn(database.sql, 'emails')).toContain(id)
  })
})

describe('an error of the database', () => {
  it('is a DatabaseError, for a chosen id that is stored already', async () => {
    const task = emails.task({ to: 'a' }, { id: taskId(1) })
    await database.db.transaction((tx) => pushTaskWithTx(tx, task))
    const error = await caught(database.db.transaction((tx) => pushTaskWithTx(tx, task)))
    expect(error).toBeInstanceOf(DatabaseError)
    expect(error).toMatchObject({ code: 'DATABASE', sqlState: '23505', operation: 'inserting tasks in a transaction' })
    expect(await storedIn(database.sql, 'emails')).toEqual([taskId(1)])
  })

  it('is a DatabaseError, in a transaction that has failed already', async () => {
    const tasks = ['a', 'b'].map((idempotencyKey) => emails.task({ to: 'a' }, { idempotencyKey }))
    await database.db
      .transaction(async (tx) => {
        await tx.execute(sql`select 1 / 0`).catch(() => undefined)
        expect(await caught(pushTasksWithTx(tx, tasks))).toMatchObject({ code: 'DATABASE', sqlState: '25P02' })
        expect(await caught(pushTaskWithTx(tx, tasks[0]!))).toMatchObject({ code: 'DATABASE', sqlState: '25P02' })
      })
      .catch(() => undefined)
    expect.assertions(2)
  })
})

describe.each(['always', 'never'] as const)('round trips, announced %s', (notify) => {
  const queue = defineQueue<{ to: string }>('emails', { notify })
  let proxy: PostgresProxy
  let client: postgres.Sql
  beforeAll(async () => {
    proxy = await startProxy(database.url)
    client = postgres(proxy.url, { max: 1, onnotice: () => undefined })
  })
  afterAll(async () => {
    await client.end({ timeout: 1 })
    await proxy.stop()
  })

  /** What `push` costs in a transaction on a connection that has executed it before. */
  async function turnsOf(push: (tx: PgTx) => Promise<unknown>): Promise<number> {
    const db = drizzle({ client })
    const turns = async () => {
      await clearTasks(database.sql)
      return db.transaction(async (tx) => {
        const before = proxy.turns
        await push(tx)
        return proxy.turns - before
      })
    }
    await turns()
    return turns()
  }

  it.each([
    ['one task', 1, (tx: PgTx) => pushTaskWithTx(tx, queue.task({ to: 'a' }))],
    ['one task with a key', 1, (tx: PgTx) => pushTaskWithTx(tx, queue.task({ to: 'a' }, { idempotencyKey: 'a' }))],
    ['a batch of one with a key', 1, (tx: PgTx) => pushTasksWithTx(tx, keyed('a'))],
    ['a batch without keys', 1, (tx: PgTx) => pushTasksWithTx(tx, [queue.task({ to: 'a' }), queue.task({ to: 'b' })])],
    [
      'a batch that skips conflicts',
      1,
      (tx: PgTx) => pushTasksWithTx(tx, keyed('a', 'b'), { onConflict: 'doNothing' }),
    ],
    ['a batch with keys, and its savepoint', 2, (tx: PgTx) => pushTasksWithTx(tx, keyed('a', 'b'))],
  ])('%s: %i', async (_, turns, push) => {
    expect(await turnsOf(push)).toBe(turns)
  })

  const keyed = (...keys: string[]) => keys.map((idempotencyKey) => queue.task({ to: 'a' }, { idempotencyKey }))
})
