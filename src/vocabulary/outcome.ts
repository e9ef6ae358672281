/** What happened to a claim: as the application tells it, and as the acknowledgement writes it. */

/**
 * What came of a claim, for `storage.ack`.
 *
 * - `Done`: final. The result is stored as JSON.
 * - `Failed`: charged. It runs again after `delayMs` milliseconds (default: the queue's `retry`), or is Killed when no
 *   attempt is left.
 * - `Killed`: final, whatever attempts are left.
 */
export type Outcome<Result> =
  | { status: 'Done'; result: Result }
  | { status: 'Failed'; error: unknown; delayMs?: number | undefined }
  | { status: 'Killed'; error: unknown }

/** Identifies one claim of one task: whatever changes the task's state or owner changes one of these. */
export interface Fence {
  readonly id: string
  /** Executions charged before the claim. */
  readonly attempts: number
  /** Whole seconds since 1970. */
  readonly lockAt: number
}

/** When a task becomes due again: after a delay by the database's clock, or at an instant (both in milliseconds). */
export type Due = { readonly delayMs: number } | { readonly atMs: number }

/**
 * - `Done`, `Killed`: final. `unlock` clears the owner, for a row that no task can be made of.
 * - `Failed`: charged; due again at `due` while attempts are left, otherwise Killed.
 * - `Pending`: back to the queue, not charged; at its old place, or later if `due` is set.
 */
export type AckOutcome =
  | { readonly status: 'Done'; readonly result: string }
  | { readonly status: 'Failed'; readonly result: string; readonly due: Due }
  | { readonly status: 'Killed'; readonly result: string; readonly unlock?: true }
  | { readonly status: 'Pending'; readonly due?: Due }

export interface AckEntry {
  readonly fence: Fence
  readonly outcome: AckOutcome
}
