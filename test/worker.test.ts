/**
 * Shows what a worker makes of a task: how it runs, what is recorded, what is charged, and what it reports.
 */
import {
  AbortTaskError,
  DecodeError,
  DeferTaskError,
  isApalisError,
  PostgresStorage,
  pushTaskWithTx,
  RetryAfterError,
  RowError,
  TaskAbortedError,
  type StandardSchema,
  type TaskContext,
} from 'apalis-drizzle'
import { inspect } from 'node:util'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { useDatabase } from './support/database.js'
import { hold, type Held } from './support/held.js'
import { rowOf, storeTask, storeWorker, taskId, workerRow } from './support/rows.js'
import { until } from './support/until.js'
import { gate, idle, untilAborted, useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)

const row = (id: string) => rowOf(database.sql, id)

/** Milliseconds from the server's now to when the task is due. */
async function dueInMs(id: string): Promise<number> {
  const [due] = await database.sql<{ ms: number }[]>`
    select extract(epoch from run_at - now())::float8 * 1000 as ms from apalis.jobs where id = ${id}`
  return due!.ms
}

describe('a task', () => {
  it('is claimed, run with its payload and acknowledged [LIFE-01] [LIFE-02] [LIFE-03] [LIFE-04] [LIFE-05] [LIFE-06]', async () => {
    const { storage, events, started } = work<{ to: string; at: Date }, string>()
    const at = new Date(1_700_000_000_000)
    const id = await storage.push({ to: 'ann', at }, { metadata: { trace: 7 }, priority: 3, maxAttempts: 4 })
    const seen = gate<{ args: unknown; ctx: TaskContext<unknown, string>; locked: unknown }>()
    const worker = await started(async (args, ctx) => {
      seen.open({ args, ctx, locked: await row(id) })
      return `sent to ${args.to}`
    })
    expect(await events.next('task.claimed')).toMatchObject({ id, attempt: 1, worker: worker.name, level: 'debug' })
    const { args, ctx, locked } = await seen.opened
    expect(args).toEqual({ to: 'ann', at })
    expect(ctx).toMatchObject({ id, attempt: 1, worker: worker.name })
    expect(ctx.signal.aborted).toBe(false)
    expect(ctx.task).toMatchObject({ id, queue: worker.queue, args, attempt: 1, maxAttempts: 4, priority: 3 })
    expect(ctx.task.metadata).toEqual({ trace: 7 })
    expect(locked).toMatchObject({ status: 'Running', lock_by: worker.name, attempts: 0, done_at: null })
    expect(await events.next('task.done')).toMatchObject({ id, attempt: 1 })
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent to ann' } })
  })

  it('runs once, and what its handler pushed in its own transaction is committed once [LIFE-07] [LIFE-08] [LIFE-09] [LIFE-10]', async () => {
    const next = work<number>()
    const { storage, worker } = work<number>()
    const id = await storage.push(5)
    let runs = 0
    const handled = worker(async (n) => {
      runs += 1
      await database.db.transaction((tx) => pushTaskWithTx(tx, next.queue.task(n + 1)))
    })
    await handled.run({ untilIdle: true })
    expect(runs).toBe(1)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
    const followUps = await database.sql`select status from apalis.jobs where job_type = ${next.queue.name}`
    expect(followUps).toEqual([{ status: 'Pending' }])
  })

  it('that fails its only attempt runs once and is Killed; what its handler committed stays [LIFE-11] [LIFE-12] [LIFE-13]', async () => {
    const next = work<number>()
    const { storage, events, worker } = work<number>({ maxAttempts: 1 })
    const id = await storage.push(5)
    let runs = 0
    const handled = worker(async (n) => {
      runs += 1
      await database.db.transaction((tx) => pushTaskWithTx(tx, next.queue.task(n)))
      throw new Error('the mail server is down')
    })
    await handled.run({ untilIdle: true })
    expect(runs).toBe(1)
    const followUps = await database.sql`select 1 from apalis.jobs where job_type = ${next.queue.name}`
    expect(followUps).toHaveLength(1)
    const killed = await row(id)
    expect(killed).toMatchObject({ status: 'Killed', attempts: 1, last_result: { Err: 'the mail server is down' } })
    expect(await events.next('task.killed')).toMatchObject({ id, attempt: 1, level: 'error' })
  })

  it('is charged one attempt per execution, to success, to Killed, and with a budget of one [NEXT-16]', async () => {
    const { storage, worker } = work<string>({ retry: { baseMs: 0 } })
    const attempts: Record<string, number[]> = { succeeds: [], recovers: [], loses: [], 'has one': [] }
    const ids = {
      succeeds: await storage.push('succeeds'),
      recovers: await storage.push('recovers', { maxAttempts: 3 }),
      loses: await storage.push('loses', { maxAttempts: 3 }),
      'has one': await storage.push('has one', { maxAttempts: 1 }),
    }
    await worker((name, { attempt }) => {
      attempts[name]!.push(attempt)
      if (name !== 'succeeds' && !(name === 'recovers' && attempt === 2)) throw new Error('no')
    }).run({ untilIdle: true })
    expect(attempts).toEqual({ succeeds: [1], recovers: [1, 2], loses: [1, 2, 3], 'has one': [1] })
    expect(await row(ids.succeeds)).toMatchObject({ status: 'Done', attempts: 1 })
    expect(await row(ids.recovers)).toMatchObject({ status: 'Done', attempts: 2 })
    expect(await row(ids.loses)).toMatchObject({ status: 'Killed', attempts: 3 })
    expect(await row(ids['has one'])).toMatchObject({ status: 'Killed', attempts: 1 })
  })

  it('of a higher priority runs first, then the one that is due for longer', async () => {
    const { queue, storage, worker } = work<string>()
    await storage.pushTask(queue.task('low', { priority: 1, runAt: new Date(1_000) }))
    await storage.pushTask(queue.task('middle, later', { priority: 5, runAt: new Date(5_000) }))
    await storage.pushTask(queue.task('high', { priority: 9 }))
    await storage.pushTask(queue.task('middle', { priority: 5, runAt: new Date(1_000) }))
    const order: string[] = []
    await worker((name) => void order.push(name), { concurrency: 1 }).run({ untilIdle: true })
    expect(order).toEqual(['high', 'middle', 'middle, later', 'low'])
  })
})

