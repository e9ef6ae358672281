/**
 * Shows what reads cost on a large table: the statements that the library sends, explained by the server.
 */
import type { Sql } from 'postgres'
import { beforeAll, describe, expect, it } from 'vitest'
import { cost, type Cost } from '../bench/explain.js'
import { flushed, QUEUES, seed } from '../bench/seed.js'
import { fetchById, listAllTasks, listTasks, queueDepths } from '../src/reads.js'
import { STATUSES } from '../src/schema.js'
import { findEnded } from '../src/statements/find-ended.js'
import { endedQueues, pruneTasks } from '../src/statements/prune.js'
import type { Db } from '../src/vocabulary/db.js'
import { definitionOf } from '../src/vocabulary/definition.js'
import type { TaskId } from '../src/vocabulary/errors.js'
import { defineQueue } from '../src/vocabulary/queue.js'
import type { StoredTask } from '../src/vocabulary/stored-task.js'
import type { TaskFilter } from '../src/vocabulary/task-filter.js'
import { useDatabase } from './support/database.js'

const database = useDatabase()

/** Tasks of `emails` that wait for a retry, each due later than every Pending task. */
const RETRIES = 900
const BUFFERS_PER_QUEUE = 100

beforeAll(async () => {
  const { sql } = database
  await quiet(sql)
  await seed(sql, { finished: 150_000, delayed: 50_000 })
  await flushed(
    sql,
    `insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, done_at)
     select '7' || lpad(n::text, 25, '0'), 'emails', '{}', 'Failed', 1, 5, now() + interval '2 days' + n * interval '1 second',
       now() - n * interval '5 minutes'
     from generate_series(1, ${RETRIES}) n`,
  )
  await sql`vacuum analyze apalis.jobs`
})

/** A worker of autovacuum would keep the rows from being marked as visible to all, and their index from answering alone. */
const quiet = (sql: Sql) => sql`alter table apalis.jobs set (autovacuum_enabled = false)`

type Read = (db: Db, filter: TaskFilter) => Promise<StoredTask<unknown>[]>

const one =
  (queue: string): Read =>
  (db, filter) =>
    listTasks(db, definitionOf(defineQueue<unknown>(queue)), filter)

const READS: [name: string, queues: number, read: Read][] = [
  ['a queue of finished tasks', 1, one('invoices')],
  ['a queue with many retries', 1, one('emails')],
  ['a queue of delayed tasks', 1, one('reports')],
  ['all queues', QUEUES.length, listAllTasks],
]

const cases = READS.flatMap(([name, queues, read]) => STATUSES.map((status) => ({ name, queues, read, status })))

describe('a page of ten out of 200,000 rows', () => {
  it.each(cases)('reads at most 100 pages a queue: $status, $name, first page', async ({ queues, read, status }) => {
    const { buffers, nodes, found } = await costOf(read, { status })
    expect(found).toHaveLength(10)
    expect(buffers).toBeLessThanOrEqual(BUFFERS_PER_QUEUE * queues)
    expect(scanned(nodes)).toBe(false)
  })

  it.each(cases)('reads at most 100 pages a queue: $status, $name, by a cursor', async ({ queues, read, status }) => {
    // Far inside, where there is so much.
    const pages = [500, 50, 2, 1]
    let after: string | undefined
    for (const page of pages) after ??= (await read(database.db as unknown as Db, { status, page })).at(-1)?.cursor
    const { buffers, nodes } = await costOf(read, { status, after })
    expect(after).toBeDefined()
    expect(buffers).toBeLessThanOrEqual(BUFFERS_PER_QUEUE * queues)
    expect(scanned(nodes)).toBe(false)
  })
})

describe('a page of fifty out of 20,000 rows', () => {
  const small = useDatabase()

  beforeAll(async () => {
    const { sql } = small
    await quiet(sql)
    // In the order of the list scattered over the table, and in the same way in every run.
    await flushed(
      sql,
      `insert into apalis.jobs (id, job_type, job, status, run_at, done_at)
       select lpad(n::text, 26, '0'), case n / 2 % 2 when 0 then 'a' else 'b' end, '{}', status, now() - n * 7919 % 86400 * interval '1 second',
         case status when 'Done' then now() - n * 6997 % 86400 * interval '1 second' end
       from generate_series(1, 40000) n, lateral (select case n % 2 when 0 then 'Pending' else 'Done' end as status) task`,
    )
    await sql`vacuum analyze apalis.jobs`
  })

  it.each([
    ['Pending', 1, one('a')],
    ['Pending', 2, listAllTasks],
    ['Done', 1, one('a')],
    ['Done', 2, listAllTasks],
  ] as const)('reads at most 100 pages a queue: %s of %i queues [NEXT-36]', async (status, queues, read) => {
    const first = await costOf(read, { status, pageSize: 50 }, small)
    const second = await costOf(read, { status, pageSize: 50, after: first.found.at(-1)?.cursor }, small)
    for (const { buffers, nodes, found } of [first, second]) {
      expect(found).toHaveLength(50)
      expect(buffers).toBeLessThanOrEqual(BUFFERS_PER_QUEUE * queues)
      expect(scanned(nodes)).toBe(false)
    }
  })
})

describe('other reads', () => {
  it('find one task by the primary key', async () => {
    const [task] = await one('emails')(database.db as unknown as Db, {})
    const emails = definitionOf(defineQueue<unknown>('emails'))
    const { buffers } = await explained((db) => fetchById(db, emails, task!.id))
    expect(buffers).toBeLessThanOrEqual(4)
  })

  it.each([10, 5_000])('find which of %i tasks have ended by the primary key', async (count) => {
    const { sql } = database
    const waiting = await sql<{ id: TaskId }[]>`
      select id from apalis.jobs where status in ('Pending', 'Done') order by status desc, id limit ${count}`
    const { buffers, nodes } = await explained((db) =>
      findEnded(
        db,
        waiting.map(({ id }) => id),
      ),
    )
    expect(buffers).toBeLessThanOrEqual(4 * count)
    expect(scanned(nodes)).toBe(false)
  })

  it('count the depths of queues without reading a task', async () => {
    const { nodes } = await explained(queueDepths)
    const reads = nodes.filter(({ table }) => table === 'jobs').map(({ type }) => type)
    expect(new Set(reads)).toEqual(new Set(['Index Only Scan']))
  })

  it('find the queues with something to prune in the index', async () => {
    const { buffers } = await explained(endedQueues)
    expect(buffers).toBeLessThanOrEqual(10 * QUEUES.length)
  })

  it.each(['Done', 'Failed', 'Killed'] as const)('find what is to prune by age: %s', async (status) => {
    const request = { queue: 'invoices', status, olderThanMs: 0, limit: 10 }
    const { nodes } = await explained((db) => pruneTasks(db, request))
    expect(scanned(nodes)).toBe(false)
  })
})

async function explained(call: (db: Db) => Promise<unknown>, { client, sql } = database): Promise<Cost> {
  return cost(client, sql, (db) => call(db as unknown as Db))
}

async function costOf(read: Read, filter: TaskFilter, at = database) {
  let found: StoredTask<unknown>[] = []
  const call = async (db: Db) => (found = await read(db, filter))
  return { ...(await explained(call, at)), found }
}

function scanned(nodes: Cost['nodes']): boolean {
  return nodes.some(({ type, table }) => type === 'Seq Scan' && table === 'jobs')
}
