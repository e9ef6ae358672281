/**
 * Shows what a loop of the application's own gets, what its acknowledgements record, and what becomes of claims when it ends.
 */
import {
  AlreadyRegisteredError,
  DatabaseError,
  DecodeError,
  defineQueue,
  InvalidArgumentError,
  MissingFieldError,
  PostgresStorage,
  StaleAcknowledgementError,
  typed,
  type Claim,
  type Outcome,
  type QueueOptions,
  type StandardSchema,
  type StorageConfig,
  type TaskContext,
} from 'apalis-drizzle'
import { recordEvents } from 'apalis-drizzle/testing'
import { describe, expect, it } from 'vitest'
import { DEADLINES } from '../src/processes/deadlines.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import { rowOf, storeWorker, workerRow } from './support/rows.js'
import { until } from './support/until.js'
import { gate, useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)

const row = (id: string) => rowOf(database.sql, id)

function polled<Result = string>(config: StorageConfig = {}, options: QueueOptions<number, Result, number> = {}) {
  const queue = defineQueue<number, Result>(`queue ${crypto.randomUUID()}`, options)
  const events = recordEvents()
  const storage = new PostgresStorage(database.db, queue, { pollIntervalMs: 10, onEvent: events.onEvent, ...config })
  const push = (count: number) => Promise.all(Array.from({ length: count }, (_, n) => storage.push(n)))
  return { queue: queue.name, events, storage, push }
}

/** One claim, and the loop that it came from. */
async function oneClaim<Result = string>(
  config: StorageConfig = {},
  options: QueueOptions<number, Result, number> = {},
) {
  const made = polled<Result>(config, options)
  const id = await made.storage.push(1)
  const loop = made.storage.poll({ worker: 'mine' })[Symbol.asyncIterator]()
  const { value: claim } = await loop.next()
  return { ...made, id, loop, claim: claim as Claim<number> }
}

async function statuses(queue: string): Promise<Record<string, number>> {
  const rows = await database.sql<{ status: string; count: number }[]>`
    select status, count(*)::int as count from apalis.jobs where job_type = ${queue} group by status`
  return Object.fromEntries(rows.map(({ status, count }) => [status, count]))
}

const DONE: Outcome<string> = { status: 'Done', result: 'sent' }

