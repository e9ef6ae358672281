/**
 * The table of docs/admin-costs.md: what each call costs on a database of 1.2 million tasks.
 *
 *     npx tsx bench/admin-costs.ts
 *
 * Uses the server of DATABASE_URL, in a database of its own, or else a temporary server.
 */
import { randomBytes } from 'node:crypto'
import { TransactionRollbackError } from 'drizzle-orm'
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import postgres, { type Sql } from 'postgres'
import { startPostgres } from '../scripts/postgres-server.js'
import { pauseQueue, resumeQueue } from '../src/processes/pause.js'
import { prune } from '../src/processes/prune.js'
import { setup } from '../src/processes/setup.js'
import * as reads from '../src/reads.js'
import { STATUSES } from '../src/schema.js'
import { pruneTasks } from '../src/statements/prune.js'
import * as steering from '../src/steering.js'
import { checkStatus } from '../src/processes/wait-for.js'
import type { Db } from '../src/vocabulary/db.js'
import { definitionOf } from '../src/vocabulary/definition.js'
import { defineQueue } from '../src/vocabulary/queue.js'
import type { Status } from '../src/vocabulary/row.js'
import type { TaskFilter } from '../src/vocabulary/task-filter.js'
import { cost } from './explain.js'
import { FULL_SIZE, seed } from './seed.js'

const RUNS = 9
/** Of changes to hundreds of thousands of tasks, each followed by a VACUUM. */
const CHANGE_RUNS = 3
const DAY_MS = 86_400_000

type Call = (db: Db) => Promise<unknown>

const emails = definitionOf(defineQueue<unknown>('emails'))
const reports = definitionOf(defineQueue<unknown>('reports'))

const server = await startPostgres()
const name = `apalis_bench_${randomBytes(4).toString('hex')}`
const root = connect(server.url)
try {
  await root`create database ${root(name)} template template0`
  const url = new URL(server.url)
  url.pathname = `/${name}`
  await measure(connect(url.href), connect(url.href))
} finally {
  await root`drop database if exists ${root(name)} with (force)`
  await root.end()
  await server.stop()
}

async function measure(client: Sql, sql: Sql): Promise<void> {
  const db = drizzle({ client })
  try {
    await setup(db)
    await seed(sql, FULL_SIZE)
    const [facts] = await sql<{ version: string; tasks: number; size: string }[]>`
      select current_setting('server_version') as version, count(*)::int as tasks,
        pg_size_pretty(pg_total_relation_size('apalis.jobs')) as size from apalis.jobs`
    console.log(`PostgreSQL ${facts!.version}, ${facts!.tasks.toLocaleString('en')} tasks, ${facts!.size}\n`)
    console.log('| call | ms | pages |\n| --- | ---: | ---: |')
    const show = async (call: string, run: Call) => {
      const { buffers } = await cost(client, sql, (logged) => run(logged as unknown as Db))
      row(call, await median(() => run(db as unknown as Db)), buffers)
    }
    for (const [call, run] of await calls(db as unknown as Db)) await show(call, run)
    const refresh = await median(() => reads.refreshQueueStatsSnapshot(db as unknown as Db))
    row('`refreshQueueStatsSnapshot()`', refresh, undefined)
    await show('`prune({ olderThanMs })` that finds nothing', (on) => prune(on, { olderThanMs: 60 * DAY_MS }))
    for (const [call, run] of await changes(sql)) {
      const { buffers } = await cost(client, sql, (logged) => undone(logged, run))
      row(
        call,
        await median(
          () => undone(db, run),
          () => sql`vacuum apalis.jobs`,
          CHANGE_RUNS,
        ),
        buffers,
      )
    }
    // Last, because it deletes.
    const batch = { queue: 'emails', status: 'Done', olderThanMs: 7 * DAY_MS, limit: 1_000 } as const
    await show('… a batch of 1,000', (on) => pruneTasks(on, batch))
  } finally {
    await Promise.all([client.end(), sql.end()])
  }
}

