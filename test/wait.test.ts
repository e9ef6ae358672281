/** Shows how `waitFor`, `waitForSingle` and `checkStatus` learn how tasks ended. */
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { defineQueue, PostgresStorage, type Handler, type PgDb, type TaskId, type TaskResult } from '../src/index.js'
import { endedHere } from '../src/processes/ended-here.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { startProxy, type PostgresProxy } from './support/proxy.js'
import { clearTasks, storeTask, taskId, type StoredTask } from './support/rows.js'
import { gate, useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)

const emails = defineQueue<string, number>('emails')
const storageOf = (db: PgDb = database.db) => new PostgresStorage(db, emails)

beforeEach(() => clearTasks(database.sql))

const one = taskId(1)
const two = taskId(2)
const three = taskId(3)

function stored(id: string, task: Partial<StoredTask> = {}): Promise<void> {
  return storeTask(database.sql, { id, queue: 'emails', ...task })
}

const ended = (id: string, result: unknown = { Ok: 7 }) => stored(id, { status: 'Done', attempts: 1, result })

async function end(id: string): Promise<void> {
  await database.sql`update apalis.jobs set status = 'Done', last_result = '{"Ok": 7}' where id = ${id}`
}

async function all<T>(series: AsyncIterable<T>): Promise<T[]> {
  const values: T[] = []
  for await (const value of series) values.push(value)
  return values
}

/** A database that tells which ids it is asked for, before it is asked. */
function watched(onAsk: (ids: string[], ask: number) => void, client = database.connect().client): PgDb {
  let asks = 0
  const logQuery = (text: string, [ids]: unknown[]) => {
    if (text.includes('wanted')) onAsk(String(ids).match(/\w{26}/g) ?? [], ++asks)
  }
  return drizzle({ client, logger: { logQuery } })
}

const clients: postgres.Sql[] = []

/** Closed after the test. */
function clientOf(url: string): postgres.Sql {
  const client = postgres(url, { max: 1, connect_timeout: 1, onnotice: () => undefined })
  clients.push(client)
  return client
}

const unreachable = (): PgDb => drizzle({ client: clientOf('postgres://localhost:1/none') })

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.end({ timeout: 1 })))
})

