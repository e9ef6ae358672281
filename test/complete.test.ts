/**
 * Shows that a handler which completes its task in its own transaction has its effect once, whatever comes in between: the
 * claim is lost, the transaction rolls back, the answer to COMMIT is lost, or a heartbeat looks at the wrong moment.
 */
import {
  admin,
  defineQueue,
  InvalidArgumentError,
  pushTaskWithTx,
  StaleAcknowledgementError,
  TaskAbortedError,
  type Change,
  type Completed,
  type PgTx,
  type StandardSchema,
  type TaskContext,
  type TxOf,
} from 'apalis-drizzle'
import { drizzle as drizzleNodePostgres } from 'drizzle-orm/node-postgres'
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import { integer, pgTable } from 'drizzle-orm/pg-core'
import pg from 'pg'
import postgres from 'postgres'
import { beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { DEADLINES } from '../src/processes/deadlines.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { waitingFor } from './support/held.js'
import { startProxy } from './support/proxy.js'
import { rowOf } from './support/rows.js'
import { until } from './support/until.js'
import { gate, useWorkers, type Work } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)

/** What the handlers of this file do to the world. */
const effects = pgTable('effects', { n: integer('n').notNull() })

type Context = TaskContext<number, string>
type Tx = TxOf<PostgresJsDatabase>

beforeAll(() => database.sql`create table effects (n integer not null)`)
beforeEach(() => database.sql`truncate effects`)

const row = (id: string) => rowOf(database.sql, id)
const effectsSoFar = async () =>
  (await database.sql`select n from effects order by n`).map((effect) => effect['n'] as number)
const lively = { keepAliveMs: 50, reenqueueOrphanedAfterMs: 60_000 }

function types({ events }: Pick<Work<number, string>, 'events'>): string[] {
  return events.all.map(({ type }) => type).filter((type) => type.startsWith('task.') || type.endsWith('.error'))
}

/** Returns a task to the queue, as the library itself would. */
async function takeBack(id: string): Promise<void> {
  await database.sql`
    update apalis.jobs set status = 'Pending', lock_by = null, lock_at = null, run_at = lock_at + interval '1 second'
    where id = ${id}`
}

async function completing(tx: Tx, n: number, { completeWithTx }: Pick<Context, 'completeWithTx'>): Promise<Completed> {
  await tx.insert(effects).values({ n })
  return completeWithTx(tx, `sent ${n}`)
}

