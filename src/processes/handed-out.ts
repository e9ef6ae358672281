/** Claims whose outcome the application tells by itself. */
import type { Claim } from '../vocabulary/claim.js'
import type { QueueDefinition } from '../vocabulary/definition.js'
import {
  DatabaseError,
  InvalidArgumentError,
  MissingFieldError,
  StaleAcknowledgementError,
  type TaskId,
} from '../vocabulary/errors.js'
import { checkDelay, typeOf } from '../vocabulary/limits.js'
import type { AckOutcome, Outcome } from '../vocabulary/outcome.js'
import { errResult, okResult } from '../vocabulary/result.js'
import { transaction, type PgTx } from '../vocabulary/db.js'
import type { AckAnswer } from './ack-group.js'
import { ackAlone, type Consumer } from './ack-alone.js'
import { ackInTx, refuseUnlessHeld, type TxKeeper } from './ack-in-tx.js'
import type { HeldClaim } from './held-claim.js'
import { failedAttempt } from './read-claim.js'

export interface HandedOut {
  readonly held: HeldClaim
  readonly queue: string
  readonly worker: string
  /** The session whose claim it is; `undefined` under a name that an administrator registered. */
  readonly keeper?: Keeper
}

/** Who tells the database what came of a claim. */
export interface Keeper extends TxKeeper {
  /** Told when the queue's own retry function fails; the default backoff is used instead. */
  readonly onRetryFailure: (error: unknown) => void
  /** Offers the outcome to the database, once. */
  readonly record: (outcome: AckOutcome, cause: unknown) => Promise<AckAnswer>
}

/** By the very object that the application got: lock time and attempts are not the caller's to change. */
const handedOut = new WeakMap<object, HandedOut>()

export function handOut(task: Claim<unknown>, entry: HandedOut): void {
  handedOut.set(task, entry)
}

/** Returns a task that nobody has looked at to the queue, uncharged. */
export function handBack(task: Claim<unknown>): void {
  void handedOut.get(task)?.keeper?.record({ status: 'Pending' }, undefined)
}

/** Records what came of a claim, for `PostgresStorage.ack`. */
export async function acknowledge<Result>(
  consumer: Consumer<unknown, Result>,
  claim: Claim<unknown>,
  outcome: Outcome<Result>,
): Promise<void> {
  const entry = handedOutOf(consumer, claim)
  const { held } = entry
  const { queue } = consumer
  refuseUnlessHeld(entry)
  const keeper = entry.keeper ?? ackAlone(consumer, entry)
  const recorded = await ackOutcome(queue, held, keeper, outcome)
  // A result schema takes its time, and another acknowledgement may have come first.
  refuseUnlessHeld(entry)
  const answer = await keeper.record(recorded, causeOf(outcome))
  if (answer === 'given-up') throw notRecorded(held.id)
  if (answer === 'stale' || answer.inTransaction) throw new StaleAcknowledgementError(held.id, queue.name, entry.worker)
}

/** Records it in the caller's transaction, for `PostgresStorage.ackWithTx`. */
export async function acknowledgeWithTx<Result>(
  consumer: Consumer<unknown, Result>,
  tx: PgTx,
  claim: Claim<unknown>,
  outcome: Outcome<Result>,
): Promise<void> {
  const db = transaction(tx, 'ackWithTx', 'To acknowledge outside a transaction use storage.ack.')
  const entry = handedOutOf(consumer, claim)
  refuseUnlessHeld(entry)
  const keeper = entry.keeper ?? ackAlone(consumer, entry)
  const recorded = await ackOutcome(consumer.queue, entry.held, keeper, outcome)
  await ackInTx(db, { ...entry, ...keeper }, recorded, causeOf(outcome))
}

function handedOutOf({ queue }: Consumer, claim: Claim<unknown>): HandedOut {
  const entry = handedOut.get(claim)
  if (entry === undefined) throw notHandedOut(claim)
  if (entry.queue === queue.name) return entry
  throw new InvalidArgumentError(
    'claim',
    `it belongs to queue ${JSON.stringify(entry.queue)}, and this storage to ${JSON.stringify(queue.name)}.`,
  )
}

function causeOf(outcome: Outcome<unknown>): unknown {
  return 'error' in outcome ? outcome.error : undefined
}

async function ackOutcome<Result>(
  queue: QueueDefinition<unknown, Result>,
  { attempt }: HeldClaim,
  { onRetryFailure }: Keeper,
  outcome: Outcome<Result>,
): Promise<AckOutcome> {
  switch (outcome.status) {
    case 'Done':
      return { status: 'Done', result: await okResult(queue, outcome.result) }
    case 'Killed':
      return { status: 'Killed', result: errResult(outcome.error) }
    case 'Failed': {
      if (outcome.delayMs !== undefined) {
        const due = { delayMs: checkDelay('outcome.delayMs', outcome.delayMs) }
        return { status: 'Failed', result: errResult(outcome.error), due }
      }
      return failedAttempt(queue, attempt, outcome.error, onRetryFailure)
    }
    default:
      throw new InvalidArgumentError('outcome.status', "pass 'Done', 'Failed' or 'Killed'.")
  }
}

function notHandedOut(claim: Partial<Claim<unknown>> | null | undefined): MissingFieldError | InvalidArgumentError {
  if (typeof claim !== 'object' || claim === null) {
    return new InvalidArgumentError(
      'claim',
      `the object that poll or lockTask returned is needed, not ${typeOf(claim)}.`,
    )
  }
  const missing = (['id', 'worker', 'queue'] as const).find((field) => typeof claim[field] !== 'string')
  return new MissingFieldError(
    missing ??
      'its lock time, which a copy has not, nor ctx.task of a worker that acknowledges by itself (autoAck: true)',
  )
}

function notRecorded(id: TaskId): DatabaseError {
  const cause = new Error('the worker stopped before the database took it')
  return new DatabaseError(`acknowledging task ${id}`, undefined, cause, 'The task may run again.')
}
