/**
 * Runs the tasks of a queue until SIGTERM, and prints each of its events as a line of JSON. Each execution leaves a row in
 * table `runs` before it works for the milliseconds that the task says. With EFFECTS it then leaves one in table `effects`,
 * in the transaction that completes the task.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import { defineQueue, PostgresStorage, shutdownSignal } from 'apalis-drizzle'
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'

const { DATABASE_URL, QUEUE, OPTIONS, EFFECTS } = process.env
// Without the query for array types, whose failure postgres.js 3.4 lets end the process when a connection breaks there.
const client = postgres(DATABASE_URL!, { max: 4, fetch_types: false, backoff: () => 0.1, onnotice: () => undefined })
const db = drizzle({ client })
const storage = new PostgresStorage(db, defineQueue<number>(QUEUE!, { retry: { baseMs: 50, factor: 1 } }))

const worker = storage.worker(
  async (ms, ctx) => {
    const { id, attempt } = ctx
    const execution = randomUUID()
    const record = () =>
      client`
        insert into runs (execution, task, attempt, process) values (${execution}, ${id}, ${attempt}, ${process.pid})
        on conflict do nothing`
    // However often the connection breaks, the handler does not fail, so that what is charged is the worker's doing.
    while (!(await record().catch(() => false))) await setTimeout(20)
    await setTimeout(ms)
    if (EFFECTS === undefined) return
    return db.transaction(async (tx) => {
      await tx.execute(sql`insert into effects (task) values (${id})`)
      return ctx.completeWithTx(tx, undefined)
    })
  },
  {
    ...(JSON.parse(OPTIONS!) as object),
    onEvent: ({ cause: _, ...event }: Record<string, unknown>) => console.log(JSON.stringify(event)),
  },
)
await worker.run({ signal: shutdownSignal() })
// The end of a client whose connections were cut may be long in coming with postgres.js 3.4, and nothing depends on it.
process.exit()