describe('completeWithTx', () => {
  it('commits what the handler wrote, what it pushed and the acknowledgement together', async () => {
    const next = defineQueue<number>(`queue ${crypto.randomUUID()}`)
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const plain = await mails.storage.push(2)
    let committing = { task: 'unknown', effects: [0] as unknown[], pushed: -1 }
    await mails
      .worker((n, ctx) => {
        if (n === 2) return 'sent 2'
        return database.db.transaction(async (tx) => {
          const completed = await completing(tx, n, ctx)
          await pushTaskWithTx(tx, next.task(n + 1))
          const pushed = await database.sql`select from apalis.jobs where job_type = ${next.name}`
          committing = { task: (await row(id))!['status'], effects: await effectsSoFar(), pushed: pushed.length }
          return completed
        })
      })
      .run({ untilIdle: true })
    expect(committing).toEqual({ task: 'Running', effects: [], pushed: 0 })
    expect(await effectsSoFar()).toEqual([1])
    expect(await database.sql`select status from apalis.jobs where job_type = ${next.name}`).toEqual([
      { status: 'Pending' },
    ])
    expect(types(mails).toSorted()).toEqual(['task.claimed', 'task.claimed', 'task.done', 'task.done'])
    // Whoever reads the row, here or in Rust, finds what any acknowledgement leaves.
    const own = { id, job: expect.anything(), run_at: expect.any(Date), last_result: { Ok: 'sent 1' } }
    expect(await row(id)).toEqual({
      ...(await row(plain)),
      ...own,
      lock_at: expect.any(Date) as Date,
      done_at: expect.any(Date) as Date,
    })
  })

  it('costs one round trip, and the worker writes nothing more', async () => {
    const { proxy, db } = await proxied()
    await database.sql.unsafe(`
      create table acks (application text);
      create function log_ack() returns trigger language plpgsql as $$ begin
        if current_query() like '%claim.outcome%' then
          insert into acks values (current_setting('application_name'));
        end if;
        return null;
      end $$;
      create trigger log_acks after update on apalis.jobs for each statement execute function log_ack()`)
    onTestFinished(async () => {
      await database.sql.unsafe('drop function log_ack cascade; drop table acks')
    })
    const mails = work<number, string>()
    await mails.storage.pushTasks([1, 2].map((n) => mails.queue.task(n)))
    let turns = 0
    const handler = (_: number, { completeWithTx }: Context) =>
      db.transaction(async (tx) => {
        const before = proxy.turns
        const completed = await completeWithTx(tx, 'sent')
        turns = proxy.turns - before
        return completed
      })
    await mails.worker(handler, { concurrency: 1 }).run({ untilIdle: true })
    // The first one prepares the statement on the connection.
    expect(turns).toBe(1)
    expect(await database.sql`select application from acks`).toEqual([
      { application: 'handler' },
      { application: 'handler' },
    ])
  })

  it('is undone with its transaction, and the task ends as its handler then does', async () => {
    const mails = work<number, string>({ retry: { baseMs: 60_000 } })
    const [throws, returns] = [await mails.storage.push(1), await mails.storage.push(2)]
    const broken = new Error('out of stock')
    const handler = async (n: number, ctx: Context) => {
      const rolledBack = database.db.transaction(async (tx) => {
        await completing(tx, n, ctx)
        throw broken
      })
      await rolledBack.catch((error: unknown) => {
        if (n === 1) throw error
      })
      return 'all the same'
    }
    await mails.worker(handler).run({ untilIdle: true })
    expect(await effectsSoFar()).toEqual([])
    expect((await mails.events.next('task.failed')).cause).toBe(broken)
    expect(await row(throws)).toMatchObject({ status: 'Failed', attempts: 1, last_result: { Err: 'out of stock' } })
    expect(await row(returns)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'all the same' } })
  })

  it('throws when the claim was lost meanwhile, so that the effect comes from the run that holds it', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const thrown: unknown[] = []
    await mails.started((n, ctx) =>
      database.db.transaction(async (tx) => {
        await tx.insert(effects).values({ n })
        if (thrown.length === 0) await takeBack(id)
        return ctx.completeWithTx(tx, `run ${thrown.length + 1}`).catch((error: unknown) => {
          thrown.push(error)
          throw error
        })
      }),
    )
    await mails.events.next('task.done')
    await mails.events.next('task.stale')
    expect(thrown).toEqual([expect.any(StaleAcknowledgementError)])
    expect(thrown[0]).toMatchObject({ taskId: id, queue: mails.queue.name, worker: 'worker#1' })
    expect(await effectsSoFar()).toEqual([1])
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'run 2' } })
    expect(types(mails)).not.toContain('task.failed')
  })

  it('throws when the task was cancelled meanwhile, and nothing of it happens', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    let thrown: unknown
    const handler = (n: number, ctx: Context) =>
      database.db.transaction(async (tx) => {
        await admin(database.db).cancel({ ids: [id] })
        return completing(tx, n, ctx).catch((error: unknown) => {
          thrown = error
          throw error
        })
      })
    await mails.worker(handler).run({ untilIdle: true })
    expect(thrown).toBeInstanceOf(StaleAcknowledgementError)
    expect(await effectsSoFar()).toEqual([])
    expect(await row(id)).toMatchObject({ status: 'Killed', attempts: 1 })
    expect(types(mails)).toEqual(['task.claimed', 'task.killed'])
    expect((await mails.events.next('task.killed')).cause).toMatchObject({ code: 'TASK_ABORTED', why: 'cancelled' })
  })

  it('keeps a cancellation waiting, which then comes too late', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    let cancelling: Promise<Change> | undefined
    const handler = (n: number, ctx: Context) =>
      database.db.transaction(async (tx) => {
        const [session] = await tx.execute<{ pid: number }>('select pg_backend_pid() as pid')
        const completed = await completing(tx, n, ctx)
        cancelling = admin(database.db).cancel({ ids: [id] })
        await waitingFor(database.sql, session!)
        return completed
      })
    await mails.worker(handler).run({ untilIdle: true })
    expect(await cancelling).toMatchObject({ changed: [], refused: [{ id }] })
    expect(await effectsSoFar()).toEqual([1])
    expect(types(mails)).toEqual(['task.claimed', 'task.done'])
  })

  it('throws when the handler has ignored its signal for so long that its attempt is over', async () => {
    const mails = work<number, string>({ timeoutMs: 50, retry: { baseMs: 60_000 } })
    const id = await mails.storage.push(1)
    const refused = gate<unknown>()
    await mails.started(async (n, ctx) => {
      await mails.events.next('task.failed')
      refused.open(await caught(database.db.transaction((tx) => completing(tx, n, ctx))))
      return 'too late'
    })
    expect(await refused.opened).toBeInstanceOf(StaleAcknowledgementError)
    expect(await effectsSoFar()).toEqual([])
    expect(await row(id)).toMatchObject({ status: 'Failed', attempts: 1 })
    expect(types(mails)).toEqual(['task.claimed', 'task.overrun', 'task.failed'])
  })

  it('asks nothing of the database once the claim was given up in memory', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const refused = gate<unknown>()
    let runs = 0
    await mails.started(async (_, { signal, completeWithTx }) => {
      runs += 1
      if (runs > 1) return 'second run'
      await takeBack(id)
      await new Promise((resolve) => signal.addEventListener('abort', resolve))
      const unusable = { rollback: () => undefined } as unknown as PgTx
      refused.open(await caught(completeWithTx(unusable, 'too late')))
      return 'first run'
    })
    expect(await refused.opened).toBeInstanceOf(StaleAcknowledgementError)
    await mails.events.next('task.stale')
    await mails.events.next('task.done')
    expect(await row(id)).toMatchObject({ status: 'Done', last_result: { Ok: 'second run' } })
  })

  it('refuses a result that cannot be stored inside the transaction, before any SQL', async () => {
    const result: StandardSchema<string, string> = {
      '~standard': {
        version: 1,
        vendor: 'test',
        validate: (value) =>
          Promise.resolve(value === 'refused' ? { issues: [{ message: 'no' }] } : { value: value as string }),
      },
    }
    const mails = work<number, string>({ result, retry: { baseMs: 60_000 } })
    const [wrong, refused] = [await mails.storage.push(1), await mails.storage.push(2)]
    const handler = (n: number, ctx: Context) =>
      database.db.transaction(async (tx) => {
        await tx.insert(effects).values({ n })
        return ctx.completeWithTx(tx, n === 1 ? ((() => n) as never) : 'refused')
      })
    await mails.worker(handler).run({ untilIdle: true })
    expect(await effectsSoFar()).toEqual([])
    for (const id of [wrong, refused]) {
      const { cause } = await mails.events.next('task.failed', (event) => event.id === id)
      expect(cause).toBeInstanceOf(InvalidArgumentError)
      expect(cause).toMatchObject({ argument: 'result' })
      expect(await row(id)).toMatchObject({ status: 'Failed', attempts: 1 })
    }
  })

  it('refuses a database in place of a transaction', async () => {
    const mails = work<number, string>()
    await mails.storage.push(1)
    let refused: unknown
    const handler = async (_: number, ctx: Context) => {
      refused = await caught(ctx.completeWithTx(database.db as unknown as PgTx, 'x'))
      return 'recorded'
    }
    await mails.worker(handler).run({ untilIdle: true })
    expect(refused).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'tx' })
    expect((refused as Error).message).toContain('completeWithTx')
  })
})

