/** What pages of lists cost on the tables of bench/seed.ts: the statements that the library sends, explained by the server. */
import { describe, expect, it } from 'vitest'
import { cost, type Cost } from '../../bench/explain.js'
import { QUEUES } from '../../bench/seed.js'
import { listAllTasks, listTasks } from '../../src/reads.js'
import { STATUSES } from '../../src/schema.js'
import type { Db } from '../../src/vocabulary/db.js'
import { definitionOf } from '../../src/vocabulary/definition.js'
import { defineQueue } from '../../src/vocabulary/queue.js'
import type { StoredTask } from '../../src/vocabulary/stored-task.js'
import type { TaskFilter } from '../../src/vocabulary/task-filter.js'
import type { TestDatabase } from './database.js'

export type Read = (db: Db, filter: TaskFilter) => Promise<StoredTask<unknown>[]>

export const one =
  (queue: string): Read =>
  (db, filter) =>
    listTasks(db, definitionOf(defineQueue<unknown>(queue)), filter)

export const BUFFERS_PER_QUEUE = 100

const READS: [name: string, queues: number, read: Read][] = [
  ['a queue of finished tasks', 1, one('invoices')],
  ['a queue with many retries', 1, one('emails')],
  ['a queue of delayed tasks', 1, one('reports')],
  ['all queues', QUEUES.length, listAllTasks],
]

const CASES = READS.flatMap(([name, queues, read]) => STATUSES.map((status) => ({ name, queues, read, status })))

/** Tests of the first page, and of one far inside where there is so much. */
export function testPages(database: TestDatabase, pageSize: number): void {
  describe(`a page of ${pageSize} tasks reads at most 100 pages of memory a queue`, () => {
    it.each(CASES)('$status, $name, first page', async ({ read, status, ...of }) => {
      const { buffers, nodes, found } = await costOf(database, read, { status, pageSize })
      expect(found.length).toBeGreaterThanOrEqual(10)
      expect(buffers).toBeLessThanOrEqual(mostBuffers({ ...of, status, pageSize }))
      expect(scanned(nodes)).toBe(false)
    })

    it.each(CASES)('$status, $name, by a cursor', async ({ read, status, ...of }) => {
      let after: string | undefined
      for (const page of [500, 50, 2, 1]) after ??= (await read(dbOf(database), { status, page })).at(-1)?.cursor
      const { buffers, nodes } = await costOf(database, read, { status, after, pageSize })
      expect(after).toBeDefined()
      expect(buffers).toBeLessThanOrEqual(mostBuffers({ ...of, status, pageSize }))
      expect(scanned(nodes)).toBe(false)
    })
  })
}

/** Fifty rows from five priorities, scattered over a large table, cannot be had for 100 pages; docs/admin-costs.md shows why. */
function mostBuffers(of: { name: string; queues: number; status: string; pageSize: number }): number {
  const scattered = of.name === 'a queue of delayed tasks' && of.status === 'Pending' && of.pageSize > 15
  return scattered ? 250 : BUFFERS_PER_QUEUE * of.queues
}

export async function explained({ client, sql }: TestDatabase, call: (db: Db) => Promise<unknown>): Promise<Cost> {
  return cost(client, sql, (db) => call(db as unknown as Db))
}

export async function costOf(database: TestDatabase, read: Read, filter: TaskFilter) {
  let found: StoredTask<unknown>[] = []
  const call = async (db: Db) => (found = await read(db, filter))
  return { ...(await explained(database, call)), found }
}

export function scanned(nodes: Cost['nodes']): boolean {
  return nodes.some(({ type, table }) => type === 'Seq Scan' && table === 'jobs')
}

export function dbOf({ db }: TestDatabase): Db {
  return db as unknown as Db
}