describe.each(['checkStatus', 'waitFor'] as const)('%s', (call) => {
  type Waiting = Pick<PostgresStorage<unknown, unknown>, 'checkStatus' | 'waitFor'>
  const ask = (storage: Waiting, ids: string[]): Promise<TaskResult<unknown>[]> =>
    call === 'checkStatus' ? storage.checkStatus(ids) : all(storage.waitFor(ids))

  const doneIds = call === 'checkStatus' ? '[WAIT-01] [WAIT-02]' : '[WAIT-03] [WAIT-04]'
  it(`says that a task is Done, and its result ${doneIds}`, async () => {
    await ended(one)
    expect(await ask(storageOf(), [one])).toEqual([{ id: one, status: 'Done', result: 7 }])
  })

  const queueIds = call === 'checkStatus' ? '[WAIT-05]' : '[WAIT-06]'
  it(`finds tasks of other queues, and reads their results as those of its own ${queueIds}`, async () => {
    await ended(one)
    const other = new PostgresStorage(database.db, defineQueue('other'))
    expect(await ask(other, [one])).toEqual([{ id: one, status: 'Done', result: 7 }])
    const texts = new PostgresStorage(database.db, defineQueue('texts', { result: z.string() }))
    expect(await caught(ask(texts, [one]))).toMatchObject({ code: 'DECODE', taskId: one, queue: 'emails' })
  })

  it('says why a task has failed for good, and knows what only waits for its retry [WAIT-15]', async () => {
    await stored(one, { status: 'Killed', attempts: 5, result: { Err: 'no route' } })
    await stored(two, { status: 'Failed', attempts: 5, result: { Err: 'late' } })
    await stored(three, { status: 'Failed', attempts: 4, result: { Err: 'again' } })
    const results = ask(storageOf(), call === 'checkStatus' ? [one, two, three] : [one, two])
    expect(await results).toEqual([
      { id: one, status: 'Killed', error: 'no route' },
      { id: two, status: 'Failed', error: 'late' },
    ])
  })

  it('names each task once, and all of very many', async () => {
    await database.sql`
      insert into apalis.jobs (id, job_type, job, status, last_result)
      select lpad(n::text, 26, '0'), 'emails', '{}', 'Done', json_build_object('Ok', n) from generate_series(1, 250) n`
    const ids = Array.from({ length: 250 }, (_, n) => String(n + 1).padStart(26, '0'))
    const results = await ask(storageOf(), [...ids, ...ids])
    expect(results.map(({ id }) => id).sort()).toEqual(ids)
  })

  it.each([
    ['a missing result [WAIT-16]', undefined, 'last_result is NULL'],
    ['a result of another form [WAIT-17]', { Ok: 1, Err: 'secret' }, 'neither'],
    ['the result of a failure', { Err: 'secret' }, 'its status is Done'],
  ])('refuses %s of a Done task', async (_, result, reason) => {
    await stored(one, { status: 'Done', queue: 'invoices', result })
    const error = await caught(ask(storageOf(), [one]))
    expect(error).toMatchObject({ code: 'DECODE', taskId: one, queue: 'invoices' })
    expect(String(error)).toContain(reason)
    expect(String(error)).not.toContain('secret')
  })

  it.each<[string, unknown]>([
    ['an id that is no ULID [WAIT-17]', ['order-1']],
    ['an id that is no string', [7]],
    ['one id in place of a list', taskId(1)],
    ['nothing', undefined],
  ])('refuses %s', async (_, ids) => {
    const refused = caught((async () => ask(storageOf(unreachable()), ids as string[]))())
    expect(await refused).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'ids' })
  })

  it('does without the database when there are no ids [WAIT-07]', async () => {
    expect(await ask(storageOf(unreachable()), [])).toEqual([])
  })
})

describe('checkStatus', () => {
  it('leaves out what has not ended and what is not stored, and keeps the order [WAIT-13] [WAIT-14]', async () => {
    await ended(one)
    await stored(two, { status: 'Running' })
    await ended(three)
    const results = await storageOf().checkStatus([three, two, taskId(4), one])
    expect(results.map(({ id }) => id)).toEqual([three, one])
  })

  it('rejects at once when the database fails', async () => {
    const error = await caught(storageOf(unreachable()).checkStatus([one]))
    expect(error).toMatchObject({ code: 'DATABASE', operation: 'checking the status of tasks' })
  })
})