describe('a task that cannot be read', () => {
  async function damage(id: string) {
    await database.sql`update apalis.jobs set job = 'no json' where id = ${id}`
  }

  it('is charged a failed attempt; the tasks claimed with it run [CLAIM-25] [NEXT-40]', async () => {
    const { storage, events, worker } = work<number>({ maxAttempts: 2 })
    const bad = await storage.push(1)
    const good = await storage.push(2)
    await damage(bad)
    const ran: number[] = []
    await worker((n) => void ran.push(n)).run({ untilIdle: true })
    expect(ran).toEqual([2])
    expect(await row(bad)).toMatchObject({ status: 'Failed', attempts: 1 })
    expect(await row(good)).toMatchObject({ status: 'Done' })
    const failed = await events.next('task.failed')
    expect(failed).toMatchObject({ id: bad, attempt: 1, level: 'warn' })
    expect(failed.cause).toBeInstanceOf(DecodeError)
  })

  it('is Killed when its budget is used up [NEXT-40]', async () => {
    const { storage, worker } = work<number>({ maxAttempts: 2, retry: { baseMs: 0 } })
    const id = await storage.push(1)
    await damage(id)
    await worker(idle).run({ untilIdle: true })
    expect(await row(id)).toMatchObject({ status: 'Killed', attempts: 2 })
  })

  it('because of its id is Killed and unlocked; the task claimed with it runs [NEXT-03]', async () => {
    const { queue, events, worker } = work<object>()
    await storeTask(database.sql, { id: 'not a ulid', queue: queue.name })
    await storeTask(database.sql, { id: taskId(1), queue: queue.name })
    let runs = 0
    await worker(() => void (runs += 1)).run({ untilIdle: true })
    expect(runs).toBe(1)
    expect(await row('not a ulid')).toMatchObject({ status: 'Killed', attempts: 1, lock_by: null, lock_at: null })
    expect(await row(taskId(1))).toMatchObject({ status: 'Done' })
    expect((await events.next('task.killed')).cause).toBeInstanceOf(RowError)
  })
})

