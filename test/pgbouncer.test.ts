/** Applications whose pool goes through PgBouncer in transaction mode. Run by `npm run test:pgbouncer`. */
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { createNotifyListener, pushTaskWithTx } from 'apalis-drizzle'
import { expect, it, onTestFinished } from 'vitest'
import { notifyListener } from '../src/processes/listener.js'
import { useDatabase } from './support/database.js'
import { startPgBouncer } from './support/pgbouncer.js'
import { useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)
const TEN_MINUTES = 600_000

async function pooledDb(): Promise<PostgresJsDatabase> {
  const url = await startPgBouncer(database.url)
  // PgBouncer before 1.21 does not know the prepared statements of its clients.
  const client = postgres(url, { max: 4, prepare: false, onnotice: () => undefined })
  onTestFinished(() => client.end({ timeout: 1 }))
  return drizzle({ client })
}

it('tasks are pushed in transactions and found by polling, and the listener says what is wrong', async () => {
  const db = await pooledDb()
  const { events, queue, started } = work<number>({}, db)
  const worker = await started(() => undefined, { pollIntervalMs: 20 })
  const pushed = new Set<string>()
  const done = new Set<string>()
  for (let n = 0; n < 20; n++) pushed.add(await db.transaction((tx) => pushTaskWithTx(tx, queue.task(n))))
  for (let n = 0; n < 20; n++) done.add((await events.next('task.done')).id)
  expect(done).toEqual(pushed)
  const { cause } = await events.next('listener.down')
  expect(String(cause)).toContain('createNotifyListener')
  await worker.stop()
  expect(events.all.map(({ type }) => type)).not.toContain('listener.up')
  expect(events.all.filter(({ type }) => type === 'worker.error')).toEqual([])
})

it('a listener of its own to the database itself brings wake-ups', async () => {
  const db = await pooledDb()
  const listener = createNotifyListener(database.db)
  const { events, queue, started } = work<number>({}, db)
  const worker = await started(() => undefined, { listen: listener, pollIntervalMs: () => TEN_MINUTES })
  await events.next('listener.up')
  const id = await db.transaction((tx) => pushTaskWithTx(tx, queue.task(1)))
  expect((await events.next('task.done')).id).toBe(id)
  await worker.stop()
  await listener[Symbol.asyncDispose]()
})

it('a listener through the pooler is never taken for one that works, however often it tries', async () => {
  const db = await pooledDb()
  const times = { openTimeoutMs: 2_000, pingIntervalMs: 20, pingTimeoutMs: 100, firstRetryMs: 5, maxRetryMs: 10 }
  const listener = notifyListener(db, times)
  const { events, started } = work<number>({}, db)
  await started(() => undefined, { listen: listener, pollIntervalMs: 20 })
  await events.next('listener.down')
  // About five further attempts, on whatever connections the pooler lends.
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  expect(events.all.map(({ type }) => type)).not.toContain('listener.up')
  await listener[Symbol.asyncDispose]()
})