describe('a handler that returns Completed although its transaction rolled back', () => {
  it('has not completed its task, which fails and says so', async () => {
    const mails = work<number, string>({ retry: { baseMs: 60_000 } })
    const id = await mails.storage.push(1)
    const handler = async (n: number, ctx: Context) => {
      let completed: Completed | undefined
      const rolledBack = database.db.transaction(async (tx) => {
        completed = await completing(tx, n, ctx)
        tx.rollback()
      })
      await caught(rolledBack)
      return completed!
    }
    await mails.worker(handler).run({ untilIdle: true })
    const { cause, message } = await mails.events.next('task.failed')
    expect(cause).toMatchObject({ code: 'DATABASE', operation: `completing task ${id}` })
    expect(message).toContain('did not commit')
    const Err = expect.stringContaining('did not commit') as string
    expect(await row(id)).toMatchObject({ status: 'Failed', attempts: 1, last_result: { Err } })
    expect(await effectsSoFar()).toEqual([])
  })

  it('nor has it with node-postgres, which hides that a caught SQL error undoes everything', async () => {
    const pool = new pg.Pool({ connectionString: database.url, max: 3 })
    onTestFinished(() => pool.end())
    const db = drizzleNodePostgres({ client: pool })
    const mails = work<number, string>({ retry: { baseMs: 60_000 } }, db)
    const id = await mails.storage.push(1)
    const handler = (n: number, ctx: Context) =>
      db.transaction(async (tx) => {
        await tx.insert(effects).values({ n })
        const completed = await ctx.completeWithTx(tx, 'sent')
        await tx.execute('select 1 / 0').catch(() => undefined)
        return completed
      })
    await mails.worker(handler).run({ untilIdle: true })
    expect(await row(id)).toMatchObject({ status: 'Failed', attempts: 1 })
    expect(await effectsSoFar()).toEqual([])
    expect(types(mails)).toEqual(['task.claimed', 'task.failed'])
  })

  it('nor has it when a savepoint undid that alone; what it wrote outside of it stays', async () => {
    const mails = work<number, string>({ retry: { baseMs: 60_000 } })
    const id = await mails.storage.push(1)
    const handler = (n: number, ctx: Context) =>
      database.db.transaction(async (tx) => {
        await tx.insert(effects).values({ n })
        let completed: Completed | undefined
        const nested = tx.transaction(async (inner) => {
          completed = await ctx.completeWithTx(inner, 'sent')
          inner.rollback()
        })
        await caught(nested)
        return completed!
      })
    await mails.worker(handler).run({ untilIdle: true })
    expect(await row(id)).toMatchObject({ status: 'Failed', attempts: 1 })
    expect(await effectsSoFar()).toEqual([1])
  })

  it('nor has it with the Completed of another task', async () => {
    const mails = work<number, string>({ maxAttempts: 1 })
    const [own, other] = [await mails.storage.push(1), await mails.storage.push(2)]
    const taken = gate<Completed>()
    const handler = async (n: number, ctx: Context) => {
      if (n === 2) return taken.opened
      const completed = await database.db.transaction((tx) => completing(tx, n, ctx))
      taken.open(completed)
      return completed
    }
    await mails.worker(handler).run({ untilIdle: true })
    expect(await row(own)).toMatchObject({ status: 'Done' })
    expect(await row(other)).toMatchObject({ status: 'Killed', attempts: 1 })
  })
})