describe('poll', () => {
  it('gives due tasks to a loop, by priority and age, and ends with it [FETCH-08]', async () => {
    const { queue, storage, events } = polled()
    await storage.push(1, { runAt: new Date(5_000) })
    await storage.push(2, { runAt: new Date(1_000) })
    await storage.push(3, { priority: 1, metadata: { trace: 7 } })
    const got: number[] = []
    for await (const claim of storage.poll({ worker: 'mine' })) {
      got.push(claim.args)
      if (claim.args === 3) {
        expect(claim).toMatchObject({ queue, attempt: 1, worker: 'mine#1', priority: 1, metadata: { trace: 7 } })
        expect(await row(claim.id)).toMatchObject({ status: 'Running', lock_by: 'mine#1' })
      }
      await storage.ack(claim, DONE)
      if (got.length === 3) break
    }
    expect(got).toEqual([3, 2, 1])
    expect(await statuses(queue)).toEqual({ Done: 3 })
    expect((await events.next('worker.stopped')).worker).toBe('mine#1')
    expect(await workerRow(database.sql, 'mine#1', queue)).toMatchObject({ lease_token: null })
  })

  it('waits for a task that is pushed later, and is woken for it', async () => {
    const { storage, events } = polled({ pollIntervalMs: () => 600_000 })
    const loop = storage.poll({ worker: 'mine' })[Symbol.asyncIterator]()
    const next = loop.next()
    await events.next('listener.up')
    const id = await storage.push(7)
    const { value } = await next
    expect(value).toMatchObject({ id, args: 7 })
    await storage.ack(value as Claim<number>, DONE)
    await loop.return?.()
  })

  it('claims no more than bufferSize ahead of the loop, and shows those as Queued [SHARED-05]', async () => {
    const { queue, storage, push } = polled({ bufferSize: 3 })
    await push(20)
    const loop = storage.poll({ worker: 'mine' })[Symbol.asyncIterator]()
    const taken = [await loop.next()]
    expect(await statuses(queue)).toEqual({ Running: 1, Queued: 3, Pending: 16 })
    // From the buffer, and shown as Running once it has been held for a while.
    taken.push(await loop.next())
    await until(async () => (await statuses(queue))['Running'] === 2, 'both are shown as Running')
    expect(await statuses(queue)).toEqual({ Running: 2, Queued: 2, Pending: 16 })
    taken.push(await loop.next())
    await until(async () => (await statuses(queue))['Pending'] === 14, 'the buffer is filled again')
    for (const { value } of taken) await storage.ack(value as Claim<number>, DONE)
    await loop.return?.()
  })

  it('claims ten ahead if not told otherwise [SHARED-04]', async () => {
    const { queue, storage, push } = polled()
    await push(20)
    const loop = storage.poll({ worker: 'mine' })[Symbol.asyncIterator]()
    const { value } = await loop.next()
    expect(await statuses(queue)).toEqual({ Running: 1, Queued: 10, Pending: 9 })
    await storage.ack(value as Claim<number>, DONE)
    await loop.return?.()
  })

  it('serves several consumers of one loop, each with a task of its own', async () => {
    const { storage, push } = polled()
    const loop = storage.poll({ worker: 'mine' })[Symbol.asyncIterator]()
    const nexts = [loop.next(), loop.next(), loop.next()]
    await push(3)
    const claims = (await Promise.all(nexts)).map(({ value }) => value as Claim<number>)
    expect(claims.map(({ args }) => args).toSorted()).toEqual([0, 1, 2])
    await Promise.all(claims.map((claim) => storage.ack(claim, DONE)))
    await loop.return?.()
  })

  it('charges a task that cannot be read, reports it and goes on [CLAIM-25] [CLAIM-26] [NEXT-40]', async () => {
    const { storage, events } = polled()
    const bad = await storage.push(1, { priority: 1 })
    await database.sql`update apalis.jobs set job = 'no json' where id = ${bad}`
    const good = await storage.push(2)
    const loop = storage.poll({ worker: 'mine' })[Symbol.asyncIterator]()
    const { value } = await loop.next()
    expect(value).toMatchObject({ id: good })
    const failed = await events.next('task.failed')
    expect(failed).toMatchObject({ id: bad, attempt: 1 })
    expect(failed.cause).toBeInstanceOf(DecodeError)
    expect(await row(bad)).toMatchObject({ status: 'Failed', attempts: 1 })
    await storage.ack(value as Claim<number>, DONE)
    await loop.return?.()
  })

  it('keeps what the loop got alive, also when it takes longer than others wait for a silent worker', async () => {
    const { loop, claim, storage, id, queue } = await oneClaim({ keepAliveMs: 100, reenqueueOrphanedAfterMs: 1_000 })
    const [before] = await database.sql`select last_seen from apalis.workers where worker_type = ${queue}`
    await until(async () => {
      const [now] = await database.sql`select last_seen from apalis.workers where worker_type = ${queue}`
      return (now!['last_seen'] as Date).getTime() - (before!['last_seen'] as Date).getTime() > 1_500
    }, 'heartbeats have come')
    expect(await row(id)).toMatchObject({ status: 'Running', attempts: 0 })
    await storage.ack(claim, DONE)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent' } })
    await loop.return?.()
  })

  it('goes on under a new registration when it lost its own, and the claims of the old one are stale', async () => {
    const { loop, claim, storage, id, queue, events } = await oneClaim({
      keepAliveMs: 50,
      reenqueueOrphanedAfterMs: 1_000,
    })
    const next = loop.next()
    await database.sql`update apalis.workers set lease_token = 'of another', last_seen = now() - interval '1 hour'
      where worker_type = ${queue}`
    await events.next('heartbeat.regained')
    expect(await caught(storage.ack(claim, DONE))).toBeInstanceOf(StaleAcknowledgementError)
    const again = (await next).value as Claim<number>
    expect(again).toMatchObject({ id })
    await storage.ack(again, DONE)
    expect(await row(id)).toMatchObject({ status: 'Done' })
    await loop.return?.()
  })
})

