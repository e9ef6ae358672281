/** Runs the tasks of a queue until SIGTERM. A task with `poison` kills the process. */
import { setTimeout } from 'node:timers/promises'
import { defineQueue, PostgresStorage, shutdownSignal } from 'apalis-drizzle'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'

const client = postgres(process.env['DATABASE_URL']!)
const queue = defineQueue<{ poison: boolean }>(process.env['QUEUE']!)
const storage = new PostgresStorage(drizzle({ client }), queue, { keepAliveMs: 200, reenqueueOrphanedAfterMs: 1_000 })
const worker = storage.worker(async ({ poison }) => {
  if (poison) process.kill(process.pid, 'SIGKILL')
  await setTimeout(10)
})
await worker.run({ signal: shutdownSignal() })
await client.end()
