/** graphile-worker 0.18, over pools of its own, in the configuration of https://worker.graphile.org/docs/performance. */
import { sql as drizzleSql } from 'drizzle-orm'
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { openShop, placeOrder } from '../harness/orders.ts'
import type { Payload } from '../harness/payload.ts'
import type { Counts, Side, WorkMode } from '../side.ts'

const TASK = 'bench'
const BATCHED = { concurrentJobs: 24, maxPoolSize: 25, completeJobBatchDelay: 0, failJobBatchDelay: 0 }

const SETTINGS: Record<WorkMode, Partial<GraphileConfig.WorkerOptions>> = {
  fast: { ...BATCHED, localQueue: { size: 500 } },
  'small-batches': { ...BATCHED, localQueue: { size: 100 } },
  // By default a slot does not even wait for the end of its task to be recorded.
  acked: { concurrentJobs: 24, maxPoolSize: 25 },
  latency: { concurrentJobs: 24, maxPoolSize: 25 },
}

const logger = new Logger(() => () => undefined)

export const graphileWorker: Side = {
  name: 'graphile-worker',
  stores: 'nothing: a task that succeeded is deleted',
  table: 'graphile_worker._private_jobs',

  async setup(url) {
    const utils = await makeWorkerUtils({ connectionString: url, logger })
    await utils.migrate()
    await utils.release()
  },

  async clear(sql) {
    await sql`truncate graphile_worker._private_jobs`
  },

  async hasUnfinished(sql) {
    const [row] = await sql<{ unfinished: boolean }[]>`
      select exists (select from graphile_worker._private_jobs where priority = 0) as unfinished`
    return row!.unfinished
  },

  async count(sql) {
    const [row] = await sql<[Omit<Counts, 'finished'>]>`
      select count(*) filter (where locked_at is null)::int as waiting,
        count(*) filter (where locked_at is not null)::int as working,
        coalesce(sum(greatest(attempts - 1, 0)), 0)::int as repeated
      from graphile_worker._private_jobs where priority = 0`
    return { ...row, finished: undefined }
  },

  async produce(url, connections) {
    const utils = await makeWorkerUtils({ connectionString: url, maxPoolSize: connections, logger })
    const { client, db } = openShop(url, connections)
    return {
      async enqueue(payload) {
        await utils.addJob(TASK, payload)
      },
      enqueueInTransaction: (payload) =>
        placeOrder(db, payload, (tx) =>
          tx.execute(drizzleSql`select graphile_worker.add_job(${TASK}, ${JSON.stringify(payload)}::text::json)`),
        ),
      async enqueueMany(payloads) {
        await utils.addJobs(payloads.map((payload) => ({ identifier: TASK, payload })))
      },
      async close() {
        await Promise.all([utils.release(), client.end()])
      },
    }
  },

  async work(url, mode, handler) {
    const runner = await run({
      preset: { worker: { connectionString: url, logger, ...SETTINGS[mode] } },
      taskList: { [TASK]: (payload) => handler(payload as Payload) },
      noHandleSignals: true,
      parsedCronItems: [],
    })
    return { stop: () => runner.stop() }
  },
}
