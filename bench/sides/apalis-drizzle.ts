/** This library, as it is published. */
import { defineQueue, PostgresStorage, pushTaskWithTx, type StorageConfig, type WorkerOptions } from 'apalis-drizzle'
import { openShop, placeOrder } from '../harness/orders.ts'
import type { Payload } from '../harness/payload.ts'
import type { Side, WorkMode } from '../side.ts'
import { clearTables, count, hasUnfinished, QUEUE, setupTables } from './apalis-tables.ts'

const queue = defineQueue<Payload>(QUEUE)

const SETTINGS: Record<WorkMode, StorageConfig & WorkerOptions> = {
  fast: { concurrency: 100, bufferSize: 1_500 },
  'small-batches': { concurrency: 50, bufferSize: 50 },
  // The application acknowledges in the handler, because the worker itself would give a slot free before.
  acked: { concurrency: 24, autoAck: false },
  latency: {},
}

export const apalisDrizzle: Side = {
  name: 'apalis-drizzle',
  stores: 'every task as a row, with its status, attempts, result, worker and times',
  table: 'apalis.jobs',
  setup: setupTables,
  clear: clearTables,
  hasUnfinished,
  count,

  async produce(url, connections) {
    const { client, db } = openShop(url, connections)
    const storage = new PostgresStorage(db, queue)
    return {
      async enqueue(payload) {
        await storage.push(payload)
      },
      enqueueInTransaction: (payload) => placeOrder(db, payload, (tx) => pushTaskWithTx(tx, queue.task(payload))),
      async enqueueMany(payloads) {
        await storage.pushTasks(payloads.map((payload) => queue.task(payload)))
      },
      close: () => client.end(),
    }
  },

  async work(url, mode, handler) {
    const { client, db } = openShop(url, 1)
    const storage = new PostgresStorage(db, queue, SETTINGS[mode])
    const worker = storage.worker(
      mode === 'acked'
        ? async (payload, { task }) => {
            await handler(payload)
            await storage.ack(task, { status: 'Done', result: undefined })
          }
        : handler,
      SETTINGS[mode],
    )
    await worker.start()
    return {
      async stop() {
        await worker.stop()
        await client.end()
      },
    }
  },
}