describe('poll: registration', () => {
  it('registers nothing before it is asked for a task; ending it then leaves another loop alone [NEXT-12]', async () => {
    const { storage, queue, push } = polled()
    const unused = storage.poll({ worker: 'mine' })[Symbol.asyncIterator]()
    expect(await unused.return?.()).toEqual({ done: true, value: undefined })
    expect(await database.sql`select from apalis.workers where worker_type = ${queue}`).toHaveLength(0)

    const used = storage.poll({ worker: 'mine' })[Symbol.asyncIterator]()
    const next = used.next()
    const other = storage.poll({ worker: 'mine' })[Symbol.asyncIterator]()
    await other.return?.()
    expect(await other.next()).toEqual({ done: true, value: undefined })
    await push(1)
    await storage.ack((await next).value as Claim<number>, DONE)
    await used.return?.()
  })

  it('throws what kept it from registering and ends; the next loop may try again [REG-06] [NEXT-13]', async () => {
    const { storage, queue, push } = polled()
    await storeWorker(database.sql, { id: 'mine#1', queue })
    await push(1)
    const polls = storage.poll({ worker: 'mine#1' })
    const refused = polls[Symbol.asyncIterator]()
    const nexts = await Promise.allSettled([refused.next(), refused.next()])
    expect(nexts[0]).toMatchObject({ status: 'rejected', reason: expect.any(AlreadyRegisteredError) as Error })
    expect(nexts[1]).toEqual({ status: 'fulfilled', value: { done: true, value: undefined } })
    expect(await refused.next()).toEqual({ done: true, value: undefined })
    expect(await statuses(queue)).toEqual({ Pending: 1 })

    await database.sql`update apalis.workers set lease_token = null, last_seen = now() - interval '1 hour'
      where worker_type = ${queue}`
    for await (const claim of polls) {
      await storage.ack(claim, DONE)
      break
    }
    expect(await statuses(queue)).toEqual({ Done: 1 })
  })

  it('gives each of two loops at the same time a worker of its own [SHARED-02] [SHARED-11]', async () => {
    const { storage, push } = polled({ bufferSize: 1 })
    const polls = storage.poll({ worker: 'mine' })
    const loops = [polls[Symbol.asyncIterator](), polls[Symbol.asyncIterator]()]
    const nexts = Promise.all(loops.map((loop) => loop.next()))
    await push(4)
    const claims = (await nexts).map(({ value }) => value as Claim<number>)
    expect(new Set(claims.map(({ worker }) => worker))).toEqual(new Set(['mine#1', 'mine#2']))
    await Promise.all(claims.map((claim) => storage.ack(claim, DONE)))
    await Promise.all(loops.map((loop) => loop.return!()))
  })

  it('refuses a name that cannot be one', () => {
    const { storage } = polled()
    expect(() => storage.poll({ worker: '' })).toThrow(InvalidArgumentError)
  })
})

