/** Workers whose events are recorded, stopped after the test that made them. */
import { randomUUID } from 'node:crypto'
import {
  defineQueue,
  PostgresStorage,
  type Handler,
  type PgDb,
  type Queue,
  type QueueOptions,
  type TaskContext,
  type Worker,
  type WorkerOptions,
} from 'apalis-drizzle'
import { recordEvents, type RecordedEvents } from 'apalis-drizzle/testing'
import { afterEach } from 'vitest'
import type { Deadlines } from '../../src/processes/deadlines.js'
import { QueueWorker } from '../../src/processes/worker.js'
import { definitionOf } from '../../src/vocabulary/definition.js'

export interface Work<Args, Result = void> {
  queue: Queue<Args, Result>
  storage: PostgresStorage<Args, Result>
  /** Of all its workers. */
  events: RecordedEvents
  worker(handler: Handler<Args, Result>, options?: WorkerOptions, deadlines?: Deadlines): Worker
  /** Makes a worker and starts it. */
  started(handler: Handler<Args, Result>, options?: WorkerOptions, deadlines?: Deadlines): Promise<Worker>
}

/** @param db - Asked when a test runs, because the database does not exist before. */
export function useWorkers(db: () => PgDb) {
  const workers: Worker[] = []

  afterEach(async () => {
    await Promise.all(workers.splice(0).map((worker) => worker.stop({ timeoutMs: 0 })))
  })

  /** A queue of its own, with its storage. */
  return function work<Args = unknown, Result = void>(
    options: QueueOptions<Args, Result, Args> = {},
    ownDb: PgDb = db(),
  ): Work<Args, Result> {
    const queue = defineQueue<Args, Result>(`queue ${randomUUID()}`, options)
    const events = recordEvents()
    const config = { onEvent: events.onEvent, pollIntervalMs: 10 }
    const storage = new PostgresStorage(ownDb, queue, config)
    const worker: Work<Args, Result>['worker'] = (handler, workerOptions = {}, deadlines) => {
      // As `storage.worker` does it, which has the deadlines of production.
      const made = new QueueWorker(ownDb, definitionOf(queue), handler, config, workerOptions, deadlines)
      workers.push(made)
      return made
    }
    const started: Work<Args, Result>['started'] = async (...args) => {
      const made = worker(...args)
      await made.start()
      return made
    }
    return { queue, storage, events, worker, started }
  }
}

/** A handler that does nothing. */
export const idle = () => undefined

/** Ends with the signal's reason, as a handler does that hands its signal on. */
export function untilAborted(_args: unknown, { signal }: Pick<TaskContext<unknown>, 'signal'>): Promise<never> {
  return new Promise((_, reject) => {
    const abort = () => reject(signal.reason as Error)
    if (signal.aborted) abort()
    else signal.addEventListener('abort', abort)
  })
}

/** Something that a test waits for, or that it lets others wait for. */
export interface Gate<Value = void> {
  readonly opened: Promise<Value>
  open(value: Value): void
}

export function gate<Value = void>(): Gate<Value> {
  let open: (value: Value) => void = () => undefined
  const opened = new Promise<Value>((resolve) => (open = resolve))
  return { opened, open }
}
