import type { Fence } from '../vocabulary/outcome.js'

/**
 * Tasks that the database counts as claimed by this worker although it does not hold them: the answer of their claim was
 * lost, or is still on its way. Only when they are seen again after the grace period is it certain to be lost.
 */
export class Strays {
  #firstSeen = new Map<string, number>()

  constructor(private readonly graceMs: number) {}

  /**
   * @param fences - All that are not held now. One that was seen before and is not among them is forgotten.
   * @param beat - When the heartbeat that brought them was sent and received. What was sent after the grace period counts:
   * a process that was too busy to read may have the answer of the claim still before it, too.
   * @param claimSentAt - When the first of the claims under way was sent.
   * @returns Those first seen longer ago than the grace period; they are not returned again.
   */
  seen(
    fences: readonly Fence[],
    beat: { readonly sentAt: number; readonly receivedAt: number },
    claimSentAt = Number.POSITIVE_INFINITY,
  ): Fence[] {
    const known = this.#firstSeen
    this.#firstSeen = new Map(fences.map((fence) => [keyOf(fence), known.get(keyOf(fence)) ?? beat.receivedAt]))
    const lost = fences.filter((fence) => {
      const firstSeen = this.#firstSeen.get(keyOf(fence))!
      return beat.sentAt - firstSeen >= this.graceMs && claimSentAt > firstSeen
    })
    for (const fence of lost) this.#firstSeen.set(keyOf(fence), Number.POSITIVE_INFINITY)
    return lost
  }
}

function keyOf({ id, attempts, lockAt }: Fence): string {
  return `${id} ${attempts} ${lockAt}`
}
