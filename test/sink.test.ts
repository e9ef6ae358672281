/** Shows how a sink batches, when it makes its writer wait, and that no task it was given is lost without a word. */
import { inspect } from 'node:util'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { BatchFailedError, defineQueue, PostgresStorage, type PgDb, type Task } from '../src/index.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { hold, waitingFor } from './support/held.js'
import { insertedBy, pipeLines } from './support/pipe-lines.js'
import { startProxy } from './support/proxy.js'
import { clearTasks, storedIn, taskId } from './support/rows.js'

const database = useDatabase()
const emails = defineQueue<string>('emails')
const storageOf = (bufferSize?: number, db: PgDb = database.db) => new PostgresStorage(db, emails, { bufferSize })

beforeEach(() => clearTasks(database.sql))

const stored = () => storedIn(database.sql, 'emails')
const task = (n: number | string) => emails.task(String(n))

/** Inserts wait until it is released. */
const holdInserts = () => hold(database.sql, 'lock table apalis.jobs in share row exclusive mode')

/** A database, and how many tasks each of its inserts has brought. */
function counted() {
  const batches: number[] = []
  const { client } = database.connect()
  const logQuery = (text: string, params: unknown[]) => batches.push(...insertedBy(text, params))
  return { db: drizzle({ client, logger: { logQuery } }), batches }
}

function unreachable(): PgDb {
  const client = postgres('postgres://me:hunter2@localhost:1/none', { connect_timeout: 1 })
  onTestFinished(() => client.end({ timeout: 1 }))
  return drizzle({ client })
}

/** Whether a promise has settled when everything else that can happen without the database has happened. */
async function isPending(promise: Promise<unknown>): Promise<boolean> {
  const turn = new Promise((resolve) => setImmediate(resolve, 'pending'))
  return (await Promise.race([promise, turn])) === 'pending'
}

describe('a new sink', () => {
  it('is ready, and closes without the database [SINK-04] [SINK-07] [SINK-13]', async () => {
    const writer = storageOf(2, unreachable()).sink().getWriter()
    await writer.ready
    expect(writer.desiredSize).toBe(2)
    await writer.close()
  })

  it.each([
    [undefined, 10],
    [0, 1],
    [500, 500],
  ])('with a bufferSize of %j holds up its writer at %i tasks [SINK-03]', (bufferSize, capacity) => {
    expect(storageOf(bufferSize).sink().getWriter().desiredSize).toBe(capacity)
  })

  it('prints nothing of the database [SINK-18]', () => {
    expect(inspect(storageOf(2, unreachable()).sink(), { depth: 10 })).not.toContain('hunter2')
  })

  it('is not the one made before [SINK-15] [SINK-16] [SINK-17]', async () => {
    const storage = storageOf(3)
    const held = await hold(
      database.sql,
      `insert into apalis.jobs (id, job_type, job, idempotency_key) values ('${taskId(1)}', 'emails', '', 'a')`,
    )
    const first = storage.sink().getWriter()
    await first.write(emails.task('a', { idempotencyKey: 'a' }))
    await waitingFor(database.sql, held)
    const second = storage.sink().getWriter()
    expect(second.desiredSize).toBe(3)
    await second.write(task('b'))
    await second.close()
    expect(await stored()).toHaveLength(1)
    await held.release()
    await first.close()
    expect(await stored()).toHaveLength(2)
  })
})

