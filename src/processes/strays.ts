import type { Fence } from '../vocabulary/outcome.js'

/** Longer than a claim can be under way: the server's deadline of 15 s, a second because lock times are truncated, and a margin. */
const GRACE_MS = 20_000

/**
 * Tasks that the database counts as claimed by this worker although it does not hold them: the answer of their claim was
 * lost, or is still on its way. Only after the grace period is it certain to be lost.
 */
export class Strays {
  #firstSeen = new Map<string, { readonly fence: Fence; readonly at: number }>()

  /** @returns Those seen for longer than the grace period; they are not returned again. */
  seen(fences: readonly Fence[], now: number): Fence[] {
    const known = this.#firstSeen
    this.#firstSeen = new Map(
      fences.map((fence) => {
        const key = `${fence.id} ${fence.attempts} ${fence.lockAt}`
        return [key, known.get(key) ?? { fence, at: now }]
      }),
    )
    const lost = [...this.#firstSeen].filter(([, { at }]) => now - at >= GRACE_MS)
    for (const [key] of lost) this.#firstSeen.delete(key)
    return lost.map(([, { fence }]) => fence)
  }
}
