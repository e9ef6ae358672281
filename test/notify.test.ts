/** What a push announces, and what it does not. The trigger's own payloads are the matter of sql-functions.test.ts. */
import { sql } from 'drizzle-orm'
import { beforeAll, describe, expect, it } from 'vitest'
import { defineQueue, PostgresStorage, pushTaskWithTx, pushTasksWithTx, type QueueOptions } from 'apalis-drizzle'
import { NotifyLimit } from '../src/vocabulary/notify-limit.js'
import { useDatabase } from './support/database.js'

const database = useDatabase()
const CHANNEL = 'apalis::job::insert'
const heard: string[] = []

beforeAll(async () => {
  await database.client.listen(CHANNEL, (payload) => heard.push(payload))
})

function newQueue(notify?: QueueOptions<number, void, number>['notify']) {
  return defineQueue<number>(`q${crypto.randomUUID()}`, { notify })
}

/** The ids announced for a queue, per notification. What was committed before the call has arrived when it returns. */
async function announced(queue: { name: string }): Promise<string[][]> {
  const end = `end ${crypto.randomUUID()}`
  await database.sql.notify(CHANNEL, end)
  await expect.poll(() => heard.includes(end)).toBe(true)
  return heard
    .filter((payload) => payload.startsWith('{'))
    .map((payload) => JSON.parse(payload) as { job_type: string; ids: string[] })
    .filter(({ job_type: name }) => name === queue.name)
    .map(({ ids }) => ids)
}

/** In a transaction each, as an application does. */
async function pushEach(queue: ReturnType<typeof newQueue>, count: number): Promise<void> {
  for (let n = 0; n < count; n++) await database.db.transaction((tx) => pushTaskWithTx(tx, queue.task(n)))
}

/** As a program in another language does. */
const plainInsert = (queue: { name: string }, id: string) =>
  sql`insert into apalis.jobs (job, id, job_type) values ('1', ${id}, ${queue.name})`

describe('a push in a transaction', () => {
  it('is announced up to the limit of its queue, 20 at first by default', async () => {
    const queue = newQueue()
    await pushEach(queue, 40)
    const { length } = await announced(queue)
    // The forty take a moment, in which the limit allows a few more.
    expect(length).toBeGreaterThanOrEqual(20)
    expect(length).toBeLessThan(40)
  })

  it("is always announced with notify 'always', and never with 'never'", async () => {
    const [loud, silent] = [newQueue('always'), newQueue('never')]
    await Promise.all([pushEach(loud, 30), pushEach(silent, 3)])
    expect(await announced(loud)).toHaveLength(30)
    expect(await announced(silent)).toEqual([])
  })

  it('that is not announced leaves later statements of the transaction as they are', async () => {
    const queue = newQueue('never')
    const id = '01ARZ3NDEKTSV4RRFFQ69G5FAV'
    await database.db.transaction(async (tx) => {
      await pushTaskWithTx(tx, queue.task(1))
      await tx.execute(plainInsert(queue, id))
    })
    expect(await announced(queue)).toEqual([[id]])
  })

  it('that is not announced leaves no setting behind, also when its savepoint is undone', async () => {
    const queue = newQueue('never')
    const id = '01ARZ3NDEKTSV4RRFFQ69G5FAW'
    await database.db.transaction(async (tx) => {
      const undone = tx.transaction(async (savepoint) => {
        await pushTaskWithTx(savepoint, queue.task(1))
        savepoint.rollback()
      })
      await expect(undone).rejects.toThrow()
      await tx.execute(plainInsert(queue, id))
    })
    expect(await announced(queue)).toEqual([[id]])
  })

  it('is not announced when the transaction rolls back', async () => {
    const queue = newQueue('always')
    const rolledBack = database.db.transaction(async (tx) => {
      await pushTaskWithTx(tx, queue.task(1))
      tx.rollback()
    })
    await expect(rolledBack).rejects.toThrow()
    expect(await announced(queue)).toEqual([])
  })

  it('of 10,000 tasks is announced in a hundred notifications', async () => {
    const queue = newQueue()
    await database.db.transaction((tx) =>
      pushTasksWithTx(
        tx,
        Array.from({ length: 10_000 }, (_, n) => queue.task(n)),
      ),
    )
    const notifications = await announced(queue)
    expect(notifications).toHaveLength(100)
    expect(new Set(notifications.flat()).size).toBe(10_000)
    expect(Math.max(...heard.map((payload) => Buffer.byteLength(payload)))).toBeLessThan(8_000)
  })

  it('of several queues is announced as soon as one of them may be', async () => {
    const [loud, silent] = [newQueue('always'), newQueue('never')]
    await database.db.transaction((tx) => pushTasksWithTx(tx, [loud.task(1), silent.task(1)]))
    expect(await announced(loud)).toHaveLength(1)
  })
})

describe('a push of a storage', () => {
  it('is announced however many there are, unless its queue never is', async () => {
    const [loud, silent] = [newQueue({ maxPerSecond: 0.001 }), newQueue('never')]
    const storage = new PostgresStorage(database.db, loud)
    for (let n = 0; n < 25; n++) await storage.push(n)
    await new PostgresStorage(database.db, silent).push(1)
    expect(await announced(loud)).toHaveLength(25)
    expect(await announced(silent)).toEqual([])
  })

  it("never shares an announcement with a queue of 'never', however many push at once", async () => {
    const [loud, silent] = [newQueue(), newQueue('never')]
    const storages = [loud, silent].map((queue) => new PostgresStorage(database.db, queue))
    await Promise.all(Array.from({ length: 40 }, (_, n) => storages[n % 2]!.push(n)))
    expect((await announced(loud)).flat()).toHaveLength(20)
    expect(await announced(silent)).toEqual([])
  })
})

describe('the limit', () => {
  it.each([
    { elapsedMs: 0, allowed: 0 },
    { elapsedMs: 99, allowed: 0 },
    { elapsedMs: 100, allowed: 1 },
    { elapsedMs: 1_000, allowed: 10 },
    { elapsedMs: 3_600_000, allowed: 20 },
  ])('allows $allowed more after $elapsedMs ms at 10 a second, with a burst of 20', ({ elapsedMs, allowed }) => {
    const limit = new NotifyLimit()
    const taken = (now: number) => Array.from({ length: 100 }, () => limit.take(10, now)).filter(Boolean).length
    expect(taken(1_000)).toBe(20)
    expect(taken(1_000 + elapsedMs)).toBe(allowed)
  })
})