describe('a failed attempt', () => {
  it('moves run_at by the backoff of the queue', async () => {
    const { storage, events, started } = work<number>({ retry: { baseMs: 60_000, factor: 3, jitter: 0 } })
    const id = await storage.push(1)
    await database.sql`update apalis.jobs set attempts = 1 where id = ${id}`
    await started(() => {
      throw new Error('no')
    })
    await events.next('task.failed')
    expect(await row(id)).toMatchObject({ status: 'Failed', attempts: 2, last_result: { Err: 'no' } })
    const due = await dueInMs(id)
    expect(due).toBeLessThanOrEqual(180_000)
    expect(due).toBeGreaterThan(170_000)
  })

  it('moves run_at by what the function of the queue says', async () => {
    const refused = new Error('no')
    const retry = vi.fn(() => 90_000)
    const { storage, events, started } = work<number>({ retry })
    const id = await storage.push(1)
    await started(() => {
      throw refused
    })
    await events.next('task.failed')
    expect(retry.mock.calls).toEqual([[1, refused]])
    const due = await dueInMs(id)
    expect(due).toBeLessThanOrEqual(90_000)
    expect(due).toBeGreaterThan(80_000)
  })

  it('waits for the default backoff when that function fails, which is reported', async () => {
    const broken = new Error('broken')
    const retry = () => {
      throw broken
    }
    const { storage, events, started } = work<number>({ retry })
    const id = await storage.push(1)
    await started(() => {
      throw new Error('no')
    })
    const reported = await events.next('worker.error')
    expect(reported).toMatchObject({ level: 'error', operation: 'computing the delay of a retry' })
    expect(reported.cause).toMatchObject({ cause: broken })
    await events.next('task.failed')
    expect(await dueInMs(id)).toBeGreaterThan(0)
  })

  it.each([
    ['milliseconds', () => 60_000],
    ['an instant', () => new Date(Date.now() + 60_000)],
  ])('is repeated after the %s of a RetryAfterError, charged', async (_form, when) => {
    const { storage, events, started } = work<number>()
    const id = await storage.push(1)
    await started(() => {
      throw new RetryAfterError(when(), { cause: new Error('busy') })
    })
    await events.next('task.failed')
    expect(await row(id)).toMatchObject({ status: 'Failed', attempts: 1 })
    const due = await dueInMs(id)
    expect(due).toBeLessThan(61_000)
    expect(due).toBeGreaterThan(50_000)
  })

  it.each([
    ['milliseconds', () => 60_000],
    ['an instant', () => new Date(Date.now() + 60_000)],
  ])('is not charged when a DeferTaskError asks for a later run, by %s', async (_form, when) => {
    const { storage, events, started } = work<number>({ maxAttempts: 1 })
    const id = await storage.push(1)
    await started(() => {
      throw new DeferTaskError(when())
    })
    expect(await events.next('task.deferred')).toMatchObject({ id, attempt: 1, level: 'debug' })
    expect(await row(id)).toMatchObject({ status: 'Pending', attempts: 0, lock_by: null, lock_at: null })
    const due = await dueInMs(id)
    expect(due).toBeLessThan(61_000)
    expect(due).toBeGreaterThan(50_000)
  })

  it.each([
    ['milliseconds', Number.MAX_VALUE],
    ['an instant', new Date(8.64e15)],
  ])('is kept for later even if the delay is more than the column can hold, by %s', async (_form, when) => {
    const { storage, events, started } = work<number>()
    const id = await storage.push(1)
    await started(() => {
      throw new RetryAfterError(when)
    })
    await events.next('task.failed')
    expect(await row(id)).toMatchObject({ status: 'Failed', attempts: 1 })
  })

  it('is the last one when an AbortTaskError says so', async () => {
    const { storage, events, started } = work<number>({ maxAttempts: 5 })
    const id = await storage.push(1)
    await started(() => {
      throw new AbortTaskError('no such customer')
    })
    await events.next('task.killed')
    const Err = expect.stringContaining('no such customer') as string
    expect(await row(id)).toMatchObject({ status: 'Killed', attempts: 1, last_result: { Err } })
  })

  it.each([
    ['nothing', undefined],
    ['a string', 'no'],
    ['null', null],
    ['an error without a readable message', Object.defineProperty(new Error(), 'message', { get: () => fail() })],
    ['an error without a readable name', Object.defineProperty(new Error(), 'name', { get: () => fail() })],
  ])('may throw %s', async (_what, thrown) => {
    const { storage, events, started } = work<number>({ maxAttempts: 1 })
    const id = await storage.push(1)
    await started(() => {
      // eslint-disable-next-line @typescript-eslint/only-throw-error -- Handlers may.
      throw thrown
    })
    expect((await events.next('task.killed')).cause).toBe(thrown)
    expect(await row(id)).toMatchObject({ status: 'Killed', last_result: { Err: expect.any(String) as string } })
  })

  function fail(): never {
    throw new Error('unreadable')
  }
})

