/** Shows that workers live with a server that gives up statements early, gives no connections, and waits for other sessions. */
import { randomUUID } from 'node:crypto'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { defineQueue, PostgresStorage, pushTaskWithTx } from 'apalis-drizzle'
import { beforeAll, expect, it, onTestFinished } from 'vitest'
import { useDatabase } from '../support/database.js'
import { until } from '../support/until.js'
import { createRuns, crew } from './crew.js'

const database = useDatabase()
beforeAll(() => createRuns(database))

it('the limits that a database sets for its sessions stop no worker', { timeout: 60_000 }, async () => {
  const storage = new PostgresStorage(database.db, defineQueue<number>('limited'))
  await storage.pushAll(Array.from({ length: 500 }, () => storage.queue.task(0)))
  // Without the query for array types, which has no millisecond to spare.
  const client = postgres(database.url, { max: 2, fetch_types: false, onnotice: () => undefined })
  onTestFinished(() => client.end({ timeout: 1 }))
  const name = new URL(database.url).pathname.slice(1)
  const [alter, reset] = [`alter database ${name} set`, `alter database ${name} reset`]
  await database.sql.unsafe(`${alter} statement_timeout = '1ms'; ${alter} lock_timeout = '1ms'`)
  const errors: string[] = []
  const worker = new PostgresStorage(drizzle({ client }), storage.queue, {
    onEvent: ({ level, message }) => {
      if (level === 'error') errors.push(message)
    },
  }).worker(() => undefined)
  await worker
    .run({ untilIdle: true })
    .finally(() => database.sql.unsafe(`${reset} statement_timeout; ${reset} lock_timeout`))
  const [row] = await database.sql`
    select count(*)::int as n from apalis.jobs where job_type = 'limited' and status = 'Done'`
  expect(row!['n']).toBe(500)
  expect(errors).toEqual([])
})

it('a worker that gets no connection goes on when there are some again', { timeout: 60_000 }, async () => {
  const role = `few_${randomUUID().slice(0, 8)}`
  const limit = 8
  await database.sql.unsafe(`create role ${role} login password '${role}' connection limit ${limit};
    grant all on schema apalis, apalis_drizzle to ${role}; grant all on all tables in schema apalis, apalis_drizzle, public to ${role}`)
  const url = new URL(database.url)
  url.username = url.password = role
  onTestFinished(async () => {
    await database.sql`select pg_terminate_backend(pid) from pg_stat_activity where usename = ${role}`
    await database.sql.unsafe(`drop owned by ${role}; drop role ${role}`)
  })
  const mailers = crew(database, 'no connections', { url: url.href })
  const member = await mailers.start({ reenqueueOrphanedAfterMs: 20_000 })
  // Whoever asks first gets the connections that the worker has lost.
  const others = Array.from({ length: limit }, () =>
    postgres(url.href, { max: 1, onnotice: () => undefined, backoff: () => 0.01 }),
  )
  onTestFinished(async () => {
    await Promise.all(others.map((other) => other.end({ timeout: 1 })))
  })
  await until(async () => {
    await database.sql`
      select pg_terminate_backend(pid) from pg_stat_activity where usename = ${role} and application_name like 'apalis-drizzle%'`
    await Promise.all(others.map((other) => other`select 1`.catch(() => undefined)))
    const [row] = await database.sql`
      select count(*) filter (where application_name like 'apalis-drizzle%')::int as n from pg_stat_activity where usename = ${role}`
    return row!['n'] === 0
  }, 'the worker has no connection left')
  await member.next('worker.error')
  await mailers.push(50, 1)
  await Promise.all(others.map((other) => other.end({ timeout: 1 })))
  await mailers.untilFinished(50)
  await member.stop()
  expect((await mailers.tasks()).filter(({ status, runs }) => status !== 'Done' || runs === 0)).toEqual([])
})

it('a key that another session has taken and not committed holds up nobody else', { timeout: 60_000 }, async () => {
  const queue = defineQueue<number>('keys')
  const storage = new PostgresStorage(database.db, queue)
  const other = database.connect({ max: 1 })
  await expect(
    other.db.transaction(async (tx) => {
      await pushTaskWithTx(tx, queue.task(1, { idempotencyKey: 'taken' }))
      const waiting = storage.push(1, { idempotencyKey: 'taken' })
      const settled = waiting.then(
        () => 'stored',
        (error: unknown) => (error as { code: string }).code,
      )
      await Promise.all(Array.from({ length: 100 }, () => storage.push(2)))
      await Promise.all(Array.from({ length: 5 }, (_, n) => storage.push(2, { idempotencyKey: `key ${n}` })))
      await database.db.transaction((mine) => pushTaskWithTx(mine, queue.task(3, { idempotencyKey: 'free' })))
      // It gives up while the other transaction is still open.
      expect(await settled).toBe('DATABASE')
      throw new Error('rolled back')
    }),
  ).rejects.toThrow('rolled back')
  await storage.push(1, { idempotencyKey: 'taken' })
  const [row] = await database.sql`select count(*)::int as n from apalis.jobs where job_type = 'keys'`
  expect(row!['n']).toBe(107)
})
