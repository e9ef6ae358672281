import { InvalidArgumentError } from './errors.js'
import { checkDelay, typeOf } from './limits.js'

/** The states in which a task may be deleted: of the failed ones, those without an attempt left. */
export const PRUNABLE = ['Done', 'Failed', 'Killed'] as const
export type PrunableStatus = (typeof PRUNABLE)[number]

/** What `admin(db).prune` deletes, and how one follows it. */
export interface PruneOptions {
  /** Milliseconds since a task ended. 0 deletes whatever has ended. */
  olderThanMs: number
  /** Default: all three. Failed tasks that have an attempt left are still to run and never deleted. */
  statuses?: readonly PrunableStatus[] | undefined
  /** Ends it with the signal's reason before the next batch; what was deleted outside of a transaction stays deleted. */
  signal?: AbortSignal | undefined
  /** Told after each batch how much it is so far. A promise is waited for, so that it may slow the pruning down. */
  onProgress?: ((soFar: Pruned) => void | Promise<void>) | undefined
}

/** How many rows were deleted. */
export interface Pruned {
  readonly jobs: number
  /** Of workers; see `admin(db).prune`. */
  readonly workers: number
}

/** @throws {InvalidArgumentError} for an age that is none, and for statuses of tasks that have not ended. */
export function checkPruneOptions(options: PruneOptions): void {
  if (typeof options !== 'object' || options === null) {
    throw new InvalidArgumentError('options', `{ olderThanMs: milliseconds } is needed, not ${typeOf(options)}.`)
  }
  const { olderThanMs, statuses = PRUNABLE, onProgress } = options
  checkDelay('olderThanMs', olderThanMs)
  const known: readonly unknown[] = PRUNABLE
  if (!Array.isArray(statuses) || statuses.length === 0 || !statuses.every((status) => known.includes(status))) {
    throw new InvalidArgumentError('statuses', `some of ${PRUNABLE.join(', ')} are needed; other tasks have not ended.`)
  }
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    throw new InvalidArgumentError('onProgress', `a function is needed, not ${typeOf(onProgress)}.`)
  }
}