describe('a handler that has completed its task', () => {
  it('and then throws leaves it Done; the error is a warning [NEXT-22]', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const broken = new Error('broken')
    const handler = async (n: number, ctx: Context) => {
      await database.db.transaction((tx) => completing(tx, n, ctx))
      throw broken
    }
    await mails.worker(handler).run({ untilIdle: true })
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent 1' } })
    expect(types(mails)).toEqual(['task.claimed', 'task.done', 'worker.error'])
    expect(await mails.events.next('worker.error')).toMatchObject({ level: 'warn', cause: broken })
    expect(await effectsSoFar()).toEqual([1])
  })

  it('and then returns something else keeps the result that it completed with', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const handler = async (n: number, ctx: Context) => {
      await database.db.transaction((tx) => completing(tx, n, ctx))
      return 'something else'
    }
    await mails.worker(handler).run({ untilIdle: true })
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent 1' } })
    expect(types(mails)).toEqual(['task.claimed', 'task.done'])
  })

  it('is not disturbed by heartbeats, before the commit and after it', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    let aborted: boolean | undefined
    const worker = mails.worker(async (n, ctx) => {
      const completed = await database.db.transaction(async (tx) => {
        const inTransaction = await completing(tx, n, ctx)
        await nextHeartbeat()
        return inTransaction
      })
      expect(await row(id)).toMatchObject({ status: 'Done' })
      // The second began after the first had been answered.
      await nextHeartbeat()
      await nextHeartbeat()
      aborted = ctx.signal.aborted
      return completed
    }, lively)
    await worker.run({ untilIdle: true })
    expect(aborted).toBe(false)
    expect(types(mails)).toEqual(['task.claimed', 'task.done'])

    async function nextHeartbeat() {
      const before = await lastSeen(worker.queue)
      await until(async () => (await lastSeen(worker.queue)) > before, 'the next heartbeat')
    }
  })

  it('is done, although its worker loses its registration before the handler has returned', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    await mails.started(async (n, ctx) => {
      const completed = await database.db.transaction((tx) => completing(tx, n, ctx))
      await database.sql`update apalis.workers set lease_token = 'of a stranger' where worker_type = ${mails.queue.name}`
      await new Promise((resolve) => ctx.signal.addEventListener('abort', resolve))
      return completed
    }, lively)
    expect(await mails.events.next('task.done')).toMatchObject({ id, worker: 'worker#1' })
    expect(types(mails)).toEqual(['task.claimed', 'task.done'])
  })

  it('after its timeout, while the worker gives up its claim, is done all the same', async () => {
    const mails = work<number, string>({ timeoutMs: 50 })
    const id = await mails.storage.push(1)
    const handler = (n: number, ctx: Context) =>
      database.db.transaction(async (tx) => {
        const completed = await completing(tx, n, ctx)
        await mails.events.next('task.overrun')
        // By then it has tried several times, each time in vain.
        await mails.events.next('worker.error', (event) => event.operation === 'acknowledging tasks')
        return completed
      })
    await mails.started(handler)
    await mails.events.next('task.done', (event) => event.id === id)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent 1' } })
    expect(types(mails).filter((type) => type.startsWith('task.'))).toEqual([
      'task.claimed',
      'task.overrun',
      'task.done',
    ])
  })

  it('in the time that a shutdown leaves it is done', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const worker = await mails.started(async (n, ctx) => {
      await new Promise((resolve) => ctx.signal.addEventListener('abort', resolve))
      return database.db.transaction((tx) => completing(tx, n, ctx))
    })
    await mails.events.next('task.claimed')
    await worker.stop({ timeoutMs: 0 })
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
    expect(types(mails)).toEqual(['task.claimed', 'task.done'])
  })

  it('without autoAck is done as well, and needs no storage.ack', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const handler = (n: number, ctx: Context) => database.db.transaction((tx) => completing(tx, n, ctx))
    await mails.worker(handler, { autoAck: false }).run({ untilIdle: true })
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
    expect(types(mails)).toEqual(['task.claimed', 'task.done'])
  })

  it('on a transaction that has ended already has completed it at once, on drivers that execute that', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const handler = async (_: number, ctx: Context) => {
      const leaked = await database.db.transaction((tx) => Promise.resolve({ tx }))
      return ctx.completeWithTx(leaked.tx, 'sent')
    }
    await mails.worker(handler).run({ untilIdle: true })
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
    expect(types(mails)).toEqual(['task.claimed', 'task.done'])
  })
})