describe('waitFor', () => {
  it('goes on until all have ended, wherever that happens [WAIT-09] [WAIT-12]', async () => {
    await ended(one)
    await stored(two)
    const results = storageOf().waitFor([two, one])[Symbol.asyncIterator]()
    expect(await results.next()).toMatchObject({ value: { id: one } })
    const next = results.next()
    await end(two)
    expect(await next).toMatchObject({ value: { id: two } })
    expect(await results.next()).toEqual({ done: true, value: undefined })
  })

  it('asks once for all of them in each poll', async () => {
    const ids = Array.from({ length: 40 }, (_, n) => taskId(n))
    await Promise.all(ids.map((id) => stored(id)))
    const asks: string[][] = []
    const db = watched((asked, ask) => {
      asks.push(asked)
      if (ask === 3) void database.sql`update apalis.jobs set status = 'Done', last_result = '{"Ok": 1}'`.execute()
    })
    expect(await all(storageOf(db).waitFor(ids))).toHaveLength(40)
    expect(asks[0]).toEqual(ids)
    expect(asks[1]).toEqual(ids)
  })

  it('throws once for a task that cannot be read, and goes on with the others when it is asked to [WAIT-10] [WAIT-11]', async () => {
    await ended(one, { neither: 1 })
    await stored(two)
    const asks: string[][] = []
    const db = watched((ids) => asks.push(ids))
    const results = storageOf(db).waitFor([one, two])[Symbol.asyncIterator]()
    expect(await caught(results.next())).toMatchObject({ code: 'DECODE', taskId: one })
    await end(two)
    expect(await results.next()).toMatchObject({ value: { id: two } })
    expect(await results.next()).toEqual({ done: true, value: undefined })
    expect(asks.slice(1).flat()).not.toContain(one)
  })

  it('throws once for a task that two polls in a row did not find [NEXT-48]', async () => {
    await stored(one)
    const asks: string[][] = []
    const { client } = database.connect({ max: 1 })
    const db = watched((ids, ask) => {
      asks.push(ids)
      // On the one connection it comes before the second poll.
      if (ask === 2) void client`insert into apalis.jobs (id, job_type, job) values (${three}, 'emails', '')`.execute()
    }, client)
    const results = storageOf(db).waitFor([one, two, three])[Symbol.asyncIterator]()
    expect(await caught(results.next())).toMatchObject({ code: 'TASK_NOT_FOUND', operation: 'waitFor', taskId: two })
    expect(asks).toEqual([
      [one, two, three],
      [one, two, three],
    ])
    await end(one)
    await end(three)
    const rest = [await results.next(), await results.next()].map(({ value }) => (value as TaskResult<number>).id)
    expect(rest.sort()).toEqual([one, three])
    expect(await results.next()).toMatchObject({ done: true })
  })

  const returns: Handler<string, string> = (args) => `${args} ended`
  const completes: Handler<string, string> = (args, ctx) =>
    database.db.transaction((tx) => ctx.completeWithTx(tx, `${args} ended`))
  it.each([
    ['returns', returns],
    ['completes in its own transaction', completes],
  ])('looks at once at what a handler of this process %s', async (_, handler) => {
    const asks: string[][] = []
    const db = watched((ids) => asks.push(ids))
    const { storage, started } = work<string, string>({}, db)
    const hold = gate()
    const elsewhere = await new PostgresStorage(db, defineQueue('without a worker')).push(undefined)
    const here = await storage.push('a')
    const results = storage.waitFor([here, elsewhere])[Symbol.asyncIterator]()
    const first = results.next()
    await started(async (args, ctx) => {
      await hold.opened
      return handler(args, ctx)
    })
    // Until the polls are so far apart that none of them can be what finds it.
    await expect.poll(() => asks.length, { timeout: 5_000 }).toBeGreaterThan(3)
    hold.open()
    expect(await first).toMatchObject({ value: { id: here, result: 'a ended' } })
    expect(asks.at(-1)).toEqual([here])
    await results.return?.()
  })

  it('sees also what a worker of this process has given up', async () => {
    const { storage, started } = work<string>({ maxAttempts: 1 })
    const id = await storage.push('a')
    const ending = storage.waitForSingle(id)
    await started(() => {
      throw new Error('no route')
    })
    expect(await ending).toEqual({ id, status: 'Killed', error: 'no route' })
  })
})

