/** From a claimed row to what the application gets, and what becomes of a row from which nothing can be made. */
import type { Claim } from '../vocabulary/claim.js'
import { decodeArgs } from '../vocabulary/decode.js'
import type { QueueDefinition } from '../vocabulary/definition.js'
import { RowError, type TaskId } from '../vocabulary/errors.js'
import type { AckOutcome } from '../vocabulary/outcome.js'
import { errResult } from '../vocabulary/result.js'
import { taskFields } from '../vocabulary/row.js'
import { isThenable } from '../vocabulary/standard-schema.js'
import type { HeldRow } from './held-claim.js'

/**
 * A promise only if the queue's schema is asynchronous.
 *
 * @throws {DecodeError} or {RowError}; a promise rejects with it.
 */
export function readClaim<Args>(
  queue: QueueDefinition<Args>,
  worker: string,
  row: HeldRow,
): Claim<Args> | Promise<Claim<Args>> {
  return readClaimBy((id, bytes) => decodeArgs(queue, id, bytes), queue.name, worker, row)
}

export function readClaimBy<Args>(
  decode: (id: TaskId, bytes: Uint8Array) => Args | Promise<Args>,
  queue: string,
  worker: string,
  row: HeldRow,
): Claim<Args> | Promise<Claim<Args>> {
  const fields = taskFields(queue, row)
  const args = decode(fields.id, row.job)
  return isThenable(args) ? args.then((read) => claimOf(fields, worker, read)) : claimOf(fields, worker, args)
}

/** Field by field, because rest and spread are slow, and each task passes through here. */
function claimOf<Args>(fields: ReturnType<typeof taskFields>, worker: string, args: Args): Claim<Args> {
  const { id, queue, runAt, maxAttempts, priority, metadata, idempotencyKey, attempts } = fields
  return { id, queue, runAt, maxAttempts, priority, metadata, idempotencyKey, args, attempt: attempts + 1, worker }
}

/** A failed attempt, due again after the queue's own wait. */
export function failedAttempt(
  queue: QueueDefinition,
  attempt: number,
  error: unknown,
  onRetryFailure: (error: unknown) => void,
): AckOutcome {
  const { delayMs, failure } = queue.retryDelay(attempt, error)
  if (failure !== undefined) onRetryFailure(failure)
  return { status: 'Failed', result: errResult(error), due: { delayMs } }
}

/** As `failedAttempt`, but final where the row itself is to blame. */
export function outcomeOfError(
  queue: QueueDefinition,
  attempt: number,
  error: unknown,
  onRetryFailure: (error: unknown) => void,
): AckOutcome {
  // No task can be made of the row, by this worker or any other, so retries would be in vain.
  if (error instanceof RowError) return { status: 'Killed', result: errResult(error), unlock: true }
  return failedAttempt(queue, attempt, error, onRetryFailure)
}