describe('a worker whose tasks are fast', () => {
  it('runs each task once while two claims are under way', async () => {
    const { queue, storage, worker } = work<number>()
    const numbers = Array.from({ length: 3_000 }, (_, n) => n)
    await storage.pushTasks(numbers.map((n) => queue.task(n)))
    const began: number[] = []
    await worker((n) => void began.push(n), { concurrency: 5, bufferSize: 1_500 }).run({ untilIdle: true })
    // In any order: which of the two gets the earlier tasks is up to the server.
    expect(began.toSorted((a, b) => a - b)).toEqual(numbers)
  })

  it('claims ahead what it ends in a tenth of a second, and hands it back when tasks become slow', async () => {
    const { queue, storage, started } = work<number>()
    await storage.pushTasks(Array.from({ length: 4_000 }, (_, n) => queue.task(n, { priority: n < 3_000 ? 1 : 0 })))
    const slow = gate()
    const opened = gate()
    onTestFinished(() => opened.open())
    await started(async (n) => {
      if (n < 3_000) return
      slow.open()
      await opened.opened
    })
    await slow.opened
    const ahead = async () => {
      const [row] = await database.sql<[{ count: number }]>`
        select count(*)::int as count from apalis.jobs where status = 'Queued' and job_type = ${queue.name}`
      return row.count
    }
    expect(await ahead()).toBeGreaterThan(10)
    await until(async () => (await ahead()) <= 10, 'what waits beyond ten is handed back')
  })
})

