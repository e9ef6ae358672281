/** pg-boss 12, over pools of its own. */
import { sql as drizzleSql } from 'drizzle-orm'
import { fromDrizzle, PgBoss, type Queue } from 'pg-boss'
import { openShop, placeOrder } from '../harness/orders.ts'
import type { Payload } from '../harness/payload.ts'
import type { Counts, Side, WorkMode } from '../side.ts'

/** Notifications cost its INSERT a statement, so that they are on only where somebody waits for them. */
const QUEUES: Record<WorkMode, string> = {
  fast: 'bench',
  'small-batches': 'bench',
  acked: 'bench',
  latency: 'bench-with-notify',
}
const SLOTS = 24

export const pgBoss: Side = {
  name: 'pg-boss',
  stores: 'every task as a row, with its state and times, for seven days',
  table: 'pgboss.job',

  async setup(url) {
    const boss = await open(url, 2)
    await boss.createQueue(QUEUES.fast)
    await boss.createQueue(QUEUES.latency, { notify: true } satisfies Omit<Queue, 'name'>)
    await boss.stop({ graceful: false })
  },

  async clear(sql) {
    await sql`truncate pgboss.job`
  },

  async hasUnfinished(sql) {
    const [row] = await sql<{ unfinished: boolean }[]>`
      select exists (select from pgboss.job where state < 'active' and priority = 0)
        or exists (select from pgboss.job where state = 'active') as unfinished`
    return row!.unfinished
  },

  async count(sql) {
    const [row] = await sql<[Counts]>`
      select count(*) filter (where state < 'active')::int as waiting,
        count(*) filter (where state = 'active')::int as working,
        count(*) filter (where state = 'completed')::int as finished,
        coalesce(sum(retry_count), 0)::int as repeated
      from pgboss.job where priority = 0`
    return row
  },

  async produce(url, connections, mode = 'fast') {
    const boss = await open(url, connections)
    const { client, db } = openShop(url, connections)
    const queue = QUEUES[mode]
    return {
      async enqueue(payload) {
        await boss.send(queue, payload)
      },
      enqueueInTransaction: (payload) =>
        placeOrder(db, payload, (tx) => boss.send(queue, payload, { db: fromDrizzle(tx, drizzleSql) })),
      async enqueueMany(payloads) {
        await boss.insert(
          queue,
          payloads.map((data) => ({ data })),
        )
      },
      async close() {
        await Promise.all([boss.stop({ graceful: false }), client.end()])
      },
    }
  },

  async work(url, mode, handler) {
    if (mode === 'acked') return fetchAndComplete(await open(url, SLOTS + 1), QUEUES[mode], handler)
    const boss = await open(url, 10, mode === 'latency')
    if (mode === 'latency') {
      await boss.work<Payload>(QUEUES[mode], async ([job]) => handler(job!.data))
    } else {
      const batchSize = mode === 'fast' ? 1_000 : 100
      const options = { batchSize, localConcurrency: 2, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 }
      await boss.work<Payload>(QUEUES[mode], options, async (jobs) => {
        await Promise.all(jobs.map(({ data }) => handler(data)))
      })
    }
    return { stop: () => boss.stop() }
  },
}

async function open(url: string, connections: number, useListenNotify = false): Promise<PgBoss> {
  const boss = new PgBoss({ connectionString: url, max: connections, useListenNotify })
  boss.on('error', (error) => {
    throw error
  })
  return boss.start()
}

/** One loop for each slot, because `work` waits for its polling interval after each batch of one. */
function fetchAndComplete(boss: PgBoss, queue: string, handler: (payload: Payload) => Promise<void>) {
  let stopped = false
  const loops = Promise.all(
    Array.from({ length: SLOTS }, async () => {
      while (!stopped) {
        const [job] = await boss.fetch<Payload>(queue)
        if (job === undefined) {
          await new Promise((resolve) => setTimeout(resolve, 50))
          continue
        }
        await handler(job.data)
        await boss.complete(queue, job.id)
      }
    }),
  )
  return {
    async stop() {
      stopped = true
      await loops
      await boss.stop()
    },
  }
}
