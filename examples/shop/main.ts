/**
 * `npm run demo`: a small shop that takes the orders of orders.jsonl and confirms each by mail.
 *
 * Order and confirmation task are written in one transaction, so that there is a confirmation for each order and none for
 * an order that was rolled back. The end of the task and the shop's note of it are written in another, so that each is noted
 * once. In the end the shop checks all this and exits with 1 if it does not hold.
 *
 * Uses the server of DATABASE_URL, in a database of its own that it drops at the end, or a temporary server.
 * `npm run demo -- FOLDER` keeps the confirmations in an empty folder.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { shutdownSignal } from 'apalis-drizzle'
import { startPostgres } from '../../scripts/postgres-server.js'
import { checkOutbox } from './check-outbox.js'
import { createDatabase } from './database.js'
import { ORDERS_FILE } from './make-orders.js'
import { report } from './report.js'
import { runShop } from './shop.js'

const [keptFolder] = process.argv.slice(2)

try {
  process.exitCode = await main()
} catch (error) {
  const { message, cause } = error as Error
  console.error(cause instanceof Error ? `${message} (${cause.message})` : message)
  process.exitCode = 1
}

async function main(): Promise<number> {
  const server = await startPostgres()
  try {
    return await runOnServer(server.url, shutdownSignal())
  } finally {
    await server.stop()
  }
}

async function runOnServer(serverUrl: string, signal: AbortSignal): Promise<number> {
  const database = await createDatabase(serverUrl)
  const folder = keptFolder ?? (await mkdtemp(path.join(tmpdir(), 'shop-confirmations-')))
  try {
    await mkdir(folder, { recursive: true })
    console.log(`Database ${database.name}, confirmations in ${folder}`)
    const tally = await runShop(database.db, ORDERS_FILE, folder, signal)
    if (signal.aborted) {
      console.log(`${(signal.reason as Error).message} The worker has stopped; nothing is checked.`)
      return 130
    }
    console.log(await report(database.db, tally))
    return printVerdict(await checkOutbox(database.db, folder, tally.committed), tally.committed)
  } finally {
    if (keptFolder === undefined) await rm(folder, { recursive: true, force: true })
    await database.drop()
  }
}

function printVerdict(violations: readonly string[], committed: number): number {
  if (violations.length === 0) {
    const orders = committed.toLocaleString('en')
    console.log(
      `The outbox equation holds: ${orders} orders, a task that ended for each, a file and a note for each Done.`,
    )
    return 0
  }
  console.error(`The outbox equation does not hold (${violations.length}):`)
  for (const violation of violations.slice(0, 20)) console.error(`- ${violation}`)
  return 1
}
