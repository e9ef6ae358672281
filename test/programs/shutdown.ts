/** Runs a worker until a signal asks it to stop. Its handler ends with its signal, or never when IGNORES_SIGNAL is set. */
import { defineQueue, PostgresStorage, shutdownSignal } from 'apalis-drizzle'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'

const client = postgres(process.env['DATABASE_URL']!)
const storage = new PostgresStorage(drizzle({ client }), defineQueue<string>(process.env['QUEUE']!))
const signal = shutdownSignal()
signal.addEventListener('abort', () => console.log(String(signal.reason)))
await storage
  .worker(
    (_args, ctx) =>
      new Promise((resolve) => {
        console.log('running')
        if (process.env['IGNORES_SIGNAL'] === undefined) ctx.signal.addEventListener('abort', () => resolve())
      }),
    {
      name: 'program#1',
      stopTimeoutMs: process.env['IGNORES_SIGNAL'] === undefined ? 0 : 60_000,
      onEvent: () => undefined,
    },
  )
  .run({ signal })
await client.end()
// Nothing of the worker keeps the process: it ends here by itself.
console.log('ended')