describe('timeoutMs', () => {
  it('aborts the signal, and the attempt is charged as failed', async () => {
    const { storage, events, started } = work<number>({ timeoutMs: 50 })
    const id = await storage.push(1)
    await started(untilAborted)
    const { cause } = await events.next('task.failed')
    expect(cause).toBeInstanceOf(TaskAbortedError)
    expect(cause).toMatchObject({ why: 'timeout', taskId: id })
    const Err = expect.stringContaining('timeoutMs') as string
    expect(await row(id)).toMatchObject({ status: 'Failed', attempts: 1, last_result: { Err } })
  })

  it('lets a handler that ends soon after it succeed', async () => {
    const { storage, events, started } = work<number, string>({ timeoutMs: 50 })
    const id = await storage.push(1)
    await started(async (_args, { signal }) => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve))
      return 'just in time'
    })
    await events.next('task.done')
    expect(await row(id)).toMatchObject({ status: 'Done', last_result: { Ok: 'just in time' } })
  })

  it('reports a handler that ignores its signal, which keeps its slot until it ends', async () => {
    const { storage, events, started } = work<string>({ timeoutMs: 50 })
    const stubborn = await storage.push('stubborn')
    const next = await storage.push('next')
    const ends = gate()
    const began: string[] = []
    await started(
      async (name) => {
        began.push(name)
        if (name === 'stubborn') await ends.opened
      },
      { concurrency: 1 },
    )
    expect(await events.next('task.overrun')).toMatchObject({ id: stubborn, attempt: 1, level: 'warn' })
    await events.next('task.failed', ({ id }) => id === stubborn)
    expect(await row(stubborn)).toMatchObject({ status: 'Failed', attempts: 1 })
    expect(began).toEqual(['stubborn'])
    ends.open()
    await events.next('task.done', ({ id }) => id === next)
    expect(began).toEqual(['stubborn', 'next'])
  })

  it('hands back what was claimed ahead, claims no more, and says so, while every slot is held by such a handler', async () => {
    const { storage, events, started } = work<string>({ timeoutMs: 50 })
    await storage.push('stubborn')
    await storage.push('stubborn')
    const ends = gate()
    await started((name) => (name === 'stubborn' ? ends.opened : undefined), { concurrency: 2, bufferSize: 4 })
    const ahead = await storage.push('ahead')
    await events.next('task.claimed', ({ id }) => id === ahead)
    const isStuck = (event: { readonly operation: string }) => event.operation === 'finding a free slot'
    const { level, message } = await events.next('worker.error', isStuck)
    expect(level).toBe('warn')
    expect(message).toMatch(
      /all 2 slots are held by handlers that ignored their signal, .*; 1 task was handed back; restart/,
    )
    const late = await storage.push('late')
    await events.next('task.deferred', ({ id }) => id === ahead)
    expect(await row(ahead)).toMatchObject({ status: 'Pending', attempts: 0, lock_by: null })
    ends.open()
    await events.next('worker.recovered', isStuck)
    for (const id of [ahead, late]) await events.next('task.done', (event) => event.id === id)
    const types = events.all.map(({ type }) => type)
    const stuck = types.slice(types.indexOf('worker.error'), types.indexOf('worker.recovered'))
    expect(stuck).not.toContain('task.claimed')
  })

  it('ends a run until idle also while every slot is held by such a handler', async () => {
    const { storage, events, worker } = work<string>({ timeoutMs: 50, maxAttempts: 1 })
    const id = await storage.push('stubborn')
    const ends = gate()
    await worker(() => ends.opened, { concurrency: 1, stopTimeoutMs: 0 }).run({ untilIdle: true })
    ends.open()
    expect(await row(id)).toMatchObject({ status: 'Killed', attempts: 1 })
    expect(events.all.map(({ type }) => type)).toContain('worker.error')
  })

  it('covers a schema of the payload that does not answer: its slot waits for it, its handler is never called', async () => {
    const { schema: args, answers, begin } = slowSchema()
    const { storage, events, started } = work<string>({ args, timeoutMs: 50 })
    const slow = await storage.push('slow')
    const next = await storage.push('next')
    begin()
    const began: string[] = []
    await started((name) => void began.push(name), { concurrency: 1 })
    expect(await events.next('task.overrun')).toMatchObject({ id: slow, attempt: 1 })
    expect((await events.next('task.failed')).cause).toMatchObject({ why: 'timeout', taskId: slow })
    expect(await row(slow)).toMatchObject({ status: 'Failed', attempts: 1 })
    answers.open()
    await events.next('task.done', ({ id }) => id === next)
    expect(began).toEqual(['next'])
  })

  it('covers it also where the application acknowledges', async () => {
    const { schema: args, answers, begin } = slowSchema()
    const { storage, events, started } = work<string>({ args, timeoutMs: 50 })
    const slow = await storage.push('slow')
    begin()
    await started(idle, { autoAck: false })
    expect((await events.next('task.failed')).cause).toMatchObject({ why: 'timeout', taskId: slow })
    answers.open()
  })

  it('covers a schema of the result that does not answer: the work is done, so the task ends and does not run again', async () => {
    const { schema: result, answers, begin } = slowSchema()
    const { storage, events, started } = work<string, string>({ result, timeoutMs: 50, retry: { baseMs: 0 } })
    const slow = await storage.push('slow')
    const next = await storage.push('next')
    begin()
    const ran: string[] = []
    await started((name) => (ran.push(name), name), { concurrency: 1 })
    expect(await events.next('task.overrun')).toMatchObject({ id: slow, attempt: 1 })
    expect((await events.next('task.killed')).cause).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'result' })
    const Err = expect.stringMatching(/finished and is not run again.*schema/) as string
    expect(await row(slow)).toMatchObject({ status: 'Killed', attempts: 1, last_result: { Err } })
    answers.open()
    await events.next('task.done', ({ id }) => id === next)
    expect(ran).toEqual(['slow', 'next'])
  })

  it('which a shutdown does not wait for either, ends the task as well', async () => {
    const { schema: result, answers, begin } = slowSchema()
    const { storage, started } = work<string, string>({ result })
    const slow = await storage.push('slow')
    begin()
    const ran = gate()
    const worker = await started((name) => (ran.open(), name))
    await ran.opened
    await worker.stop({ timeoutMs: 0 })
    expect(await row(slow)).toMatchObject({ status: 'Killed', attempts: 1 })
    answers.open()
  })

  /** A schema that, once `begin` was called, answers for the value `slow` only when `answers` is opened. */
  function slowSchema() {
    const answers = gate()
    let isSlow = false
    const validate = async (value: unknown) => {
      if (isSlow && value === 'slow') await answers.opened
      return { value: value as string }
    }
    const schema: StandardSchema<string, string> = { '~standard': { version: 1, vendor: 'test', validate } }
    return { schema, answers, begin: () => void (isSlow = true) }
  }
})

