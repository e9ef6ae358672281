/**
 * Acknowledgements in a transaction of the application. They count when that commits, which this process does not learn:
 * whoever has to know asks the row. Until it ends, the transaction keeps the row locked, so nothing else decides meanwhile.
 */
import { ack, statusOfClaims } from '../statements/ack.js'
import { databaseError, isSerializationFailure } from '../vocabulary/database-error.js'
import { transaction, type Db, type PgTx } from '../vocabulary/db.js'
import type { QueueDefinition } from '../vocabulary/definition.js'
import { StaleAcknowledgementError } from '../vocabulary/errors.js'
import type { AckOutcome } from '../vocabulary/outcome.js'
import { okResult } from '../vocabulary/result.js'
import type { HeldClaim } from './held-claim.js'

/** A claim, as far as a transaction of the application may acknowledge it. */
export interface TxClaim extends ClaimOf, TxKeeper {}

interface ClaimOf {
  readonly held: HeldClaim
  readonly queue: string
  readonly worker: string
}

/** Whoever follows what becomes of such a transaction. */
export interface TxKeeper {
  /** Asks the database, outside of the transaction, whether the claim still stands. */
  readonly stands: () => Promise<boolean>
  /** Told of each acknowledgement, which may or may not be committed later. */
  readonly onAcknowledged: () => void
}

/** For `ctx.completeWithTx`. */
export async function completeInTx<Result>(
  tx: PgTx,
  claim: TxClaim,
  definition: QueueDefinition<unknown, Result>,
  result: Result,
): Promise<void> {
  const db = transaction(tx, 'completeWithTx', 'To complete a task without one, return its result.')
  refuseUnlessHeld(claim)
  await ackInTx(db, claim, { status: 'Done', result: await okResult(definition, result) })
}

/**
 * Acknowledges a claim in the caller's transaction, one round trip. A claim that is lost provokes no SQL error.
 *
 * @param cause - What the application gave as the reason of an outcome that is none of success.
 * @throws {StaleAcknowledgementError} `STALE_ACKNOWLEDGEMENT`
 * @throws {DatabaseError} `DATABASE`
 */
export async function ackInTx(tx: Db, claim: TxClaim, outcome: AckOutcome, cause?: unknown): Promise<void> {
  const { held, queue, worker } = claim
  refuseUnlessHeld(claim)
  const acknowledged = { outcome, cause }
  const repeats = held.inTransaction !== undefined
  // Already now, because a heartbeat may find the row changed before the answer is here.
  held.inTransaction ??= acknowledged
  const written = await ack(tx, queue, worker, [{ fence: held.fence, outcome }]).catch((error: unknown) =>
    refuse(claim, error),
  )
  if (written.size === 0) throw stale(claim, undefined, repeats ? ACKNOWLEDGED_IN_TX : undefined)
  // An earlier one was undone, otherwise this one would have found nothing.
  held.inTransaction = acknowledged
  claim.onAcknowledged()
}

/** Whether the database still counts a claim as its worker's. */
export async function claimStands(db: Db, { held, queue, worker }: ClaimOf): Promise<boolean> {
  const statuses = await statusOfClaims(db, queue, worker, [{ fence: held.fence, outcome: { status: 'Pending' } }])
  return statuses.has(held.id)
}

/** The claim is given up in memory first: then nothing is asked of the database. */
export function refuseUnlessHeld(claim: ClaimOf): void {
  const { state } = claim.held
  if (state === 'over' || state === 'acking') throw stale(claim, undefined, ACKNOWLEDGED)
  if (state !== 'running') throw stale(claim)
}

const ACKNOWLEDGED = 'it is acknowledged already. Each claim is acknowledged once.'
const ACKNOWLEDGED_IN_TX =
  'a transaction has acknowledged it already, this one or another. Each claim is acknowledged once, unless that was rolled back.'

/**
 * Beyond read committed, a row that was changed since the transaction began is an error and not absent. That means a lost
 * claim, unless only something harmless was changed: the worker itself shows a task that has started as Running.
 */
async function refuse(claim: TxClaim, error: unknown): Promise<never> {
  const cause = databaseError(`acknowledging task ${claim.held.id} in a transaction`, error)
  if (isSerializationFailure(error) && !(await claim.stands().catch(() => true))) throw stale(claim, { cause })
  throw cause
}

function stale({ held, queue, worker }: ClaimOf, options?: ErrorOptions, reason?: string): StaleAcknowledgementError {
  return new StaleAcknowledgementError(held.id, queue, worker, options, reason)
}