describe('a sink', () => {
  it('takes one batch while another is stored, and then holds up its writer [SINK-01] [SINK-05] [SINK-06] [SINK-11]', async () => {
    const { db, batches } = counted()
    const writer = storageOf(3, db).sink().getWriter()
    const held = await holdInserts()
    const [first, second, third, fourth] = [1, 2, 3, 4].map((n) => writer.write(task(n)))
    await Promise.all([first, second, third])
    expect(await isPending(fourth!)).toBe(true)
    const waiting = [5, 6].map((n) => writer.write(task(n)))
    expect(writer.desiredSize).toBe(0)
    expect(await isPending(writer.ready)).toBe(true)
    expect(batches).toEqual([1])
    await held.release()
    await Promise.all([fourth, ...waiting, writer.ready])
    await writer.close()
    expect(batches).toEqual([1, 3, 2])
    expect(await stored()).toHaveLength(6)
  })

  it('closes when all that was taken meanwhile is stored, once [SINK-10] [SINK-14] [NEXT-34]', async () => {
    const writer = storageOf(10).sink().getWriter()
    const held = await holdInserts()
    await Promise.all(['a', 'b', 'c'].map((n) => writer.write(task(n))))
    const closed = writer.close()
    expect(await isPending(closed)).toBe(true)
    await held.release()
    await closed
    expect(await stored()).toHaveLength(3)
  })

  it('stores without being closed, and goes on after a pause [SINK-08]', async () => {
    const { db, batches } = counted()
    const writer = storageOf(10, db).sink().getWriter()
    for (const n of [1, 2]) {
      await writer.write(task(n))
      await expect.poll(async () => (await stored()).length).toBe(n)
    }
    await writer.close()
    expect(batches).toEqual([1, 1])
  })

  it('loses nothing when nobody waits for it any more [NEXT-32]', async () => {
    const sink = storageOf(10).sink()
    const held = await holdInserts()
    const impatient = sink.getWriter()
    await impatient.write(task('a'))
    await impatient.write(task('b'))
    impatient.releaseLock()
    await held.release()
    await sink.getWriter().close()
    expect(await stored()).toHaveLength(2)
  })

  it('stores batches that fit one statement each, however many tasks it may hold', async () => {
    const { db, batches } = counted()
    const held = await holdInserts()
    const writer = storageOf(100, db).sink().getWriter()
    const writes = Array.from({ length: 8 }, () => writer.write(task('x'.repeat(1_000_000))))
    await writes[2]
    expect(await isPending(writes[3]!)).toBe(true)
    await held.release()
    await writer.close()
    expect(batches).toEqual([1, 3, 3, 1])
  })

  it('stores what it has taken when it is aborted, and drops what still waits', async () => {
    const writer = storageOf(2).sink().getWriter()
    const held = await holdInserts()
    const writes = ['a', 'b', 'c', 'd'].map((n) => writer.write(task(n)))
    await writes[1]
    const reason = new Error('enough')
    const aborted = writer.abort(reason)
    void writer.closed.catch(() => undefined)
    await held.release()
    expect((await Promise.allSettled(writes)).slice(2)).toEqual([
      { status: 'fulfilled', value: undefined },
      { status: 'rejected', reason },
    ])
    await aborted
    expect(await stored()).toHaveLength(3)
  })
})

