/** A day in the shop: orders come in and are placed, while a worker sends the confirmations. */
import { setTimeout } from 'node:timers/promises'
import { PostgresStorage, setup, type WorkerEvent } from 'apalis-drizzle'
import { jobs } from 'apalis-drizzle/schema'
import { and, eq, notInArray } from 'drizzle-orm'
import { confirmOrder } from './confirm-order.js'
import { confirmations } from './confirmations.js'
import type { ShopDb } from './database.js'
import { MailServer } from './mail-server.js'
import { readOrders, type OrderLine } from './orders.js'
import { placeOrder } from './place-order.js'
import { Progress } from './progress.js'
import { createTables } from './schema.js'

/** What the shop saw itself, to be compared with the database afterwards. */
export interface Tally {
  committed: number
  rolledBack: number
  duplicate: number
  malformed: number
}

/** Orders that are placed at the same time. */
const CLERKS = 8

/**
 * Places all orders of a file and resolves when each confirmation task is Done or Killed.
 *
 * @param signal - Ends it early: placing stops, the worker finishes what it has begun.
 */
export async function runShop(db: ShopDb, ordersFile: string, folder: string, signal: AbortSignal): Promise<Tally> {
  await setup(db)
  await createTables(db)

  const tally: Tally = { committed: 0, rolledBack: 0, duplicate: 0, malformed: 0 }
  const events = { done: 0, failed: 0, deferred: 0, killed: 0 }
  const progress = new Progress(() => {
    const { committed, rolledBack, duplicate, malformed } = tally
    const { done, failed, deferred, killed } = events
    const lines = committed + rolledBack + duplicate + malformed
    return `${lines} lines, ${committed} orders; tasks: ${done} done, ${failed} failed, ${deferred} deferred, ${killed} killed`
  })
  const onEvent = (event: WorkerEvent) => {
    if (event.type === 'task.done') events.done += 1
    else if (event.type === 'task.failed') events.failed += 1
    else if (event.type === 'task.deferred') events.deferred += 1
    else if (event.type === 'task.killed') events.killed += 1
    else if (event.level === 'warn' || event.level === 'error') progress.note(event.message)
  }

  const storage = new PostgresStorage(db, confirmations, { onEvent })
  const worker = storage.worker(confirmOrder(db, new MailServer(folder)), { name: 'mailer', concurrency: 10 })
  try {
    await worker.start()
    const lines = readOrders(ordersFile)
    const clerk = () => placeOrders(db, lines, signal, tally, progress)
    await Promise.all(Array.from({ length: CLERKS }, clerk))
    await allConfirmed(db, signal)
  } finally {
    await worker.stop()
    await progress.end()
  }
  return tally
}

/** The clerks take their lines from one pile. */
async function placeOrders(
  db: ShopDb,
  lines: AsyncIterable<OrderLine>,
  signal: AbortSignal,
  tally: Tally,
  progress: Progress,
): Promise<void> {
  for await (const entry of lines) {
    if ('problem' in entry) {
      tally.malformed += 1
      progress.note(`line ${entry.line}: ${entry.problem}`)
    } else {
      tally[await placeOrder(db, entry.order)] += 1
    }
    if (signal.aborted) return
  }
}

async function allConfirmed(db: ShopDb, signal: AbortSignal): Promise<void> {
  const unfinished = and(eq(jobs.jobType, confirmations.name), notInArray(jobs.status, ['Done', 'Killed']))
  while (!signal.aborted && (await db.$count(jobs, unfinished)) > 0) await setTimeout(100)
}
