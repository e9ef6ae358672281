import { TaskAbortedError, type TaskId } from '../vocabulary/errors.js'
import type { AckOutcome, Fence } from '../vocabulary/outcome.js'
import type { TaskRow } from '../vocabulary/row.js'

/** A claimed task's columns, as far as a claim needs them. */
export interface HeldRow extends TaskRow {
  readonly job: Uint8Array
  /** Whole seconds since 1970. */
  readonly lockAt: number
}

export type LossReason = 'claim-lost' | 'cancelled'

/**
 * One claim of one task, as this process holds it. A later claim of the same task is another object, so that what an
 * earlier run still does cannot touch it.
 *
 * - `buffered`: waits for a slot.
 * - `running`: its handler runs.
 * - `acking`: its outcome, or that it goes back unstarted, is on the way to the database, which decides whether the
 *   claim is still good.
 * - `over`: acknowledged; nothing of it reaches the database any more.
 * - `lost`: neither, because the database no longer counts it as ours; `lostBecause` says why.
 */
export class HeldClaim {
  state: 'buffered' | 'running' | 'acking' | 'over' | 'lost' = 'buffered'
  /** When this process received the claim, by `performance.now()`. */
  readonly heldSince = performance.now()
  /** Whether the database shows it as Queued, and so would not charge it if this process died. */
  shownAsQueued: boolean
  /**
   * What a transaction of the application writes, or tried to write, as its outcome. Only the row tells whether that has
   * committed.
   */
  inTransaction: { readonly outcome: AckOutcome; readonly cause: unknown } | undefined
  /** Why `signal` aborted, if it did. */
  abortedBecause: TaskAbortedError['why'] | undefined
  lostBecause: LossReason | undefined
  /** Told once, when it is aborted. */
  onAbort: (() => void) | undefined
  #startedAt: number | undefined
  #abortReason: TaskAbortedError | undefined
  // Made when they are asked for, which few handlers do: signals are dear to the garbage collector.
  #controller: AbortController | undefined
  #dismissed: Promise<void> | undefined
  #dismiss: (() => void) | undefined
  #isDismissed = false

  constructor(readonly row: HeldRow) {
    this.shownAsQueued = row.status === 'Queued'
  }

  get id(): TaskId {
    return this.row.id as TaskId
  }

  /** The number of this execution: 1 for the first. */
  get attempt(): number {
    return this.row.attempts + 1
  }

  get fence(): Fence {
    return this.row
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#abortReason !== undefined) this.#controller.abort(this.#abortReason)
    }
    return this.#controller.signal
  }

  /** The reason of `signal`, if it has aborted. */
  get abortReason(): TaskAbortedError | undefined {
    return this.#abortReason
  }

  /** Where the application acknowledges it: resolves when it has, or when there is no more waiting for that. */
  get dismissed(): Promise<void> {
    return (this.#dismissed ??= this.#isDismissed
      ? Promise.resolve()
      : new Promise((resolve) => (this.#dismiss = resolve)))
  }

  isClaimOf(fence: Fence | undefined): boolean {
    return fence !== undefined && fence.attempts === this.row.attempts && fence.lockAt === this.row.lockAt
  }

  start(): void {
    this.state = 'running'
    this.#startedAt = performance.now()
  }

  /** Whether a handler was called, or what comes before it. */
  get hasRun(): boolean {
    return this.#startedAt !== undefined
  }

  /** Milliseconds; 0 while it is not running. */
  runningFor(now: number): number {
    return this.state === 'running' && this.#startedAt !== undefined ? now - this.#startedAt : 0
  }

  abort(why: TaskAbortedError['why']): void {
    if (this.#abortReason !== undefined) return
    this.abortedBecause = why
    this.#abortReason = new TaskAbortedError(why, this.id)
    this.#controller?.abort(this.#abortReason)
    this.onAbort?.()
  }

  dismiss(): void {
    this.#isDismissed = true
    this.#dismiss?.()
  }

  /** The database no longer counts it as ours: the handler is told, and nothing it does is recorded. */
  lose(why: LossReason): void {
    this.state = 'lost'
    this.lostBecause = why
    this.abort(why)
    this.dismiss()
  }
}
