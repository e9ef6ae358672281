import type { TaskId } from './errors.js'
import type { Metadata } from './task.js'

/** What is known of a task beside its payload. */
export interface TaskFields {
  readonly id: TaskId
  readonly queue: string
  readonly maxAttempts: number
  readonly priority: number
  readonly runAt: Date
  readonly metadata: Metadata
  readonly idempotencyKey: string | null
}

/** A task that a worker holds. */
export interface Claim<Args> extends TaskFields {
  readonly args: Args
  /** The number of this execution: 1 for the first. */
  readonly attempt: number
  readonly worker: string
}

/** What a handler gets beside the payload. */
export interface TaskContext<Args> {
  readonly task: Claim<Args>
  readonly id: TaskId
  /** The number of this execution: 1 for the first. */
  readonly attempt: number
  /**
   * Aborts when the handler is to stop; its reason is a {@link TaskAbortedError} whose `why` is shutdown, timeout,
   * claim-lost or cancelled. Hand it to fetch and the like.
   */
  readonly signal: AbortSignal
  readonly worker: string
}

/** The application's function for the tasks of a queue. What it returns is stored as the result. */
export type Handler<Args, Result> = (args: Args, ctx: TaskContext<Args>) => Result | Promise<Result>
