/** What an idle worker asks of the database in a real minute, counted by the server. */
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { setup } from 'apalis-drizzle'
import { expect, it, onTestFinished } from 'vitest'
import { startOwnServer } from '../support/own-server.js'
import { useWorkers } from '../support/workers.js'

const work = useWorkers(() => expect.unreachable('The test has a server of its own.'))
const MINUTE = 60_000
/** After work the polls come quickly; within this they are as far apart as they get. */
const UNTIL_IDLE = 25_000

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

function open(url: string, max: number): postgres.Sql {
  const client = postgres(url, { max, onnotice: () => undefined })
  onTestFinished(() => client.end({ timeout: 1 }))
  return client
}

/** A database on a server that counts what it executes there, and a client of another database to ask for the counts. */
async function countedDatabase() {
  const server = await startOwnServer()
  const sql = open(server.url, 1)
  await sql`alter system set shared_preload_libraries = 'pg_stat_statements'`
  await server.stop()
  await server.start()
  await sql`create extension pg_stat_statements`
  await sql`create database app`
  const url = new URL(server.url)
  url.pathname = '/app'
  const db = drizzle({ client: open(url.href, 2) })
  await setup(db)
  return { db, sql }
}

it('an idle worker with a listener issues fewer than 20 statements a minute beside heartbeats', async () => {
  const { db, sql } = await countedDatabase()
  const { events, storage, started } = work<number>({}, db)
  await started(() => undefined, { pollIntervalMs: 100 })
  await events.next('listener.up')
  await storage.push(1)
  await events.next('task.done')
  await sleep(UNTIL_IDLE)
  await sql`select pg_stat_statements_reset()`
  await sleep(MINUTE)
  const [count] = await sql<{ heartbeats: number; others: number }[]>`
    select coalesce(sum(calls) filter (where is_heartbeat), 0)::int as heartbeats,
      coalesce(sum(calls) filter (where not is_heartbeat), 0)::int as others
    from pg_stat_statements join pg_database on oid = dbid,
      lateral (select query like '%"beat"%' as is_heartbeat) as kind
    where datname = 'app'`
  // Looks every five seconds, two signs of life of the listener, two sweeps.
  expect(count!.others).toBeGreaterThan(10)
  expect(count!.others).toBeLessThan(20)
  expect(count!.heartbeats).toBeGreaterThanOrEqual(1)
  expect(count!.heartbeats).toBeLessThanOrEqual(2)
  expect(events.all.filter(({ level }) => level === 'warn' || level === 'error')).toEqual([])
})