describe('a COMMIT whose answer is lost', () => {
  it.each(['throws', 'returns'])('leaves the task Done, and nothing runs again, if the handler %s', async (ending) => {
    const { proxy, db } = await proxied()
    const mails = work<number, string>({ retry: { baseMs: 0 } }, db)
    const id = await mails.storage.push(1)
    let runs = 0
    let lost: Promise<void> | undefined
    const handler = async (n: number, ctx: Context) => {
      runs += 1
      const committed = db.transaction(async (tx) => {
        const completed = await completing(tx, n, ctx)
        lost = proxy.loseAnswer('commit')
        return completed
      })
      if (ending === 'throws') return committed
      await caught(committed)
      return 'unknown'
    }
    await mails.worker(handler).run({ untilIdle: true })
    await lost
    expect(runs).toBe(1)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent 1' } })
    expect(await effectsSoFar()).toEqual([1])
    const warned = ending === 'throws' ? ['worker.error'] : []
    expect(types(mails)).toEqual(['task.claimed', 'task.done', ...warned])
  })

  it('is settled when the database answers again', async () => {
    const { proxy, db } = await proxied()
    const mails = work<number, string>({ retry: { baseMs: 0 } }, db)
    const id = await mails.storage.push(1)
    let runs = 0
    const handler = async (n: number, ctx: Context) => {
      runs += 1
      const lost = proxy.loseAnswer('commit')
      const failed = await caught(db.transaction((tx) => completing(tx, n, ctx)))
      await lost
      proxy.swallow()
      throw failed
    }
    await mails.started(handler, {}, { ...DEADLINES, answerMs: 100 })
    await mails.events.next('worker.error', ({ operation }) => operation === 'acknowledging tasks')
    proxy.restore()
    await mails.events.next('task.done', (event) => event.id === id)
    await mails.events.next('worker.recovered', ({ operation }) => operation === 'acknowledging tasks')
    expect(runs).toBe(1)
    expect(types(mails)).not.toContain('task.failed')
  })
})

