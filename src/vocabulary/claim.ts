import type { Completed } from './completed.js'
import type { PgTx } from './db.js'
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
export interface TaskContext<Args, Result = void> {
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
  /**
   * Ends the task as Done in the handler's own transaction, one round trip: what the handler wrote there, the tasks it
   * pushed there and the acknowledgement are committed together, or nothing of it. So their effect happens once, however
   * often the task runs.
   *
   * The row of the task stays locked until the transaction ends, so call it last. If the transaction rolls back, the task
   * is not completed, and ends as the handler then returns or throws.
   *
   * @param tx - That of the transaction to commit with.
   * @param result - Stored as if the handler had returned it.
   * @returns What the handler returns in place of its result.
   * @throws {StaleAcknowledgementError} `STALE_ACKNOWLEDGEMENT` when the claim was lost, or the task is cancelled or completed
   * already. Let it leave the callback, so that the transaction rolls back.
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` before any SQL, for a result that cannot be stored or a `db` in
   * place of a `tx`.
   * @throws {DatabaseError} `DATABASE` when the statement fails; as after any SQL error the transaction can only roll back.
   * @example
   * return db.transaction(async (tx) => {
   *   await tx.insert(receipts).values(receipt)
   *   return ctx.completeWithTx(tx, receipt)
   * })
   */
  completeWithTx(this: void, tx: PgTx, result: Result): Promise<Completed>
}

/**
 * The application's function for the tasks of a queue. What it returns is stored as the result, unless it has completed
 * the task in a transaction of its own.
 */
export type Handler<Args, Result> = (
  args: Args,
  ctx: TaskContext<Args, Result>,
) => Result | Completed | Promise<Result | Completed>