describe('a wait', () => {
  it('says which call did not find a task', async () => {
    expect(await caught(storageOf().waitForSingle(one))).toMatchObject({ operation: 'waitForSingle', taskId: one })
  })

  it.each([
    ['waitForSingle', () => storageOf().waitForSingle(one, { timeoutMs: 150 })],
    ['waitFor', () => all(storageOf().waitFor([one], { timeoutMs: 150 }))],
  ])('ends after its timeout, however often it has asked: %s', async (_, wait) => {
    await stored(one)
    const error = await caught(wait())
    expect(error).toBeInstanceOf(DOMException)
    expect(error).toMatchObject({ name: 'TimeoutError', message: `1 task has not ended within 150 ms: ${one}.` })
  })

  it('names three of the tasks that have not ended in time', async () => {
    for (const n of [1, 2, 3, 4]) await stored(taskId(n))
    const error = await caught(all(storageOf().waitFor([1, 2, 3, 4].map(taskId), { timeoutMs: 10 })))
    expect(error).toMatchObject({
      message: `4 tasks have not ended within 10 ms: ${[1, 2, 3].map(taskId).join(', ')} and 1 more.`,
    })
  })

  it('ends with the reason of its signal, before and after it has begun', async () => {
    await stored(one)
    const controller = new AbortController()
    const { signal } = controller
    const waiting = storageOf(watched(() => controller.abort(new Error('enough')))).waitForSingle(one, { signal })
    expect(await caught(waiting)).toBe(signal.reason)
    expect(await caught(all(storageOf().waitFor([one], { signal })))).toBe(signal.reason)
  })

  it('ends by its signal also while the database does not answer', async () => {
    const proxy = await startProxy(database.url)
    const controller = new AbortController()
    const { signal } = controller
    const db = watched(() => {
      proxy.swallow()
      setImmediate(() => controller.abort(new Error('enough')))
    }, clientOf(proxy.url))
    expect(await caught(storageOf(db).waitForSingle(one, { signal }))).toBe(signal.reason)
    await proxy.stop()
  })

  it('ends by return, which ends the call that waits too', async () => {
    await stored(one)
    const results = storageOf().waitFor([one])[Symbol.asyncIterator]()
    const next = results.next()
    expect(await results.return?.()).toEqual({ done: true, value: undefined })
    expect(await next).toEqual({ done: true, value: undefined })
    expect(await results.next()).toEqual({ done: true, value: undefined })
  })

  it('begins anew with each loop', async () => {
    await ended(one)
    const series = storageOf().waitFor([one])
    expect(await all(series)).toEqual(await all(series))
  })

  it.each([0, -1, 1.5, NaN, 2 ** 31, '5'])('refuses a timeout of %j', async (timeoutMs) => {
    const options = { timeoutMs: timeoutMs as number }
    const refused = { code: 'INVALID_ARGUMENT', argument: 'timeoutMs' }
    expect(() => storageOf().waitFor([], options)).toThrow(expect.objectContaining(refused))
    expect(await caught(storageOf().waitForSingle(one, options))).toMatchObject(refused)
  })
})

describe('when the database fails', () => {
  let proxy: PostgresProxy
  beforeEach(async () => (proxy = await startProxy(database.url)))
  afterEach(() => proxy.stop())

  /** A storage whose answers to the given looks are lost. Looks come quickly, as if a worker of this process had ended the task. */
  function losing(lost: number[], onAsk: (ask: number) => void = () => undefined) {
    const asks: number[] = []
    const db = watched((ids, ask) => {
      asks.push(ask)
      onAsk(ask)
      if (lost.includes(ask)) void proxy.loseAnswer(ids[0]!).then(again)
      else setTimeout(again)
    }, clientOf(proxy.url))
    const again = () => setTimeout(() => [one, two].forEach((id) => endedHere(db, id as TaskId)), 5)
    return { storage: storageOf(db), asks }
  }

  it('a wait ends with the third failure in a row [WAIT-08]', async () => {
    await stored(one)
    const { storage, asks } = losing([1, 2, 3])
    const results = storage.waitFor([one])[Symbol.asyncIterator]()
    expect(await caught(results.next())).toMatchObject({ code: 'DATABASE', operation: 'waiting for tasks' })
    expect(asks).toEqual([1, 2, 3])
    expect(await results.next()).toMatchObject({ done: true })
  })

  it('a wait survives two failures twice, with an answer between that says nothing [NEXT-25]', async () => {
    await stored(one)
    const { storage } = losing([1, 2, 4, 5], (ask) => {
      if (ask === 5) void end(one)
    })
    expect(await storage.waitForSingle(one)).toMatchObject({ id: one, status: 'Done' })
  })

  it('… or with one that completes some of the tasks [NEXT-26]', async () => {
    await ended(one)
    await stored(two)
    const { storage } = losing([1, 2, 4, 5], (ask) => {
      if (ask === 5) void end(two)
    })
    expect((await all(storage.waitFor([one, two]))).map(({ id }) => id)).toEqual([one, two])
  })
})
