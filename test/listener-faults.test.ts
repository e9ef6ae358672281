/** Streams of tasks while their listener, their server or their clock is not to be relied upon: none is lost, none runs twice. */
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import { drizzle } from 'drizzle-orm/postgres-js'
import pg from 'pg'
import postgres from 'postgres'
import { pushTaskWithTx, pushTasksWithTx, setup, type WorkerOptions } from 'apalis-drizzle'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { notifyListener } from '../src/processes/listener.js'
import { useDatabase } from './support/database.js'
import { startOwnServer } from './support/own-server.js'
import { startProxy } from './support/proxy.js'
import { until } from './support/until.js'
import { gate, useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)
const FAST = { openTimeoutMs: 500, pingIntervalMs: 50, pingTimeoutMs: 300, firstRetryMs: 10, maxRetryMs: 50 }
const TEN_MINUTES = 600_000
/** So rare that a poll cannot be what found a task. */
const NO_POLLS = { pollIntervalMs: () => TEN_MINUTES }

afterEach(() => {
  vi.useRealTimers()
})

/** A handler that counts the runs of every task, and a way to wait for a number of them. */
function counting(expected: number) {
  const runs = new Map<string, number>()
  const all = gate()
  const handler = (_args: unknown, { id }: { id: string }) => {
    runs.set(id, (runs.get(id) ?? 0) + 1)
    if (runs.size === expected) all.open()
  }
  return { runs, handler, all: all.opened }
}

const doneTasks = async (sql: postgres.Sql, queue: string) => {
  const [row] = await sql<{ done: number; most: number }[]>`
    select count(*)::int as done, max(attempts)::int as most from apalis.jobs where job_type = ${queue} and status = 'Done'`
  return row!
}