async function calls(db: Db): Promise<[string, Call][]> {
  const some = await reads.listTasks(db, emails, { status: 'Done', page: 1_000 })
  const deep = some.at(-1)
  const later = (await reads.listTasks(db, reports, { page: 1_000 })).at(-1)
  const all = (await reads.listAllTasks(db, { status: 'Done', page: 1_000 })).at(-1)
  const idsOf = async (status: Status) =>
    (await reads.listTasks(db, emails, { status, pageSize: 100 })).map((task) => task.id)
  const ended = await idsOf('Done')
  const waiting = await idsOf('Pending')
  const ofEmails =
    (filter: TaskFilter): Call =>
    (on) =>
      reads.listTasks(on, emails, filter)
  const ofReports =
    (filter: TaskFilter): Call =>
    (on) =>
      reads.listTasks(on, reports, filter)
  const ofAll =
    (filter: TaskFilter): Call =>
    (on) =>
      reads.listAllTasks(on, filter)
  return [
    ['`fetchById(id)`', (on) => reads.fetchById(on, emails, deep!.id)],
    ...STATUSES.map((status): [string, Call] => [`\`listTasks({ status: '${status}' })\``, ofEmails({ status })]),
    ['`listTasks()` of the queue with 200,000 delayed tasks', ofReports({})],
    ['… 50 tasks', ofReports({ pageSize: 50 })],
    ['… behind the cursor of task 10,000', ofReports({ after: later?.cursor })],
    ['… page 1,000', ofReports({ page: 1_000 })],
    ["`listTasks({ status: 'Done' })`, 50 tasks", ofEmails({ status: 'Done', pageSize: 50 })],
    ['… behind the cursor of task 10,000', ofEmails({ status: 'Done', after: deep?.cursor })],
    ['… page 1,000', ofEmails({ status: 'Done', page: 1_000 })],
    ...STATUSES.map((status): [string, Call] => [`\`listAllTasks({ status: '${status}' })\``, ofAll({ status })]),
    [
      "`listAllTasks({ status: 'Done' })` behind the cursor of task 10,000",
      ofAll({ status: 'Done', after: all?.cursor }),
    ],
    ['… page 1,000', ofAll({ status: 'Done', page: 1_000 })],
    ['`checkStatus(ids)` of 100 ended tasks', (on) => checkStatus(on, emails, ended)],
    ['… of 100 others, as each look of `waitFor`', (on) => checkStatus(on, emails, waiting)],
    ['`listWorkers()`', (on) => reads.listWorkers(on, 'emails')],
    ['`listAllWorkers()`', reads.listAllWorkers],
    ['`queueDepths()`', reads.queueDepths],
    ['`queueStatsSnapshot()`', reads.queueStatsSnapshot],
    ['`listQueues()`', reads.listQueues],
    ['`metrics()` of a queue', (on) => reads.metrics(on, 'emails')],
    ['`metrics()` of all', (on) => reads.metrics(on)],
    ['`pause(queue)` and `resume(queue)`', (on) => pauseQueue(on, 'emails').then(() => resumeQueue(on, 'emails'))],
  ]
}

async function changes(sql: Sql): Promise<[string, Change][]> {
  const held = await sql<{ id: string }[]>`
    select id from apalis.jobs where job_type = 'emails' and status = 'Pending' order by run_at limit 100`
  const ids = held.map(({ id }) => id)
  const later = new Date(Date.now() + DAY_MS)
  return [
    ['`cancel({ ids })` of one task', (on) => steering.cancel(on, { ids: ids.slice(0, 1) })],
    ['… of 100 tasks', (on) => steering.cancel(on, { ids })],
    ['`cancel({ queue })` of 2,240 tasks', (on) => steering.cancel(on, { queue: 'emails' })],
    [
      "`retryNow({ queue, status: 'Killed' })` of 2,000",
      (on) => steering.retryNow(on, { queue: 'emails', status: 'Killed' }),
    ],
    ['`setPriority({ queue })` of 202,200', (on) => steering.setPriority(on, { queue: 'reports' }, 7)],
    ['`reschedule({ queue }, runAt)` of 202,200', (on) => steering.reschedule(on, { queue: 'reports' }, later)],
    [
      "`remove({ queue, status: 'Done' })` of 198,000",
      (on) => steering.remove(on, { queue: 'emails', status: 'Done' }),
    ],
  ]
}

type Change = (place: steering.Place) => Promise<unknown>

/** In a transaction that is rolled back, so that each run finds the same. @returns The milliseconds of the call alone. */
async function undone(db: PostgresJsDatabase, change: Change): Promise<number> {
  let ms = 0
  const rolledBack = db.transaction(async (tx) => {
    const start = performance.now()
    await change({ db: tx as unknown as Db, inTransaction: true })
    ms = performance.now() - start
    tx.rollback()
  })
  await rolledBack.catch((error: unknown) => {
    if (!(error instanceof TransactionRollbackError)) throw error
  })
  return ms
}

/** Of the whole call, as the application waits for it; or of what it says that it has taken. */
async function median(run: () => Promise<unknown>, between?: () => Promise<unknown>, runs = RUNS): Promise<number> {
  await run()
  const times: number[] = []
  for (let i = 0; i < runs; i++) {
    await between?.()
    const start = performance.now()
    const took = await run()
    times.push(typeof took === 'number' ? took : performance.now() - start)
  }
  return times.sort((a, b) => a - b)[(runs - 1) / 2]!
}

function row(call: string, ms: number, pages: number | undefined): void {
  console.log(`| ${call} | ${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} | ${pages?.toLocaleString('en') ?? '–'} |`)
}

function connect(url: string): Sql {
  return postgres(url, { max: 1, onnotice: () => undefined })
}
