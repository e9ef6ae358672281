/**
 * Compares what this process holds with what the database counts as its own, as each heartbeat tells. Claims that the
 * database no longer counts are lost; tasks that only the database counts go back.
 */
import type { Heartbeat } from '../statements/heartbeat.js'
import type { Fence } from '../vocabulary/outcome.js'
import type { CancellationWatch } from './cancellation-watch.js'
import type { HeldClaim } from './held-claim.js'
import type { HeldClaims } from './held-claims.js'
import type { InFlight } from './in-flight.js'
import type { OutcomeRecorder } from './outcome-recorder.js'
import { Strays } from './strays.js'

export interface ReconciliationParts {
  readonly held: HeldClaims
  readonly cancellations: CancellationWatch
  readonly recorder: OutcomeRecorder
  readonly tasks: InFlight
  /** Whether an earlier session of this worker, whose registration was lost, still holds the claim. */
  readonly heldEarlier: (claim: Fence) => boolean
}

export class Reconciliation {
  readonly #strays: Strays

  /** @param strayMs - How long the answer of a claim may be on its way. */
  constructor(
    private readonly parts: ReconciliationParts,
    strayMs: number,
  ) {
    this.#strays = new Strays(strayMs)
  }

  /**
   * @param sentAt - When the heartbeat was sent.
   * @param claimSentAt - When the first of the claims under way was sent; infinite if there is none.
   */
  reconcile(beat: Heartbeat, sentAt: number, claimSentAt: number): void {
    const { held, recorder, tasks, heldEarlier } = this.parts
    const missing = held.missing(beat, sentAt)
    if (missing.length > 0) tasks.add(this.#letGo(missing))
    const unknown = beat.owned.filter((fence) => !held.holds(fence) && !heldEarlier(fence))
    const strays = this.#strays.seen(unknown, { sentAt, receivedAt: performance.now() }, claimSentAt)
    for (const stray of strays) tasks.add(recorder.handBackStray(stray))
  }

  async #letGo(missing: readonly HeldClaim[]): Promise<void> {
    const { held, cancellations, tasks } = this.parts
    // None of them is to start meanwhile.
    for (const claim of missing) held.unbuffer(claim)
    const cancelled = await cancellations.among(missing)
    for (const claim of missing) {
      if (cancelled.has(claim.id)) held.forget(claim, 'cancelled')
      else if (claim.inTransaction === undefined) held.forget(claim, 'claim-lost')
      else tasks.add(this.#forgetUnlessAcknowledged(claim))
    }
  }

  /** Its handler goes on when a transaction of the application, and not somebody else, has ended the claim. */
  async #forgetUnlessAcknowledged(claim: HeldClaim): Promise<void> {
    const { held, recorder } = this.parts
    if ((await recorder.settle(claim)) === 'stale') held.forget(claim, 'claim-lost')
  }
}
