/** The promise of the outbox as an equation over the database and the files. */
import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { jobs } from 'apalis-drizzle/schema'
import { eq } from 'drizzle-orm'
import { confirmations } from './confirmations.js'
import type { ShopDb } from './database.js'
import { orders } from './schema.js'

/**
 * Looks for whatever breaks it:
 * - each committed order has exactly one task, and it is Done or Killed;
 * - no task belongs to an order that was rolled back;
 * - each Done task has one file about its order, and no other file exists;
 * - the confirmation of an order is booked once if its task is Done, and otherwise not at all.
 *
 * @param committed - How many transactions the shop saw commit.
 * @returns One sentence for each violation; empty if the equation holds.
 */
export async function checkOutbox(db: ShopDb, folder: string, committed: number): Promise<string[]> {
  const placed = await db.select({ number: orders.number, confirmations: orders.confirmations }).from(orders)
  const tasks = await db
    .select({ id: jobs.id, status: jobs.status, orderNumber: jobs.idempotencyKey })
    .from(jobs)
    .where(eq(jobs.jobType, confirmations.name))
  const files = new Set(await readdir(folder))

  const violations: string[] = []
  if (placed.length !== committed) {
    violations.push(`${committed} orders were committed, and the table has ${placed.length}.`)
  }
  for (const { number, confirmations } of placed) {
    const statuses = tasks.filter(({ orderNumber }) => orderNumber === number).map(({ status }) => status)
    const [status, ...more] = statuses
    const isFinal = more.length === 0 && (status === 'Done' || status === 'Killed')
    if (!isFinal)
      violations.push(`Order ${number} has ${statuses.join(' and ') || 'no'} task instead of one that ended.`)
    else if (confirmations !== (status === 'Done' ? 1 : 0))
      violations.push(`Order ${number} was confirmed ${confirmations} times, and its task is ${status}.`)
  }
  const numbers = new Set<string | null>(placed.map(({ number }) => number))
  for (const { id, status, orderNumber } of tasks) {
    if (!numbers.has(orderNumber)) violations.push(`Task ${id} belongs to no committed order.`)
    const file = `${orderNumber}.txt`
    if (status !== 'Done') continue
    if (!files.delete(file)) violations.push(`Task ${id} is Done, and there is no file ${file}.`)
    else if (!(await readFile(path.join(folder, file), 'utf8')).includes(`order ${orderNumber}:`)) {
      violations.push(`File ${file} is not about order ${orderNumber}.`)
    }
  }
  for (const file of files) violations.push(`File ${file} belongs to no Done task.`)
  return violations
}
