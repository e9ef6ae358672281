/**
 * Shows that the library behaves alike on every driver and under the options of clients that change what statements send
 * and return. Runs on both Drizzle lines.
 */
import { PGlite } from '@electric-sql/pglite'
import { eq } from 'drizzle-orm'
import { npmVersion } from 'drizzle-orm/version'
import { drizzle as drizzleNodePostgres } from 'drizzle-orm/node-postgres'
import { drizzle as drizzlePglite } from 'drizzle-orm/pglite'
import { drizzle as drizzlePostgresJs, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import pg from 'pg'
import postgres from 'postgres'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest'
import {
  admin,
  DatabaseError,
  defineQueue,
  PostgresStorage,
  pushTasksWithTx,
  pushTaskWithTx,
  setup,
  verifySchema,
  type Completed,
  type Handler,
  type TaskResult,
  type WorkerEvent,
} from '../src/index.js'
import { PushGroup } from '../src/processes/push-group.js'
import { jobs, workers } from '../src/schema.js'
import { recordEvents } from '../src/testing.js'
import type { Db } from '../src/vocabulary/db.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { taskId } from './support/rows.js'

declare module 'vitest' {
  export interface ProvidedContext {
    /** The Drizzle line that the files of this run import. */
    drizzle: string
  }
}

it('runs on the Drizzle line that it is told', () => {
  expect(npmVersion.startsWith(inject('drizzle'))).toBe(true)
})

/** The drivers' databases differ in types that this file does not use. */
type Database = Pick<PostgresJsDatabase, 'select' | 'delete' | 'transaction'>

interface Driver {
  readonly db: unknown
  end(): Promise<unknown>
}

function overPostgresJs(options: postgres.Options<Record<string, never>>) {
  return (url: string): Driver => {
    const client = postgres(url, { max: 3, onnotice: () => undefined, ...options })
    return { db: drizzlePostgresJs({ client }), end: () => client.end({ timeout: 1 }) }
  }
}

function overNodePostgres(url: string): Driver {
  const pool = new pg.Pool({ connectionString: url, max: 2 })
  return { db: drizzleNodePostgres({ client: pool }), end: () => pool.end() }
}

function overPglite(): Driver {
  const client = new PGlite()
  return { db: drizzlePglite({ client }), end: () => client.close() }
}

describe.each([
  ['postgres.js', overPostgresJs({})],
  ['postgres.js without prepared statements', overPostgresJs({ prepare: false })],
  ['postgres.js that does not ask for types', overPostgresJs({ fetch_types: false })],
  ['postgres.js that renames columns', overPostgresJs({ transform: postgres.camel })],
  ['node-postgres', overNodePostgres],
  ['PGlite', overPglite],
])('on %s', (_, open) => {
  const database = useDatabase({ migrated: false })
  const queue = defineQueue<{ order_id: number; at: Date }, { sent_to: string }>('emails', { retry: () => 0 })
  const args = (order_id: number) => ({ order_id, at: new Date(1_700_000_000_123) })
  let driver: Driver
  let db: Database & Parameters<typeof setup>[0]
  const stored = () =>
    db.select({ id: jobs.id, status: jobs.status, attempts: jobs.attempts }).from(jobs).orderBy(jobs.id)

  beforeAll(async () => {
    driver = open(database.url)
    db = driver.db as typeof db
    await setup(db)
  })
  afterAll(() => driver.end())
  beforeEach(async () => {
    await db.delete(jobs)
    await db.delete(workers)
  })

  it('sets up, twice, and verifies', async () => {
    await setup(db)
    await verifySchema(db)
  })

  it('stores a task with its transaction, or not at all', async () => {
    const runAt = new Date('2030-01-01T00:00:00.123Z')
    const id = await db.transaction((tx) =>
      pushTaskWithTx(tx, queue.task(args(1), { priority: 5, maxAttempts: 9, runAt, metadata: { snake_key: ['{"'] } })),
    )
    const lost = db.transaction(async (tx) => {
      await pushTaskWithTx(tx, queue.task(args(2)))
      await pushTasksWithTx(tx, [queue.task(args(3)), queue.task(args(4), { idempotencyKey: 'a' })])
      throw new Error('out of stock')
    })
    await expect(lost).rejects.toThrow('out of stock')
    const [row, ...others] = await db.select().from(jobs)
    expect(row).toMatchObject({
      id,
      jobType: 'emails',
      status: 'Pending',
      attempts: 0,
      priority: 5,
      maxAttempts: 9,
      runAt,
    })
    expect(others).toEqual([])
  })

  it('refuses a taken key, and the transaction goes on', async () => {
    const [first, second] = await db.transaction(async (tx) => {
      const ids = await pushTasksWithTx(tx, [queue.task(args(1), { idempotencyKey: '1' }), queue.task(args(2))])
      expect(await caught(pushTaskWithTx(tx, queue.task(args(3), { idempotencyKey: '1' })))).toMatchObject({
        code: 'IDEMPOTENCY_CONFLICT',
        conflictingKeys: ['1'],
      })
      const batch = ['2', '1', '3', '3'].map((key) => queue.task(args(4), { idempotencyKey: key }))
      expect(await caught(pushTasksWithTx(tx, batch))).toMatchObject({ conflictingKeys: ['1', '3'], total: 4 })
      expect(await pushTasksWithTx(tx, batch.slice(1, 3), { onConflict: 'doNothing' })).toEqual([
        undefined,
        expect.any(String),
      ])
      return ids
    })
    const ids = (await stored()).map(({ id }) => id)
    expect(ids).toHaveLength(3)
    expect(ids).toEqual(expect.arrayContaining([first, second]))
  })

  it('pushes outside a transaction', async () => {
    const storage = new PostgresStorage(db, queue)
    const ids = await Promise.all([
      ...[1, 2, 3].map((n) => storage.push(args(n))),
      storage.push(args(4), { idempotencyKey: 'a', delayMs: 1_000 }),
      storage.push(args(5), { id: taskId(1) }),
    ])
    const batch = await storage.pushTasks([queue.task(args(6), { idempotencyKey: 'b' }), queue.task(args(7))])
    expect((await stored()).map(({ id }) => id)).toEqual([...ids, ...batch].sort())

    const conflict = { code: 'IDEMPOTENCY_CONFLICT', conflictingKeys: ['a'] }
    expect(await caught(storage.push(args(8), { idempotencyKey: 'a' }))).toMatchObject(conflict)
    const taken = ['c', 'a'].map((key) => queue.task(args(9), { idempotencyKey: key }))
    expect(await caught(storage.pushTasks(taken))).toMatchObject({ ...conflict, total: 2 })
    expect(await caught(storage.push(args(10), { id: taskId(1) }))).toMatchObject({ sqlState: '23505' })
    expect(await stored()).toHaveLength(7)
  })

  it('tells an error of the server by its SQLSTATE', async () => {
    const failed = db.transaction(async (tx) => {
      await pushTaskWithTx(tx, queue.task(args(1), { id: taskId(1) }))
      await pushTaskWithTx(tx, queue.task(args(2), { id: taskId(1) }))
    })
    const error = await caught(failed)
    expect(error).toBeInstanceOf(DatabaseError)
    expect(error).toMatchObject({ sqlState: '23505', cause: { constraint: 'jobs_pkey', table: 'jobs' } })
    expect(await stored()).toEqual([])
  })

  it('locks tasks by id and acknowledges them', async () => {
    const storage = new PostgresStorage(db, queue)
    const [one = '', two = '', three = ''] = await storage.pushTasks([1, 2, 3].map((n) => queue.task(args(n))))
    const refused = await caught(storage.lockTask(one, 'consumer'))
    expect(refused).toMatchObject({ code: 'WORKER_NOT_REGISTERED', queue: queue.name })
    await admin(db).registerWorker(queue.name, 'consumer')
    const claims = [await storage.lockTask(one, 'consumer'), ...(await storage.claimByIds([two], 'consumer'))]
    expect(claims).toMatchObject([{ id: one, args: args(1), attempt: 1 }, { id: two }])
    const inTx = await db.transaction((tx) => admin(tx).lockTask(three, 'consumer'))
    expect(inTx).toMatchObject({ id: three, args: args(3) })
    for (const claim of [...claims, inTx as (typeof claims)[0]]) {
      await storage.ack(claim, { status: 'Done', result: { sent_to: 'ada' } })
    }
    expect((await stored()).map(({ status, attempts }) => `${status} ${attempts}`)).toEqual(Array(3).fill('Done 1'))
  })

  it('takes tasks from a stream, and tells how each of them ended', async () => {
    const storage = new PostgresStorage(db, queue, { bufferSize: 3, pollIntervalMs: 10, onEvent: () => undefined })
    const tasks = Array.from({ length: 7 }, (_, n) => queue.task(args(n), { maxAttempts: 1 }))
    const writer = storage.sink().getWriter()
    await Promise.all(tasks.map((task) => writer.write(task)))
    await writer.close()
    const worker = storage.worker(({ order_id }) => {
      if (order_id === 4) throw new Error('mailbox full')
      return { sent_to: `order ${order_id}` }
    })
    await worker.start()
    const ids = (await stored()).map(({ id }) => id)
    const results: TaskResult<{ sent_to: string }>[] = []
    for await (const result of storage.waitFor(ids)) results.push(result)
    await worker.stop()
    expect(await storage.checkStatus(results.map(({ id }) => id))).toEqual(results)
    const told = results.map((result) => (result.status === 'Done' ? result.result.sent_to : result.error))
    expect(told.sort()).toEqual(['mailbox full', ...[0, 1, 2, 3, 5, 6].map((n) => `order ${n}`)])
  })

  it('steers tasks, and tells a handler that its task was cancelled', async () => {
    const storage = new PostgresStorage(db, queue)
    const steer = admin(db)
    const [one = '', two = '', three = ''] = await storage.pushTasks(
      [1, 2, 3].map((n) => queue.task(args(n), { delayMs: 3_600_000 })),
    )
    expect(await steer.setPriority({ ids: [one, taskId(1)] }, 7)).toEqual({
      changed: [one],
      refused: [{ id: taskId(1), reason: 'no task has this id' }],
    })
    const runAt = new Date('2030-01-01T00:00:00.123Z')
    expect((await steer.reschedule({ queue: queue.name }, runAt)).changed).toHaveLength(3)
    expect(await storage.fetchById(one)).toMatchObject({ priority: 7, runAt })
    const cancelled = await db.transaction((tx) => admin(tx).cancel({ ids: [three, two] }))
    expect(cancelled).toEqual({ changed: [three, two], refused: [] })
    expect(await steer.remove({ queue: queue.name, status: 'Killed' })).toMatchObject({ refused: [] })

    const events = recordEvents()
    const options = { onEvent: events.onEvent, keepAliveMs: 200_000 }
    const worker = storage.worker((_args, { signal }) => {
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
    }, options)
    await worker.start()
    await events.next('listener.up')
    expect((await steer.retryNow({ ids: [one] })).changed).toEqual([one])
    await events.next('task.claimed')
    expect((await steer.cancel({ queue: queue.name, status: 'Running' })).changed).toEqual([one])
    const { cause } = await events.next('task.killed')
    expect(cause).toMatchObject({ code: 'TASK_ABORTED', why: 'cancelled' })
    await worker.stop()
    expect((await stored()).map(({ id, status, attempts }) => [id, status, attempts])).toEqual([[one, 'Killed', 1]])
  })

  it('wakes an idle worker for a task that is committed, and for one that becomes due', async () => {
    const events = recordEvents()
    // So rarely that no poll can be what finds a task.
    const storage = new PostgresStorage(db, queue, { pollIntervalMs: () => 600_000, onEvent: events.onEvent })
    const worker = storage.worker(() => ({ sent_to: 'ada' }))
    await worker.start()
    await events.next('listener.up')
    for (const delayMs of [0, 200]) {
      const id = await db.transaction((tx) => pushTaskWithTx(tx, queue.task(args(1), { delayMs })))
      await events.next('task.done', (event) => event.id === id)
    }
    await worker.stop()
    expect(events.all.map(({ type }) => type)).not.toContain('listener.down')
  })

  it('runs tasks to their end: 18 succeed, one on the second attempt, one never', async () => {
    const storage = new PostgresStorage(db, queue, { pollIntervalMs: 10 })
    const metadata = { snake_key: { another_key: 1 } }
    const tasks = Array.from({ length: 20 }, (_, n) => queue.task(args(n), { metadata, maxAttempts: 2 }))
    const ids = await storage.pushTasks(tasks)
    const seen: unknown[] = []
    const problems: WorkerEvent[] = []
    const worker = storage.worker(
      ({ order_id, at }, { attempt, task }) => {
        seen.push([order_id, attempt, at, task.metadata])
        if (order_id === 7 || (order_id === 3 && attempt === 1)) throw new Error('mailbox full')
        return { sent_to: `order ${order_id}` }
      },
      {
        concurrency: 4,
        onEvent: (event) => {
          if (event.level === 'warn' || event.level === 'error') problems.push(event)
        },
      },
    )
    await worker.run({ untilIdle: true })

    const runs = ids.flatMap((_, n) =>
      n === 3 || n === 7
        ? [
            [n, 1],
            [n, 2],
          ]
        : [[n, 1]],
    )
    expect(seen).toHaveLength(22)
    expect(seen).toEqual(expect.arrayContaining(runs.map(([n, attempt]) => [n, attempt, args(0).at, metadata])))
    const outcomes = new Map((await stored()).map(({ id, status, attempts }) => [id, `${status} ${attempts}`]))
    expect(ids.map((id) => outcomes.get(id))).toEqual(
      ids.map((_, n) => (n === 7 ? 'Killed 2' : n === 3 ? 'Done 2' : 'Done 1')),
    )
    const [done] = await db.select({ result: jobs.lastResult }).from(jobs).where(eq(jobs.id, ids[0]!))
    expect(JSON.stringify(done)).toContain('order 0')
    expect(problems.map(({ type }) => type).sort()).toEqual(['task.failed', 'task.failed', 'task.killed'])
    const released = await db.select({ token: workers.leaseToken }).from(workers)
    expect(released).toEqual([{ token: null }])
  })

  it('completes tasks in transactions of their handlers', async () => {
    const types: string[] = []
    const onEvent = (event: WorkerEvent) => void types.push(event.type)
    const storage = new PostgresStorage(db, queue, { pollIntervalMs: 10, onEvent })
    const next = defineQueue<number>('next')
    const [committed, undone] = await storage.pushTasks([queue.task(args(1)), queue.task(args(2), { maxAttempts: 1 })])
    const handler: Handler<{ order_id: number; at: Date }, { sent_to: string }> = async ({ order_id }, ctx) => {
      let completed: Completed | undefined
      const transaction = db.transaction(async (tx) => {
        await pushTaskWithTx(tx, next.task(order_id))
        completed = await ctx.completeWithTx(tx, { sent_to: `order ${order_id}` })
        if (order_id === 2) tx.rollback()
      })
      await transaction.catch(() => undefined)
      return completed!
    }
    await storage.worker(handler).run({ untilIdle: true })
    const rows = await db.select().from(jobs).where(eq(jobs.jobType, 'emails')).orderBy(jobs.id)
    expect(rows).toMatchObject([
      { id: committed, status: 'Done', attempts: 1 },
      { id: undone, status: 'Killed', attempts: 1 },
    ])
    expect(JSON.stringify(rows[0])).toContain('order 1')
    expect(await db.select({ job: jobs.id }).from(jobs).where(eq(jobs.jobType, 'next'))).toHaveLength(1)
    const ended = ['task.claimed', 'task.claimed', 'task.done', 'task.killed']
    expect(types.filter((type) => type.startsWith('task.')).toSorted()).toEqual(ended)
  })
})

describe('on PGlite, which has one connection', () => {
  it('a push inside a transaction ends with an error that names pushWithTx', async () => {
    const client = new PGlite()
    const db = drizzlePglite({ client })
    await setup(db)
    const queue = defineQueue<string>('emails')
    const pushes = new PushGroup(db as unknown as Db, 200)
    const error = await db.transaction(() => caught(pushes.pushTask(queue.task('a'))))
    expect(error).toMatchObject({ code: 'OUTCOME_UNKNOWN' })
    expect((error as Error).message).toContain('pushWithTx')
    await pushes.pushTask(queue.task('b'))
    await client.close()
  })
})