describe('completeWithTx, called twice', () => {
  it('in one transaction is refused the second time', async () => {
    const mails = work<number, string>({ maxAttempts: 1 })
    const id = await mails.storage.push(1)
    const handler = (n: number, ctx: Context) =>
      database.db.transaction(async (tx) => {
        await completing(tx, n, ctx)
        return completing(tx, n, ctx)
      })
    await mails.worker(handler).run({ untilIdle: true })
    const { cause } = await mails.events.next('task.killed')
    expect(cause).toBeInstanceOf(StaleAcknowledgementError)
    expect((cause as Error).message).toContain('a transaction has acknowledged it already')
    expect(await effectsSoFar()).toEqual([])
    expect(await row(id)).toMatchObject({ status: 'Killed', attempts: 1 })
  })

  it('in one transaction counts once if the refusal is caught', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const handler = (n: number, ctx: Context) =>
      database.db.transaction(async (tx) => {
        const completed = await completing(tx, n, ctx)
        await caught(ctx.completeWithTx(tx, 'again'))
        return completed
      })
    await mails.worker(handler).run({ untilIdle: true })
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent 1' } })
  })

  it('in two transactions undoes the second', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    let second: unknown
    const handler = async (_: number, ctx: Context) => {
      const completed = await database.db.transaction((tx) => completing(tx, 1, ctx))
      second = await caught(database.db.transaction((tx) => completing(tx, 2, ctx)))
      return completed
    }
    await mails.worker(handler).run({ untilIdle: true })
    expect(second).toBeInstanceOf(StaleAcknowledgementError)
    expect(await effectsSoFar()).toEqual([1])
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent 1' } })
  })

  it.each([
    ['commits', ['rejected', 'fulfilled'], [1]],
    ['rolls back', ['fulfilled', 'rejected'], [2]],
  ])('in two transactions at the same time waits for the first, which %s', async (ending, _outcomes, stored) => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const handler = async (_: number, ctx: Context) => {
      const locked = gate<{ pid: number }>()
      const first = database.db.transaction(async (tx) => {
        const [session] = await tx.execute<{ pid: number }>('select pg_backend_pid() as pid')
        await completing(tx, 1, ctx)
        locked.open(session!)
        await waitingFor(database.sql, session!)
        if (ending === 'rolls back') tx.rollback()
      })
      const held = await locked.opened
      expect(held.pid).toBeGreaterThan(0)
      const second = database.db.transaction((tx) => completing(tx, 2, ctx))
      await Promise.allSettled([first, second])
      return 'both have ended'
    }
    await mails.worker(handler).run({ untilIdle: true })
    expect(await effectsSoFar()).toEqual(stored)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: `sent ${stored[0]}` } })
    expect(types(mails)).toEqual(['task.claimed', 'task.done'])
  })

  it('counts the second time if a savepoint undid the first', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const handler = (_: number, ctx: Context) =>
      database.db.transaction(async (tx) => {
        const undone = tx.transaction(async (inner) => {
          await completing(inner, 1, ctx)
          inner.rollback()
        })
        await caught(undone)
        return completing(tx, 2, ctx)
      })
    await mails.worker(handler).run({ untilIdle: true })
    expect(await effectsSoFar()).toEqual([2])
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent 2' } })
  })
})

