/**
 * Tells the database what came of a claim, and the application what became of that. A transaction of the application may
 * have told the database already: then what has committed counts, and nothing is written over it.
 */
import type { TaskId } from '../vocabulary/errors.js'
import type { AckOutcome, Fence } from '../vocabulary/outcome.js'
import type { AckAnswer, AckGroup } from './ack-group.js'
import type { CancellationWatch } from './cancellation-watch.js'
import type { HeldClaim } from './held-claim.js'
import type { HeldClaims } from './held-claims.js'
import { reportLostClaim, reportOutcome, reportUnknown } from './outcome-report.js'
import type { Report } from './report.js'

/** After which the row of a claim that was acknowledged in a transaction is first looked at; then after ever longer. */
const FIRST_LOOK_MS = 20

export interface OutcomeRecorderParts {
  readonly held: HeldClaims
  readonly acks: AckGroup
  readonly cancellations: CancellationWatch
  readonly report: Report
  /** Whether the end of its handler is the end of a claim. */
  readonly autoAck: boolean
  readonly keepAliveMs: number
}

export class OutcomeRecorder {
  constructor(private readonly parts: OutcomeRecorderParts) {}

  /** Offers an outcome to the database, unless the claim is lost already, and reports what became of it. */
  record(held: HeldClaim, outcome: AckOutcome, cause?: unknown): Promise<AckAnswer> {
    const { acks, report } = this.parts
    if (held.lostBecause !== undefined) {
      reportLostClaim(report, held, held.lostBecause)
      return Promise.resolve('stale')
    }
    held.state = 'acking'
    return acks
      .submit(held.fence, outcome, held.inTransaction?.outcome)
      .then((answer) => this.#recorded(held, outcome, cause, answer))
  }

  #recorded(held: HeldClaim, outcome: AckOutcome, cause: unknown, answer: AckAnswer): AckAnswer | Promise<AckAnswer> {
    const { report } = this.parts
    if (typeof answer !== 'string' && answer.inTransaction) {
      this.endInTransaction(held, answer)
      return answer
    }
    this.parts.held.end(held)
    if (answer === 'stale') return this.#reportStale(held)
    if (answer === 'given-up' && held.inTransaction !== undefined) reportUnknown(report, held)
    else reportOutcome(report, held, outcome, answer, cause)
    return answer
  }

  async #reportStale(held: HeldClaim): Promise<'stale'> {
    const { report, cancellations } = this.parts
    reportLostClaim(report, held, await cancellations.whyLost(held))
    return 'stale'
  }

  /** Whether a transaction of the application has acknowledged a claim and has committed. Then that is the end of it. */
  async endedInTransaction(held: HeldClaim): Promise<boolean> {
    if (held.inTransaction === undefined) return false
    if (held.state === 'running') held.state = 'acking'
    const answer = await this.parts.acks.ask(held.fence, held.inTransaction.outcome)
    if (typeof answer === 'string') return false
    this.endInTransaction(held, answer)
    return true
  }

  /** A transaction of the application has acknowledged it. */
  endInTransaction(held: HeldClaim, answer: Exclude<AckAnswer, string>): void {
    this.parts.held.end(held)
    const { outcome, cause } = held.inTransaction!
    reportOutcome(this.parts.report, held, outcome, answer, cause)
    held.dismiss()
  }

  /** Looks whether the transaction that acknowledged a claim has committed, until a heartbeat would tell anyway. */
  async untilCommitted(held: HeldClaim): Promise<void> {
    const { keepAliveMs } = this.parts
    for (let ms = FIRST_LOOK_MS; ms < keepAliveMs && held.state === 'running'; ms *= 2) {
      await new Promise((resolve) => setTimeout(resolve, ms).unref())
      if (held.state === 'running') await this.settle(held)
    }
  }

  /** Ends a claim if a transaction has acknowledged it. While its handler runs, that is left to the end of the handler. */
  async settle(held: HeldClaim): Promise<AckAnswer> {
    const { acks, autoAck } = this.parts
    const answer = await acks.ask(held.fence, held.inTransaction!.outcome)
    const isEnded = typeof answer !== 'string' && !autoAck && held.state === 'running'
    if (isEnded) this.endInTransaction(held, answer)
    return answer
  }

  /** The answer of its claim was lost on the way, so nobody works on it. If it is no longer ours either, all is well. */
  async handBackStray(fence: Fence): Promise<void> {
    const answer = await this.parts.acks.submit(fence, { status: 'Pending' })
    if (typeof answer === 'string') return
    const ended = { id: fence.id as TaskId, attempt: fence.attempts + 1 }
    const message = `returned task ${ended.id} to the queue uncharged: the answer of its claim was lost`
    this.parts.report('warn', message, { type: 'task.deferred', ...ended })
  }
}
