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
   * @returns Those first seen longer ago than the grace period; they are not returned again.
   */
  seen(fences: readonly Fence[], now: number): Fence[] {
    const known = this.#firstSeen
    this.#firstSeen = new Map(fences.map((fence) => [keyOf(fence), known.get(keyOf(fence)) ?? now]))
    const lost = fences.filter((fence) => now - this.#firstSeen.get(keyOf(fence))! >= this.graceMs)
    for (const fence of lost) this.#firstSeen.set(keyOf(fence), Number.POSITIVE_INFINITY)
    return lost
  }
}

function keyOf({ id, attempts, lockAt }: Fence): string {
  return `${id} ${attempts} ${lockAt}`
}