describe('poll: when the loop ends', () => {
  it('hands back what it has not given away, uncharged [FETCH-09]', async () => {
    const { queue, storage, push } = polled({ bufferSize: 5 })
    await push(10)
    for await (const claim of storage.poll({ worker: 'mine' })) {
      await until(async () => (await statuses(queue))['Queued'] === 5, 'the buffer is full')
      await storage.ack(claim, DONE)
      break
    }
    expect(await statuses(queue)).toEqual({ Done: 1, Pending: 9 })
    expect(await database.sql`select from apalis.jobs where job_type = ${queue} and attempts = 0`).toHaveLength(9)
  })

  it('by an error inside, that error leaves the loop', async () => {
    const { queue, storage, push, events } = polled()
    await push(2)
    const broken = new Error('broken')
    const looping = (async () => {
      for await (const claim of storage.poll({ worker: 'mine' })) {
        await storage.ack(claim, { status: 'Failed', error: broken, delayMs: 60_000 })
        throw broken
      }
    })()
    expect(await caught(looping)).toBe(broken)
    await events.next('worker.stopped')
    expect(await statuses(queue)).toEqual({ Failed: 1, Pending: 1 })
  })

  it('hears of no more tasks; another loop over the queue still does [SHARED-07]', async () => {
    const { storage, events } = polled({ pollIntervalMs: () => 600_000 })
    const ending = storage.poll({ worker: 'ending' })[Symbol.asyncIterator]()
    const staying = storage.poll({ worker: 'staying' })[Symbol.asyncIterator]()
    const nexts = [ending.next(), staying.next()] as const
    await Promise.all([events.next('listener.up'), events.next('listener.up')])
    await ending.return?.()
    expect(await nexts[0]).toMatchObject({ done: true })
    await storage.push(1)
    const claim = (await nexts[1]).value as Claim<number>
    await storage.ack(claim, DONE)
    await staying.return?.()
    const claimed = events.all.filter(({ type }) => type === 'task.claimed')
    expect(claimed.map(({ worker }) => worker)).toEqual(['staying#1'])
  })

  it('by its signal, also while it waits; and with a signal that has aborted already nothing begins', async () => {
    const { queue, storage, events } = polled()
    const stop = new AbortController()
    const loop = storage.poll({ worker: 'mine', signal: stop.signal })[Symbol.asyncIterator]()
    const next = loop.next()
    await events.next('worker.started')
    stop.abort()
    expect(await next).toEqual({ done: true, value: undefined })
    await events.next('worker.stopped')

    await database.sql`delete from apalis.workers where worker_type = ${queue}`
    for await (const _ of storage.poll({ worker: 'mine', signal: stop.signal })) expect.unreachable()
    expect(await database.sql`select from apalis.workers where worker_type = ${queue}`).toHaveLength(0)
  })

  it('keeps what the loop got until it is acknowledged, and then releases its name', async () => {
    const { queue, storage, push, events } = polled({ keepAliveMs: 50, reenqueueOrphanedAfterMs: 1_000 })
    await push(3)
    const claims: Claim<number>[] = []
    for await (const claim of storage.poll({ worker: 'mine' })) {
      claims.push(claim)
      if (claims.length === 2) break
    }
    await until(async () => (await statuses(queue))['Pending'] === 1, 'the third is handed back')
    const [seen] = await database.sql`select last_seen from apalis.workers where worker_type = ${queue}`
    await until(async () => {
      const [now] = await database.sql`select last_seen from apalis.workers where worker_type = ${queue}`
      return (now!['last_seen'] as Date) > (seen!['last_seen'] as Date)
    }, 'a heartbeat after the loop')
    await storage.ack(claims[0]!, DONE)
    expect(events.all.some(({ type }) => type === 'worker.stopped')).toBe(false)
    await storage.ack(claims[1]!, DONE)
    await events.next('worker.stopped')
    expect(await statuses(queue)).toEqual({ Done: 2, Pending: 1 })
    expect(await workerRow(database.sql, 'mine#1', queue)).toMatchObject({ lease_token: null })
  })
})

