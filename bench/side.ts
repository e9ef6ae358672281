/** One of the libraries that are compared, or the floor below them. */
import type { Sql } from 'postgres'
import type { Payload } from './harness/payload.ts'

export const SIDES = ['apalis-drizzle', 'pg-boss', 'graphile-worker', 'floor'] as const

export type SideName = (typeof SIDES)[number]

export interface Side {
  readonly name: SideName
  /** What its tables hold when all tasks are done. */
  readonly stores: string
  /** Where its tasks are. */
  readonly table: string
  /** Creates the tables in an empty database. */
  setup(url: string): Promise<void>
  /** Empties the tables of tasks. */
  clear(sql: Sql): Promise<void>
  /** Whether a task of priority 0 is waiting or being worked. Asked every few milliseconds, so it must be cheap. */
  hasUnfinished(sql: Sql): Promise<boolean>
  count(sql: Sql): Promise<Counts>
  /** An application that enqueues, with a pool of so many connections. @param mode - How its tasks are worked; `fast` by default. */
  produce(url: string, connections: number, mode?: WorkMode): Promise<Producer>
  /** A process that works. */
  work(url: string, mode: WorkMode, handler: (payload: Payload) => Promise<void>): Promise<Worker>
}

/** Tasks of priority 0, by what the database says of them. */
export interface Counts {
  readonly waiting: number
  readonly working: number
  /** `undefined` where finished tasks are deleted. */
  readonly finished: number | undefined
  /** Attempts beyond the first. */
  readonly repeated: number
}

export interface Producer {
  /** Resolves when the task is committed. */
  enqueue(payload: Payload): Promise<void>
  /** Inserts an order and enqueues its task in one `db.transaction` of Drizzle. */
  enqueueInTransaction(payload: Payload): Promise<void>
  /** In one call. */
  enqueueMany(payloads: readonly Payload[]): Promise<void>
  close(): Promise<void>
}

/**
 * - `fast`: whatever drains a full queue fastest.
 * - `small-batches`: the same, with at most 100 tasks in a claim.
 * - `acked`: 24 slots under default settings. A slot takes its next task only after the last one's end is committed.
 * - `latency`: whatever starts a single task soonest.
 */
export type WorkMode = 'fast' | 'small-batches' | 'acked' | 'latency'

export interface Worker {
  /** Resolves when all that was finished is recorded, and connections are closed. */
  stop(): Promise<void>
}