describe('a result', () => {
  it.each([
    ['that cannot be serialised', () => ({ callback: () => 1 })],
    ['that is too large', () => 'x'.repeat(1_048_577)],
  ])('%s ends its task as Killed, and the task is not run again [NEXT-09]', async (_what, result) => {
    const { storage, events, worker } = work<number, unknown>({ retry: { baseMs: 0 } })
    const id = await storage.push(1)
    let runs = 0
    await worker(() => {
      runs += 1
      return result()
    }).run({ untilIdle: true })
    expect(runs).toBe(1)
    const Err = expect.stringContaining('its result could not be stored') as string
    expect(await row(id)).toMatchObject({ status: 'Killed', attempts: 1, last_result: { Err } })
    expect(isApalisError((await events.next('task.killed')).cause, 'INVALID_ARGUMENT')).toBe(true)
  })
})

describe('concurrency', () => {
  it('is reached and never exceeded', async () => {
    const { queue, storage, worker } = work<number>()
    await storage.pushTasks(Array.from({ length: 40 }, (_, n) => queue.task(n)))
    let running = 0
    let most = 0
    await worker(
      async () => {
        most = Math.max(most, ++running)
        await database.sql`select 1`
        running -= 1
      },
      { concurrency: 4 },
    ).run({ untilIdle: true })
    expect(most).toBe(4)
    const done = await database.sql`select 1 from apalis.jobs where job_type = ${queue.name} and status = 'Done'`
    expect(done).toHaveLength(40)
  })

  it('leaves claimed tasks Queued that have not started, and shows them as Running soon after they have', async () => {
    const { storage, events, started } = work<number>()
    const first = await storage.push(1)
    const second = await storage.push(2)
    const third = await storage.push(3)
    const firstEnds = gate()
    const secondEnds = gate()
    await started((n) => (n === 1 ? firstEnds.opened : n === 2 ? secondEnds.opened : undefined), { concurrency: 1 })
    await events.next('task.claimed', ({ id }) => id === third)
    expect(await row(first)).toMatchObject({ status: 'Running' })
    expect(await row(second)).toMatchObject({ status: 'Queued' })
    expect(await row(third)).toMatchObject({ status: 'Queued' })
    firstEnds.open()
    await until(async () => (await row(second))!['status'] === 'Running', 'the second task is shown as Running')
    expect(await row(third)).toMatchObject({ status: 'Queued' })
    secondEnds.open()
    await events.next('task.done', ({ id }) => id === third)
  })

  it('shows a task as Running also when a transaction held it at first', async () => {
    const { storage, events, started } = work<number>()
    await storage.push(1)
    await storage.push(2)
    const locked = await storage.push(3)
    const free = await storage.push(4)
    const ends = gate()
    const held = gate<Held>()
    onTestFinished(async () => (await held.opened).release())
    await started(
      async (n) => {
        if (n === 1) held.open(await hold(database.sql, `select from apalis.jobs where id = '${locked}' for update`))
        else await (n === 2 ? held.opened : ends.opened)
      },
      { concurrency: 2 },
    )
    await until(async () => (await row(free))!['status'] === 'Running', 'the free task is shown as Running')
    expect(await row(locked)).toMatchObject({ status: 'Queued' })
    await (await held.opened).release()
    await until(async () => (await row(locked))!['status'] === 'Running', 'the other task is shown as Running')
    ends.open()
    await events.next('task.done', ({ id }) => id === locked)
  })
})

describe('the settings of a worker', () => {
  it('are refused when its heartbeat would be too slow, before anything is written [NEXT-29]', async () => {
    const { queue, worker } = work()
    const options = { keepAliveMs: 1_000, reenqueueOrphanedAfterMs: 1_000 }
    expect(() => worker(idle, options)).toThrow(/keepAliveMs.*not below reenqueueOrphanedAfterMs/)
    expect(await database.sql`select 1 from apalis.workers where worker_type = ${queue.name}`).toEqual([])
  })

  it('are those of the storage unless it has its own', async () => {
    const { storage, worker } = work()
    expect(() => worker(idle, { keepAliveMs: 200, reenqueueOrphanedAfterMs: 100 })).toThrow(/reenqueueOrphanedAfterMs/)
    expect(() => worker(idle, { concurrency: 0 })).toThrow(/concurrency/)
    expect(() => storage.worker(undefined as never)).toThrow(/handler/)
  })
})

