/**
 * Acknowledgements of claims that no worker of this process keeps: the application locked them by id. They go over its own
 * database, one by one, and are tried for a while; there is no loop that could go on for longer.
 */
import { findCancelled } from '../statements/find-cancelled.js'
import { databaseError } from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import type { QueueDefinition } from '../vocabulary/definition.js'
import type { AckOutcome } from '../vocabulary/outcome.js'
import type { StorageConfig } from '../vocabulary/settings.js'
import { AckGroup, type AckAnswer } from './ack-group.js'
import { claimStands } from './ack-in-tx.js'
import { lossReason } from './cancellation-watch.js'
import { within } from './deadlines.js'
import { endedHere } from './ended-here.js'
import type { HeldClaim, LossReason } from './held-claim.js'
import { reportLostClaim, reportOutcome, reportRetryFailure } from './outcome-report.js'
import { reporter } from './report.js'

const DEADLINE_MS = 30_000
const PATIENCE_MS = 2_000

/** Who claims and acknowledges tasks of a queue without a worker: a storage. */
export interface Consumer<Args = unknown, Result = unknown> {
  readonly db: Db
  readonly queue: QueueDefinition<Args, Result>
  readonly config: Readonly<StorageConfig>
  /** After which an acknowledgement is given up. */
  readonly deadlineMs?: number
}

/** Records the outcome of one claim. */
export function ackAlone(
  { db, queue, config, deadlineMs = DEADLINE_MS }: Consumer,
  { held, worker }: { readonly held: HeldClaim; readonly worker: string },
) {
  const report = reporter(queue.name, worker, config.onEvent)
  return {
    onRetryFailure: (error: unknown) => reportRetryFailure(report, error),
    // The transaction that is waiting for this may have the last connection of the pool.
    stands: () => within(PATIENCE_MS, claimStands(db, { held, queue: queue.name, worker }), () => true),
    onAcknowledged: () => undefined,
    record: async (outcome: AckOutcome, cause: unknown): Promise<AckAnswer> => {
      held.state = 'acking'
      let failure: unknown = new Error(`no answer within ${deadlineMs} ms`)
      const acks = new AckGroup({ run: (statement) => statement(db) }, queue.name, worker, {
        onFailure: (error) => (failure = error),
        onRecovery: () => undefined,
      })
      const submitted = acks.submit(held.fence, outcome, held.inTransaction?.outcome)
      const answer = await within<AckAnswer>(deadlineMs, submitted, () => 'given-up')
      acks.giveUp()
      held.state = 'over'
      if (answer === 'stale') reportLostClaim(report, held, await whyLost(db, queue.name, worker, held))
      else {
        const inTransaction = typeof answer === 'object' && answer.inTransaction
        const recorded = inTransaction ? held.inTransaction! : { outcome, cause }
        reportOutcome(report, held, recorded.outcome, answer, recorded.cause)
      }
      if (typeof answer === 'object') endedHere(db, held.id)
      if (answer === 'given-up') throw databaseError(`acknowledging task ${held.id}`, failure, NEXT_STEP)
      return answer
    },
  }
}

async function whyLost(db: Db, queue: string, worker: string, held: HeldClaim): Promise<LossReason> {
  return lossReason(held, await findCancelled(db, queue, worker, [held.fence]).catch(() => new Set<string>()))
}

const NEXT_STEP =
  'If it was not recorded, lockTask claims the task again. Inside db.transaction, which may hold the row or the last connection of the pool, use ackWithTx.'
