import { findCancelled } from '../statements/find-cancelled.js'
import type { ControlClient } from './control-client.js'
import type { HeldClaim, LossReason } from './held-claim.js'
import type { HeldClaims } from './held-claims.js'
import type { InFlight } from './in-flight.js'
import type { Outages } from './outages.js'
import type { Registration } from './registration.js'

export interface CancellationWatchParts {
  readonly control: ControlClient
  readonly registration: Registration
  readonly outages: Outages
  readonly held: HeldClaims
  readonly tasks: InFlight
}

/**
 * Finds out which of the held claims were cancelled. Whoever cancels says so without naming the task, and may be heard
 * before the answer of the very claim that it is about.
 */
export class CancellationWatch {
  #hints = 0
  #looking = false

  constructor(private readonly parts: CancellationWatchParts) {}

  /** How often it was told so far that tasks may have been cancelled. */
  get hints(): number {
    return this.#hints
  }

  /** Tells that tasks of this worker may have been cancelled. Whoever tells during a look shares the next one. */
  look(): void {
    this.#hints += 1
    if (!this.#looking) this.parts.tasks.add(this.#dropCancelled())
  }

  /** The ids of those that were cancelled; none when the database does not say, which the next heartbeat makes good. */
  async among(claims: readonly HeldClaim[]): Promise<ReadonlySet<string>> {
    if (claims.length === 0) return new Set()
    const { control, registration, outages } = this.parts
    const fences = claims.map(({ fence }) => fence)
    const found = await outages.attempt('looking for cancelled tasks', () =>
      control.run((db) => findCancelled(db, registration.queue, registration.worker, fences)),
    )
    return found ?? new Set()
  }

  async whyLost(held: HeldClaim): Promise<LossReason> {
    return lossReason(held, await this.among([held]))
  }

  async #dropCancelled(): Promise<void> {
    const { held } = this.parts
    this.#looking = true
    let seen: number
    do {
      seen = this.#hints
      const claims = held.all()
      const cancelled = await this.among(claims)
      for (const claim of claims) if (cancelled.has(claim.id)) held.forget(claim, 'cancelled')
    } while (seen !== this.#hints)
    this.#looking = false
  }
}

export function lossReason({ id }: HeldClaim, cancelled: ReadonlySet<string>): LossReason {
  return cancelled.has(id) ? 'cancelled' : 'claim-lost'
}