describe('ack', () => {
  it.each<[string, Outcome<string>, object]>([
    ['Done', DONE, { status: 'Done', attempts: 1, last_result: { Ok: 'sent' } }],
    [
      'Failed',
      { status: 'Failed', error: new Error('no') },
      { status: 'Failed', attempts: 1, last_result: { Err: 'no' } },
    ],
    ['Killed', { status: 'Killed', error: 'gone' }, { status: 'Killed', attempts: 1, last_result: { Err: 'gone' } }],
  ])('records %s', async (_, outcome, expected) => {
    const { storage, claim, loop, id } = await oneClaim({}, { retry: { baseMs: 60_000, jitter: 0 } })
    await storage.ack(claim, outcome)
    expect(await row(id)).toMatchObject(expected)
    await loop.return?.()
  })

  it('of a failure waits for the backoff of the queue, or for the delay it names', async () => {
    const delays: number[] = []
    for (const delayMs of [undefined, 5_000]) {
      const { storage, claim, loop, id } = await oneClaim({}, { retry: () => 90_000 })
      await storage.ack(claim, { status: 'Failed', error: 'no', delayMs })
      const [due] = await database.sql<{ ms: number }[]>`
        select extract(epoch from run_at - done_at)::float8 * 1000 as ms from apalis.jobs where id = ${id}`
      delays.push(due!.ms)
      await loop.return?.()
    }
    expect(delays).toEqual([90_000, 5_000])
  })

  it('of the last failure makes the task Killed', async () => {
    const { storage, claim, loop, id, events } = await oneClaim({}, { maxAttempts: 1 })
    await storage.ack(claim, { status: 'Failed', error: new Error('no') })
    expect(await row(id)).toMatchObject({ status: 'Killed', attempts: 1 })
    await events.next('task.killed')
    await loop.return?.()
  })

  it('counts once: the second is refused and changes nothing [NEXT-19]', async () => {
    const { storage, claim, loop, id } = await oneClaim()
    await storage.ack(claim, DONE)
    const after = await row(id)
    const second = await caught(storage.ack(claim, { status: 'Killed', error: 'late' }))
    expect(second).toBeInstanceOf(StaleAcknowledgementError)
    expect(second).toMatchObject({ taskId: id, worker: 'mine#1' })
    expect(await row(id)).toEqual(after)
    await loop.return?.()
  })

  it.each<[string, QueueOptions<number, string, number>]>([
    ['', {}],
    [', also while its result is being checked', { result: slowSchema() }],
  ])('of two at the same time, one counts%s [NEXT-20]', async (_, options) => {
    const { storage, claim, loop, id } = await oneClaim({}, options)
    const outcomes = [DONE, { status: 'Done', result: 'other' } as const]
    const acks = await Promise.allSettled(outcomes.map((outcome) => storage.ack(claim, outcome)))
    expect(acks.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    expect(acks[1]).toMatchObject({ reason: expect.any(StaleAcknowledgementError) as Error })
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent' } })
    await loop.return?.()
  })

  it('goes by the attempt of the database, whatever the object says [NEXT-18]', async () => {
    const { storage, claim, loop, id } = await oneClaim()
    Object.assign(claim, { attempt: 2 ** 40 })
    await storage.ack(claim, DONE)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
    await loop.return?.()
  })

  it('of a task that another worker has taken over is stale', async () => {
    const { storage, claim, loop, id, queue } = await oneClaim()
    await storeWorker(database.sql, { id: 'other#1', queue })
    await database.sql`update apalis.jobs set lock_by = 'other#1', lock_at = date_trunc('second', now()) where id = ${id}`
    expect(await caught(storage.ack(claim, DONE))).toBeInstanceOf(StaleAcknowledgementError)
    expect(await row(id)).toMatchObject({ status: 'Running', lock_by: 'other#1', attempts: 0 })
    await loop.return?.()
  })

  it('refuses a result that cannot be stored, and an outcome that is none; the claim stays', async () => {
    const { storage, claim, loop, id } = await oneClaim<unknown>()
    const refused: unknown[] = [
      { status: 'Done', result: () => 1 },
      { status: 'Failed', error: 'no', delayMs: -1 },
      { status: 'Pending' },
    ]
    for (const outcome of refused) {
      expect(await caught(storage.ack(claim, outcome as Outcome<unknown>))).toBeInstanceOf(InvalidArgumentError)
    }
    expect(await row(id)).toMatchObject({ status: 'Running', attempts: 0, last_result: null })
    await storage.ack(claim, { status: 'Done', result: null })
    expect(await row(id)).toMatchObject({ status: 'Done' })
    await loop.return?.()
  })

  it.each([
    ['id', { id: undefined }],
    ['worker', { worker: undefined }],
    ['queue', { queue: undefined }],
    ['lock time', {}],
  ])('names the field that an object lacks which is no claim: its %s [ACK-19]', async (field, change) => {
    const { storage, claim, loop } = await oneClaim()
    const made = { ...claim, ...change } as Claim<number>
    const error = await caught(storage.ack(made, DONE))
    expect(error).toBeInstanceOf(MissingFieldError)
    expect((error as MissingFieldError).field).toContain(field)
    await storage.ack(claim, DONE)
    await loop.return?.()
  })

  it('refuses a claim of another queue', async () => {
    const { storage, claim, loop } = await oneClaim()
    const other = polled()
    expect(await caught(other.storage.ack(claim, DONE))).toMatchObject({ argument: 'claim' })
    expect(await caught(storage.ack(undefined as never, DONE))).toMatchObject({ argument: 'claim' })
    await storage.ack(claim, DONE)
    await loop.return?.()
  })

  it('waits for a database that is away', async () => {
    const { storage, claim, loop, id, events } = await oneClaim()
    await database.sql`select pg_terminate_backend(pid) from pg_stat_activity
      where application_name = 'apalis-drizzle worker' and datname = current_database()`
    await storage.ack(claim, DONE)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
    expect(events.all.some(({ type }) => type === 'task.done')).toBe(true)
    await loop.return?.()
  })
})

describe('a worker without autoAck', () => {
  it('leaves the outcome to the application; the slot is free, the task stays Running [ACK-26]', async () => {
    const { storage, started } = work<number, string>({})
    const ids = [await storage.push(1), await storage.push(2)]
    const got: Claim<number>[] = []
    const both = gate()
    const worker = await started(
      (_, { task }) => {
        got.push(task)
        if (got.length === 2) both.open()
        return 'ignored'
      },
      { autoAck: false, concurrency: 1 },
    )
    await both.opened
    expect(await row(ids[0]!)).toMatchObject({ status: 'Running', attempts: 0, last_result: null })
    for (const task of got) await storage.ack(task, { status: 'Done', result: `sent ${task.args}` })
    expect(await row(ids[0]!)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent 1' } })
    await worker.stop()
  })

  it('takes an acknowledgement from within the handler, and records nothing twice', async () => {
    const { storage, worker, events } = work<number, string>()
    const id = await storage.push(1)
    const acking = async (_: number, { task }: TaskContext<number, string>) => {
      await storage.ack(task, DONE)
      return 'ignored'
    }
    await worker(acking, { autoAck: false }).run({ untilIdle: true })
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent' } })
    expect(events.all.filter(({ type }) => type.startsWith('task.')).map(({ type }) => type)).toEqual([
      'task.claimed',
      'task.done',
    ])
  })

  it('reports what the handler throws, and leaves that to the application as well', async () => {
    const { storage, started, events } = work<number, string>()
    const id = await storage.push(1)
    const broken = new Error('broken')
    const seen = gate<Claim<number>>()
    await started(
      (_, { task }) => {
        seen.open(task)
        throw broken
      },
      { autoAck: false },
    )
    const task = await seen.opened
    expect(await events.next('worker.error')).toMatchObject({ cause: broken })
    expect(await row(id)).toMatchObject({ status: 'Running', attempts: 0 })
    await storage.ack(task, { status: 'Failed', error: broken, delayMs: 60_000 })
    expect(await row(id)).toMatchObject({ status: 'Failed', attempts: 1 })
  })

  it('claims no more while bufferSize and concurrency together wait to be acknowledged', async () => {
    const { storage, started, queue } = work<number, string>()
    await storage.pushTasks(Array.from({ length: 20 }, (_, n) => queue.task(n)))
    const got: Claim<number>[] = []
    const seven = gate()
    const worker = await started(
      (_, { task }) => {
        if (got.push(task) === 7) seven.open()
        return 'ignored'
      },
      { autoAck: false, concurrency: 3, bufferSize: 4 },
    )
    await seven.opened
    // Were there room, each acknowledgement would bring more than the one task that it makes room for.
    for (let acknowledged = 1; acknowledged <= 3; acknowledged++) {
      await storage.ack(got.shift()!, DONE)
      await until(async () => got.length === 7, 'the room that it left is used')
      expect(await statuses(queue.name)).toMatchObject({ Done: acknowledged, Pending: 13 - acknowledged })
    }
    await worker.stop({ timeoutMs: 0 })
  })

  it('does not bound what a loop asked for by itself', async () => {
    const { storage, push } = polled({ bufferSize: 1 })
    await push(5)
    const claims: Claim<number>[] = []
    for await (const claim of storage.poll({ worker: 'mine' })) if (claims.push(claim) === 5) break
    for (const claim of claims) await storage.ack(claim, DONE)
  })

  it('fails a task that cannot be read all the same', async () => {
    const { storage, started, events } = work<number, string>()
    const id = await storage.push(1)
    await database.sql`update apalis.jobs set job = 'no json' where id = ${id}`
    await started(() => expect.unreachable(), { autoAck: false })
    await events.next('task.failed')
    expect(await row(id)).toMatchObject({ status: 'Failed', attempts: 1 })
  })

  it('hands back what is not acknowledged when it has waited for its timeout, uncharged', async () => {
    const { storage, started } = work<number, string>()
    const id = await storage.push(1)
    const seen = gate<Claim<number>>()
    const worker = await started((_, { task }) => (seen.open(task), ''), { autoAck: false })
    const task = await seen.opened
    await worker.stop({ timeoutMs: 100 })
    expect(await row(id)).toMatchObject({ status: 'Pending', attempts: 0, lock_by: null })
    expect(await caught(storage.ack(task, DONE))).toBeInstanceOf(StaleAcknowledgementError)
  })

  it('says that an outcome could not be recorded when the worker stopped before the database took it', async () => {
    const { storage, started } = work<number, string>()
    const id = await storage.push(1)
    const seen = gate<Claim<number>>()
    const deadlines = { ...DEADLINES, lastCallMs: 100 }
    const worker = await started((_, { task }) => (seen.open(task), ''), { autoAck: false }, deadlines)
    const task = await seen.opened
    const held = await hold(database.sql, `select from apalis.jobs where id = '${id}' for update`)
    const [refused] = await Promise.all([caught(storage.ack(task, DONE)), worker.stop({ timeoutMs: 100 })])
    expect(refused).toBeInstanceOf(DatabaseError)
    expect((refused as Error).message).toContain(`acknowledging task ${id}`)
    await held.release()
  })

  it('refuses the task of a worker that acknowledges by itself', async () => {
    const { storage, worker } = work<number, string>()
    await storage.push(1)
    let refused: unknown
    const handler = async (_: number, { task }: TaskContext<number, string>) => {
      refused = await caught(storage.ack(task, DONE))
      return 'recorded'
    }
    await worker(handler).run({ untilIdle: true })
    expect(refused).toBeInstanceOf(MissingFieldError)
  })
})

function slowSchema(): StandardSchema<string, string> {
  const schema = typed<string>()
  return { '~standard': { ...schema['~standard'], validate: (value) => Promise.resolve({ value: value as string }) } }
}