describe('a batch that fails', () => {
  const bad = emails.task('secret', { idempotencyKey: 'taken' })
  beforeEach(() => storageOf().push('first', { idempotencyKey: 'taken' }))

  it('ends the stream for good, with all tasks that were taken and not stored [NEXT-31]', async () => {
    const storage = storageOf(2)
    const writer = storage.sink().getWriter()
    await writer.write(task('a'))
    await expect.poll(async () => (await stored()).length).toBe(2)
    const held = await holdInserts()
    const writes = [bad, task('b'), task('c'), task('d')].map((each) =>
      writer.write(each).catch((error: unknown) => error),
    )
    await writes[1]
    await held.release()
    const error = await caught(writer.closed)
    expect(error).toBeInstanceOf(BatchFailedError)
    expect(error).toMatchObject({ stored: 1, cause: { code: 'IDEMPOTENCY_CONFLICT', conflictingKeys: ['taken'] } })
    const { tasks, taskIds, message } = error as BatchFailedError
    expect(tasks.map(({ args }) => args)).toEqual(['secret', 'b', 'c'])
    expect(taskIds).toHaveLength(3)
    expect(message + inspect(error, { depth: 10 })).not.toContain('secret')
    // What it had not taken is told to whoever wrote it.
    expect(await writes[3]).toBe(error)
    expect(await caught(writer.write(task('e')))).toBe(error)
    expect(await caught(writer.ready)).toBe(error)
    expect(await caught(writer.close())).toBeInstanceOf(TypeError)
    expect(await stored()).toHaveLength(2)

    const clean = storage.sink().getWriter()
    await clean.write(task('f'))
    await clean.close()
    expect(await stored()).toHaveLength(3)
  })

  it('rejects the close that waits for it', async () => {
    const writer = storageOf().sink().getWriter()
    void writer.closed.catch(() => undefined)
    await writer.write(bad)
    expect(await caught(writer.close())).toMatchObject({ code: 'BATCH_FAILED', stored: 0, tasks: [bad] })
  })

  it('rejects a pipe', async () => {
    const source = new ReadableStream<Task<string>>({
      start(controller) {
        for (const each of [task('a'), task('b'), bad, task('c')]) controller.enqueue(each)
        controller.close()
      },
    })
    const error = (await caught(source.pipeTo(storageOf(1).sink()))) as BatchFailedError
    expect(error).toMatchObject({ code: 'BATCH_FAILED', stored: 2 })
    expect(error.tasks[0]).toBe(bad)
  })

  it('because the database cannot be reached is told by close too [SINK-12]', async () => {
    const writer = storageOf(10, unreachable()).sink().getWriter()
    void writer.closed.catch(() => undefined)
    await writer.write(task('a'))
    expect(await caught(writer.close())).toMatchObject({ code: 'BATCH_FAILED', stored: 0, cause: { code: 'DATABASE' } })
  })

  it('as far as anybody knows, because its answer was lost, may be stored [NEXT-33]', async () => {
    const proxy = await startProxy(database.url)
    const client = postgres(proxy.url, { max: 1 })
    onTestFinished(async () => {
      await client.end({ timeout: 1 })
      await proxy.stop()
    })
    const writer = storageOf(10, drizzle({ client })).sink().getWriter()
    void writer.closed.catch(() => undefined)
    const lost = proxy.loseAnswer(taskId(2))
    // With an id of its own choice it cannot be told from somebody else's task.
    await writer.write(emails.task('a', { id: taskId(2) }))
    await lost
    const error = await caught(writer.close())
    expect(error).toMatchObject({ code: 'BATCH_FAILED', taskIds: [taskId(2)], cause: { code: 'OUTCOME_UNKNOWN' } })
    expect(await caught(writer.write(task('b')))).toBe(error)
    expect(await stored()).toContain(taskId(2))
  })

  it.each<[string, Task<string>, string]>([
    ['has an option that cannot be stored', emails.task('bad', { priority: -1 }), 'priority'],
    ['belongs to another queue', defineQueue<string>('invoices').task('bad'), 'task'],
    ['is none', 'a line' as unknown as Task<string>, 'task'],
  ])('for a task that %s is that task alone, after those before it are stored', async (_, refused, argument) => {
    const writer = storageOf(10).sink().getWriter()
    void writer.closed.catch(() => undefined)
    const held = await holdInserts()
    await Promise.all(['a', 'b'].map((n) => writer.write(task(n))))
    const write = caught(writer.write(refused))
    await held.release()
    expect(await write).toMatchObject({
      code: 'BATCH_FAILED',
      stored: 2,
      tasks: [refused],
      taskIds: [],
      cause: { argument },
    })
    expect(await stored()).toHaveLength(3)
  })
})

it('a pipe of 200,000 lines never holds more than three times the capacity', async () => {
  const { batches, mostHeld } = await pipeLines(database.connect().client, 200_000, 2_000)
  const [count] = await database.sql<{ tasks: number }[]>`
    select count(distinct convert_from(job, 'UTF8'))::int as tasks from apalis.jobs`
  expect(count?.tasks).toBe(200_000)
  // One more is on its way from the source.
  expect(mostHeld).toBeLessThanOrEqual(6_001)
  expect(Math.max(...batches)).toBe(2_000)
})
