/**
 * Shows what reads cost on a large table: the statements that the library sends, explained by the server.
 */
import type { Sql } from 'postgres'
import { beforeAll, describe, expect, it } from 'vitest'
import { flushed, QUEUES, seed } from '../bench/seed.js'
import { fetchById, listAllTasks, queueDepths } from '../src/reads.js'
import { findEnded } from '../src/statements/find-ended.js'
import { endedQueues, pruneTasks } from '../src/statements/prune.js'
import { definitionOf } from '../src/vocabulary/definition.js'
import type { TaskId } from '../src/vocabulary/errors.js'
import { defineQueue } from '../src/vocabulary/queue.js'
import { useDatabase } from './support/database.js'
import { BUFFERS_PER_QUEUE, costOf, dbOf, explained, one, scanned, testPages } from './support/page-costs.js'

const database = useDatabase()

/** Tasks of `emails` that wait for a retry, each due later than every Pending task. */
const RETRIES = 900

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

testPages(database, 10)

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
    const first = await costOf(small, read, { status, pageSize: 50 })
    const second = await costOf(small, read, { status, pageSize: 50, after: first.found.at(-1)?.cursor })
    for (const { buffers, nodes, found } of [first, second]) {
      expect(found).toHaveLength(50)
      expect(buffers).toBeLessThanOrEqual(BUFFERS_PER_QUEUE * queues)
      expect(scanned(nodes)).toBe(false)
    }
  })
})

describe('other reads', () => {
  it('find one task by the primary key', async () => {
    const [task] = await one('emails')(dbOf(database), {})
    const emails = definitionOf(defineQueue<unknown>('emails'))
    const { buffers } = await explained(database, (db) => fetchById(db, emails, task!.id))
    expect(buffers).toBeLessThanOrEqual(4)
  })

  it.each([10, 5_000])('find which of %i tasks have ended by the primary key', async (count) => {
    const { sql } = database
    const waiting = await sql<{ id: TaskId }[]>`
      select id from apalis.jobs where status in ('Pending', 'Done') order by status desc, id limit ${count}`
    const { buffers, nodes } = await explained(database, (db) =>
      findEnded(
        db,
        waiting.map(({ id }) => id),
      ),
    )
    expect(buffers).toBeLessThanOrEqual(4 * count)
    expect(scanned(nodes)).toBe(false)
  })

  it('count the depths of queues without reading a task', async () => {
    const { nodes } = await explained(database, queueDepths)
    const reads = nodes.filter(({ table }) => table === 'jobs').map(({ type }) => type)
    expect(new Set(reads)).toEqual(new Set(['Index Only Scan']))
  })

  it('find the queues with something to prune in the index', async () => {
    const { buffers } = await explained(database, endedQueues)
    expect(buffers).toBeLessThanOrEqual(10 * QUEUES.length)
  })

  it.each(['Done', 'Failed', 'Killed'] as const)('find what is to prune by age: %s', async (status) => {
    const request = { queue: 'invoices', status, olderThanMs: 0, limit: 10 }
    const { nodes } = await explained(database, (db) => pruneTasks(db, request))
    expect(scanned(nodes)).toBe(false)
  })
})
