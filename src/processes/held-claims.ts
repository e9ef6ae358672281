import type { Heartbeat } from '../statements/heartbeat.js'
import type { Fence } from '../vocabulary/outcome.js'
import type { HeldClaim, LossReason } from './held-claim.js'
import { reportLostClaim } from './outcome-report.js'
import type { Report } from './report.js'

/**
 * The claims of one session from their arrival to their end, the last one of each task. Those without a slot stand in the
 * buffer, too, in the order of their start.
 */
export class HeldClaims {
  readonly #held = new Map<string, HeldClaim>()
  readonly #buffer: HeldClaim[] = []
  #ended = 0

  constructor(private readonly report: Report) {}

  get size(): number {
    return this.#held.size
  }

  get buffered(): number {
    return this.#buffer.length
  }

  /** How many have run and are acknowledged, since this session began. */
  get ended(): number {
    return this.#ended
  }

  /** How many handlers run, or are through and leave it to the application to acknowledge the claim. */
  get running(): number {
    return this.all().filter(({ state }) => state === 'running').length
  }

  all(): HeldClaim[] {
    return [...this.#held.values()]
  }

  of(taskId: string): HeldClaim | undefined {
    return this.#held.get(taskId)
  }

  holds(claim: Fence): boolean {
    return this.#held.get(claim.id)?.isClaimOf(claim) === true
  }

  /** At the end of the buffer. */
  add(held: HeldClaim): void {
    this.#held.set(held.id, held)
    this.#buffer.push(held)
  }

  /** Takes the next to start out of the buffer. */
  next(): HeldClaim | undefined {
    return this.#buffer.shift()
  }

  /** Takes those out of the buffer that would start last. @param keep - How many stay. */
  emptyBuffer(keep = 0): HeldClaim[] {
    return this.#buffer.splice(keep)
  }

  unbuffer(held: HeldClaim): void {
    const place = this.#buffer.indexOf(held)
    if (place !== -1) this.#buffer.splice(place, 1)
  }

  /** Acknowledged, one way or the other. */
  end(held: HeldClaim): void {
    if (held.hasRun) this.#ended += 1
    held.state = 'over'
    this.#drop(held)
  }

  /**
   * Lost without having been acknowledged. A running handler ends in an outcome, which is where the loss is reported. One
   * that is being acknowledged learns it from the database.
   */
  forget(held: HeldClaim, why: LossReason): void {
    const { state } = held
    if (state !== 'buffered' && state !== 'running') return
    held.lose(why)
    this.#drop(held)
    if (state !== 'buffered') return
    this.unbuffer(held)
    reportLostClaim(this.report, held, why)
  }

  /** @returns Those that the database no longer counts as ours. */
  missing(beat: Heartbeat, sentAt: number): HeldClaim[] {
    const owned = new Map(beat.owned.map((fence) => [fence.id, fence]))
    return this.all().filter(
      (held) => held.state !== 'acking' && held.heldSince <= sentAt && !held.isClaimOf(owned.get(held.id)),
    )
  }

  #drop(held: HeldClaim): void {
    if (this.#held.get(held.id) === held) this.#held.delete(held.id)
  }
}
