/** Workers are woken by notifications, by due times, and by polling when neither comes. */
import { describe, expect, it } from 'vitest'
import { defineQueue, PostgresStorage, pushTaskWithTx, type StorageConfig } from 'apalis-drizzle'
import { recordEvents } from 'apalis-drizzle/testing'
import { useDatabase } from './support/database.js'
import { until } from './support/until.js'

const database = useDatabase()

/** A worker of a queue of its own, that polls so rarely that polling cannot be what found a task. */
async function idleWorker(config: StorageConfig = {}) {
  const events = recordEvents()
  const queue = defineQueue<{ n: number }>(`q${crypto.randomUUID()}`)
  const storage = new PostgresStorage(database.db, queue, {
    pollIntervalMs: () => 600_000,
    onEvent: events.onEvent,
    ...config,
  })
  const starts: number[] = []
  const worker = storage.worker(() => {
    starts.push(Date.now())
  })
  await worker.start()
  return { events, queue, storage, worker, starts }
}

describe('a worker that is idle', () => {
  it('starts a task when its transaction commits [NOTIFY-09] [SHARED-01]', async () => {
    const { events, queue, worker } = await idleWorker()
    await events.next('listener.up')
    const id = await database.db.transaction((tx) => pushTaskWithTx(tx, queue.task({ n: 1 })))
    expect((await events.next('task.done')).id).toBe(id)
    await worker.stop()
  })

  it('starts a delayed task when it is due, also one that was pushed while it was idle', async () => {
    const { events, storage, worker, starts } = await idleWorker()
    await events.next('listener.up')
    const [row] = await database.sql<{ now: Date }[]>`select now()`
    await storage.push({ n: 1 }, { delayMs: 1_200 })
    await events.next('task.done')
    // Not before its time, and the next poll would be ten minutes away.
    expect(starts[0]! - row!.now.getTime()).toBeGreaterThanOrEqual(1_150)
    await worker.stop()
  })

  it('hears of a retry and of a task that another worker hands back', async () => {
    const events = recordEvents()
    const queue = defineQueue<{ n: number }>('handed-back', { retry: { baseMs: 50 } })
    const config = { pollIntervalMs: () => 600_000, onEvent: events.onEvent }
    const storage = new PostgresStorage(database.db, queue, config)
    let runs = 0
    const worker = storage.worker(() => {
      runs += 1
      if (runs === 1) throw new Error('once')
    })
    await worker.start()
    await events.next('listener.up')
    await storage.push({ n: 1 })
    await events.next('task.failed')
    await events.next('task.done')
    expect(runs).toBe(2)
    await worker.stop()
  })

  it('goes on by polling while there are no notifications', async () => {
    const { events, storage, worker } = await idleWorker({ listen: false, pollIntervalMs: 20 })
    await storage.push({ n: 1 })
    await events.next('task.done')
    expect(events.all.some(({ type }) => type.startsWith('listener.'))).toBe(false)
    await worker.stop()
  })
})

describe('the connection that waits for notifications', () => {
  it('is one for all queues and workers of a database, and is closed with the last', async () => {
    const listening = async () => {
      const sessions = await database.sql`
        select 1 from pg_stat_activity where datname = current_database() and application_name = 'apalis-drizzle listener'`
      return sessions.length
    }
    const [first, second, deaf] = [await idleWorker(), await idleWorker(), await idleWorker({ listen: false })]
    const sibling = first.storage.worker(() => undefined)
    await sibling.start()
    for (const { events } of [first, second, first]) await events.next('listener.up')
    // A connection that proves that the first one hears others is closed again.
    await until(async () => (await listening()) === 1, 'one connection listens')
    await Promise.all([first.worker.stop(), sibling.stop()])
    expect(await listening()).toBe(1)
    const id = await second.storage.push({ n: 1 })
    await second.events.next('task.done', (event) => event.id === id)
    await second.worker.stop()
    await until(async () => (await listening()) === 0, 'it is closed')
    await deaf.worker.stop()
  })
})

describe('what makes a task claimable again announces it', () => {
  it('when a stopping worker hands it back', async () => {
    const queue = defineQueue<{ n: number }>('handed-over')
    const waiting = recordEvents()
    const leaving = recordEvents()
    const storage = new PostgresStorage(database.db, queue, { pollIntervalMs: () => 600_000 })
    const first = storage.worker(
      (_, { signal }) => new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(new Error()))),
      { onEvent: leaving.onEvent, concurrency: 1 },
    )
    await first.start()
    await storage.push({ n: 1 })
    await leaving.next('task.claimed')
    const second = storage.worker(() => undefined, { onEvent: waiting.onEvent })
    await second.start()
    await waiting.next('listener.up')
    await first.stop({ timeoutMs: 0 })
    expect((await waiting.next('task.done')).attempt).toBe(1)
    await second.stop()
  })

  it('once for all tasks of one statement, and not for those that are done', async () => {
    const queue = defineQueue<{ n: number }>('quiet')
    const heard: string[] = []
    await database.client.listen('apalis::job::insert', (payload) => heard.push(payload))
    const events = recordEvents()
    const storage = new PostgresStorage(database.db, queue, { onEvent: events.onEvent })
    const worker = storage.worker(() => undefined)
    await storage.pushTasks([queue.task({ n: 1 }), queue.task({ n: 2 })])
    await worker.run({ untilIdle: true })
    await database.sql.notify('apalis::job::insert', 'end')
    await expect.poll(() => heard.at(-1)).toBe('end')
    expect(heard.filter((payload) => payload.includes('quiet'))).toHaveLength(1)
  })
})