describe.each(['repeatable read', 'serializable'] as const)('under %s', (isolationLevel) => {
  it('a claim that was lost after the transaction began is stale, with the SQL error as its cause', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const thrown: unknown[] = []
    await mails.started((n, ctx) =>
      database.db.transaction(
        async (tx) => {
          await tx.insert(effects).values({ n })
          if (thrown.length === 0) await takeBack(id)
          return ctx.completeWithTx(tx, 'sent').catch((error: unknown) => {
            thrown.push(error)
            throw error
          })
        },
        { isolationLevel },
      ),
    )
    await mails.events.next('task.done')
    expect(thrown).toHaveLength(1)
    expect(thrown[0]).toBeInstanceOf(StaleAcknowledgementError)
    expect(thrown[0]).toMatchObject({ taskId: id, cause: { code: 'DATABASE', sqlState: '40001' } })
    expect(await effectsSoFar()).toEqual([1])
  })

  it('a task that is shown as Running meanwhile is not stale: the transaction may be run again', async () => {
    const mails = work<number, string>()
    const id = await mails.storage.push(1)
    const thrown: unknown[] = []
    const attempt = (n: number, ctx: Context) =>
      database.db.transaction(
        async (tx) => {
          await tx.insert(effects).values({ n })
          // As the worker does with a task that it had claimed for its buffer.
          if (thrown.length === 0) await database.sql`update apalis.jobs set status = 'Running' where id = ${id}`
          return ctx.completeWithTx(tx, 'sent')
        },
        { isolationLevel },
      )
    const handler = (n: number, ctx: Context) =>
      attempt(n, ctx).catch((error: unknown) => {
        thrown.push(error)
        return attempt(n, ctx)
      })
    await mails.worker(handler).run({ untilIdle: true })
    expect(thrown).toHaveLength(1)
    expect(thrown[0]).toMatchObject({ code: 'DATABASE', sqlState: '40001' })
    expect((thrown[0] as Error).message).toContain('Run the transaction again')
    expect(await effectsSoFar()).toEqual([1])
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
  })
})

it('a claim that is lost after its transaction was undone aborts its handler', async () => {
  const mails = work<number, string>()
  const id = await mails.storage.push(1)
  const reason = gate<unknown>()
  await mails.started(async (n, { signal, completeWithTx }) => {
    const committed = database.db.transaction(async (tx) => {
      const completed = await completing(tx, n, { completeWithTx })
      tx.rollback()
      return completed
    })
    await caught(committed)
    // The claim is lost only now, and no transaction has ended it.
    await database.sql`update apalis.jobs set status = 'Killed', attempts = 5 where id = ${id}`
    await new Promise((resolve) => signal.addEventListener('abort', resolve))
    reason.open(signal.reason)
    return 'late'
  }, lively)
  expect(await reason.opened).toBeInstanceOf(TaskAbortedError)
  expect(await reason.opened).toMatchObject({ why: 'claim-lost' })
  await mails.events.next('task.stale')
})

async function lastSeen(queue: string): Promise<number> {
  const [worker] = await database.sql`select last_seen from apalis.workers where worker_type = ${queue}`
  return Number(worker!['last_seen'])
}

/** A client that reaches the database through a proxy. */
async function proxied() {
  const proxy = await startProxy(database.url)
  const client = postgres(proxy.url, { max: 1, connection: { application_name: 'handler' } })
  onTestFinished(async () => {
    await client.end({ timeout: 0 })
    await proxy.stop()
  })
  return { proxy, db: drizzle({ client }) }
}