describe('2,000 tasks', () => {
  it('are run once each while the listener is ended again and again', async () => {
    const { queue, events, started } = work<number>()
    const { runs, handler, all } = counting(2_000)
    await started(handler, { pollIntervalMs: 100 })
    await started(handler, { pollIntervalMs: 100 })
    let ended = 0
    let streaming = true
    const ending = (async () => {
      while (streaming) {
        await events.next('listener.up')
        const rows = await database.sql`
          select pg_terminate_backend(pid) from pg_stat_activity
          where datname = current_database() and application_name = 'apalis-drizzle listener'`
        ended += rows.length
      }
    })()
    for (let n = 0; n < 2_000; n += 5) {
      await database.db.transaction((tx) =>
        pushTasksWithTx(
          tx,
          Array.from({ length: 5 }, (_, k) => queue.task(n + k)),
        ),
      )
    }
    await all
    streaming = false
    await ending
    await until(async () => (await doneTasks(database.sql, queue.name)).done === 2_000, 'all are Done')
    expect(new Set(runs.values())).toEqual(new Set([1]))
    expect(ended).toBeGreaterThan(3)
    const listener = events.all.filter(({ type }) => type.startsWith('listener.')).map(({ type }) => type)
    expect(listener.filter((type) => type === 'listener.down').length).toBeGreaterThan(3)
    // Nothing but its listener was disturbed.
    expect(events.all.filter(({ type }) => type === 'worker.error')).toEqual([])
  }, 60_000)

  it('are run once each although the server crashes and comes back twice', async () => {
    const { url } = await startOwnServer()
    const open = () => {
      const client = postgres(url, { max: 5, onnotice: () => undefined })
      onTestFinished(() => client.end({ timeout: 1 }))
      return client
    }
    const [client, sql] = [open(), open()]
    // The temporary server is set to forget what it has just committed.
    await sql`alter database postgres set synchronous_commit = on`
    const db = drizzle({ client })
    await setup(db)
    const { queue, events, started } = work<number>({}, db)
    const { runs, handler, all } = counting(2_000)
    const slowly = async (...task: Parameters<typeof handler>) => {
      handler(...task)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    const options: WorkerOptions = { keepAliveMs: 500 }
    const deadlines = { answerMs: 2_000, strayMs: 3_000, lastCallMs: 1_500 }
    await started(slowly, options, deadlines)
    await started(slowly, options, deadlines)
    await events.next('listener.up')
    await db.transaction((tx) =>
      pushTasksWithTx(
        tx,
        Array.from({ length: 2_000 }, (_, n) => queue.task(n)),
      ),
    )
    for (const threshold of [200, 800]) {
      await until(() => Promise.resolve(runs.size >= threshold), `${threshold} have run`)
      const [row] = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`
      // A server process that dies takes all others along, and recovery begins.
      process.kill(row!.pid, 'SIGKILL')
      await events.next('listener.down')
      await events.next('listener.up')
    }
    await all
    await until(async () => (await doneTasks(sql, queue.name)).done === 2_000, 'all are Done', 30_000)
    expect(await doneTasks(sql, queue.name)).toEqual({ done: 2_000, most: 1 })
    expect(new Set(runs.values())).toEqual(new Set([1]))
  }, 90_000)
})

describe('a stream of tasks', () => {
  it('goes on when the server is shut down and started again, twice', async () => {
    const server = await startOwnServer()
    const client = postgres(server.url, { max: 5, onnotice: () => undefined })
    onTestFinished(() => client.end({ timeout: 1 }))
    const db = drizzle({ client })
    await setup(db)
    const { queue, events, started } = work<number>({}, db)
    const runs = new Map<string, number>()
    const deadlines = { answerMs: 2_000, strayMs: 3_000, lastCallMs: 1_500 }
    await started((_args, { id }) => void runs.set(id, (runs.get(id) ?? 0) + 1), { keepAliveMs: 500 }, deadlines)
    await events.next('listener.up')

    const committed = new Set<string>()
    let refused = 0
    let streaming = true
    // Not with postgres.js, which throws where nobody can catch it when the connection of a transaction is lost.
    const producer = async () => {
      while (streaming) {
        const producing = new pg.Client({ connectionString: server.url })
        producing.on('error', () => undefined)
        try {
          await producing.connect()
          const producerDb = drizzlePg({ client: producing })
          while (streaming) committed.add(await producerDb.transaction((tx) => pushTaskWithTx(tx, queue.task(1))))
        } catch {
          refused += 1
        }
        await producing.end()
      }
    }
    const producers = Promise.all([producer(), producer(), producer(), producer()])
    for (const _ of [1, 2]) {
      const before = runs.size
      await until(() => Promise.resolve(runs.size >= before + 200), '200 more have run')
      await server.stop()
      await events.next('listener.down')
      await server.start()
      await events.next('listener.up')
    }
    const before = runs.size
    await until(() => Promise.resolve(runs.size >= before + 200), '200 more have run')
    streaming = false
    await producers

    const notDone = async () => {
      const [row] = await client<{ n: number }[]>`select count(*)::int as n from apalis.jobs where status <> 'Done'`
      return row!.n
    }
    await until(async () => (await notDone()) === 0, 'all are Done', 30_000)
    // A commit whose answer was lost may have stored a task besides.
    expect([...committed].filter((id) => !runs.has(id))).toEqual([])
    expect(refused).toBeGreaterThan(0)
    expect(new Set(runs.values())).toEqual(new Set([1]))
    const listener = events.all.map(({ type }) => type).filter((type) => type.startsWith('listener.'))
    expect(listener).toEqual(['listener.up', 'listener.down', 'listener.up', 'listener.down', 'listener.up'])
  }, 90_000)
})

describe('a listener whose connection is dead', () => {
  it('is told and replaced, while polling takes over', async () => {
    const proxy = await startProxy(database.url)
    onTestFinished(() => proxy.stop())
    const { db: proxied } = database.connect({ host: '127.0.0.1', port: Number(new URL(proxy.url).port) })
    const { events, storage, started } = work<number>()
    await started(() => undefined, { listen: notifyListener(proxied, FAST), pollIntervalMs: 100 })
    await events.next('listener.up')
    proxy.swallow()
    await events.next('listener.down')
    const id = await storage.push(1)
    expect((await events.next('task.done')).id).toBe(id)
    proxy.restore()
    await events.next('listener.up')
    const types = events.all.map(({ type }) => type).filter((type) => type.startsWith('listener.'))
    expect(types).toEqual(['listener.up', 'listener.down', 'listener.up'])
  })

  it('that is replaced wakes its workers for what they have not heard', async () => {
    const proxy = await startProxy(database.url)
    onTestFinished(() => proxy.stop())
    const { db: proxied } = database.connect({ host: '127.0.0.1', port: Number(new URL(proxy.url).port) })
    const { events, storage, started } = work<number>()
    await started(() => undefined, { listen: notifyListener(proxied, FAST), ...NO_POLLS })
    await events.next('listener.up')
    proxy.swallow()
    await events.next('listener.down')
    const id = await storage.push(1)
    proxy.restore()
    expect((await events.next('task.done')).id).toBe(id)
  })
})

describe('a disposed listener', () => {
  it('leaves its workers polling, and says so', async () => {
    const listener = notifyListener(database.db, FAST)
    const { events, storage, started } = work<number>()
    await started(() => undefined, { listen: listener, pollIntervalMs: 100 })
    await events.next('listener.up')
    await listener[Symbol.asyncDispose]()
    await events.next('listener.down')
    await storage.push(1)
    await events.next('task.done')
  })
})

describe.each([
  ['ahead', TEN_MINUTES],
  ['behind', -TEN_MINUTES],
])("when the application's clock is ten minutes %s", (_, offMs) => {
  it('tasks start at their time by the clock of the database', async () => {
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + offMs })
    const { events, storage, started } = work<string>()
    const startedAt: Record<string, number> = {}
    await started((name) => void (startedAt[name] ??= performance.now()), NO_POLLS)
    await events.next('listener.up')
    const pushedAt = performance.now()
    await storage.push('later', { delayMs: 1_200 })
    await storage.push('now')
    await events.next('task.done')
    await events.next('task.done')
    expect(startedAt['later']! - pushedAt).toBeGreaterThanOrEqual(1_200)
    expect(startedAt['later']! - pushedAt).toBeLessThan(4_000)
    expect(startedAt['now']! - pushedAt).toBeLessThan(1_000)
  })
})