describe('a registration that fails', () => {
  it('ends the start with just that error, and nothing is claimed [REG-06] [NEXT-28]', async () => {
    const { queue, storage, worker } = work<number>()
    await storeWorker(database.sql, { id: 'mailer#1', queue: queue.name })
    const id = await storage.push(1)
    const refused = worker(idle, { name: 'mailer#1' })
    await expect(refused.start()).rejects.toMatchObject({ code: 'ALREADY_REGISTERED', worker: 'mailer#1' })
    expect(await row(id)).toMatchObject({ status: 'Pending', lock_by: null })
    expect(await workerRow(database.sql, 'mailer#1', queue.name)).toMatchObject({ storage_name: 'test' })
  })

  it('leaves a base name free to take the next number', async () => {
    const { queue, started } = work<number>()
    await storeWorker(database.sql, { id: 'mailer#1', queue: queue.name })
    expect((await started(idle, { name: 'mailer' })).name).toBe('mailer#2')
  })
})

describe('events', () => {
  it('name a handler error without quoting it, and carry it', async () => {
    const { storage, events, started } = work<{ card: string }>()
    const id = await storage.push({ card: '4000-1234' })
    const error = Object.assign(new TypeError('4000-1234 is no card'), { code: 'E_CARD' })
    await started(() => {
      throw error
    })
    const failed = await events.next('task.failed')
    expect(failed.message).toContain(`attempt 1 of task ${id} failed: TypeError E_CARD`)
    expect(failed.cause).toBe(error)
    expect(events.all.map(({ message }) => message).join('\n')).not.toContain('4000-1234')
  })

  it('can be logged as a whole without the error, which may quote a payload', async () => {
    const { storage, events, started } = work<string>({ maxAttempts: 1 })
    await storage.push('secret')
    await started((args) => {
      throw new Error(`cannot send ${args}`)
    })
    const event = await events.next('task.killed')
    expect(String(event.cause)).toContain('secret')
    expect(JSON.stringify(event) + inspect(event)).not.toContain('secret')
  })

  it('go to the console without a callback, warnings and errors only, one line each', async () => {
    const { queue } = work<string>({ maxAttempts: 2, retry: { baseMs: 0 } })
    const printed: unknown[][] = []
    const consoles = (['debug', 'info', 'log', 'warn', 'error'] as const).map((level) =>
      vi.spyOn(console, level).mockImplementation((...line) => void printed.push([level, ...line])),
    )
    const storage = new PostgresStorage(database.db, queue)
    const id = await storage.push('secret')
    await storage
      .worker((args) => {
        throw new Error(`two\nlines of ${args}`)
      })
      .run({ untilIdle: true })
    for (const spied of consoles) spied.mockRestore()
    expect(printed).toEqual([
      [
        'warn',
        `apalis-drizzle task.failed: worker#1 (${queue.name}): attempt 1 of task ${id} failed: Error; its text is in apalis.jobs.last_result, which StoredTask.error shows`,
      ],
      [
        'error',
        `apalis-drizzle task.killed: worker#1 (${queue.name}): task ${id} is given up in attempt 2: Error; its text is in apalis.jobs.last_result, which StoredTask.error shows`,
      ],
    ])
  })

  it.each([
    [
      'throws',
      () => {
        throw new Error('broken')
      },
    ],
    ['rejects', () => Promise.reject(new Error('broken'))],
  ])('harm nothing when the callback %s', async (_how, onEvent: () => unknown) => {
    const { queue, storage, worker } = work<number>()
    await storage.pushTasks([1, 2, 3].map((n) => queue.task(n)))
    await worker(idle, { onEvent }).run({ untilIdle: true })
    const done = await database.sql`select 1 from apalis.jobs where job_type = ${queue.name} and status = 'Done'`
    expect(done).toHaveLength(3)
  })
})
