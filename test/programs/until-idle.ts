/** Empties a queue, and has to end by itself then. */
import { defineQueue, PostgresStorage } from 'apalis-drizzle'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'

const client = postgres(process.env['DATABASE_URL']!)
const storage = new PostgresStorage(
  drizzle({ client }),
  defineQueue<string>(process.env['QUEUE']!, { timeoutMs: 60_000 }),
)
await storage.worker(() => undefined).run({ untilIdle: true })
await client.end()
console.log('ended')
