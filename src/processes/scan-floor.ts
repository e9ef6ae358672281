/**
 * Where to go on claiming, so that a claim does not walk again what the tasks before it left behind. While any session on
 * the server holds an old snapshot, the index entries of worked tasks cannot be removed, and a look from the beginning
 * passes all of them: 20 ms for 200,000. In memory only, of one registration.
 *
 * - looking everywhere: each claim asks the whole queue. Left when such a look brought tasks and took the server long for
 *   so few.
 * - looking above the floor: claims ask only for tasks behind the last one that was claimed in each priority. Left after a
 *   time in proportion to that long look, so that the long ones take a twentieth of all, and after a second at most.
 *
 * Above the floor, what is not found is only late, by that time: tasks of a priority that this worker has not met, those
 * whose transaction was open while later ones were claimed, and those that were handed back. When nothing is found there,
 * the queue is asked at once, except if it had nothing when it was last asked.
 */
import type { Floor } from '../statements/claim.js'
import type { ClaimedRow } from '../vocabulary/claimed-row.js'

/** A look that takes longer than this, and this for each task that it brings, is slow. */
const SLOW_MS = 5
const SLOW_MS_PER_TASK = 0.02
/** How many times as long as a slow look took claims stay above the floor after it. */
const FACTOR = 20
const MAX_ABOVE_MS = 1_000
/** Each costs a step through the index. */
const MAX_PRIORITIES = 64

/** @param floors - Only behind these; without them everywhere. */
export type Look = (floors?: readonly Floor[]) => Promise<readonly ClaimedRow[]>

export interface Found {
  readonly rows: readonly ClaimedRow[]
  /** By `performance.now()` when the whole queue was asked, if it had nothing. */
  readonly nothingDueAt?: number
}

export interface ScanFloorHooks {
  /** Whether more tasks are wanted at all. */
  working(): boolean
  /** Whether somebody waits to know that nothing is due. */
  mustBeSure(): boolean
}

export class ScanFloor {
  readonly #floors = new Map<number, Floor>()
  /** By `now()`. */
  #aboveUntil = 0
  /** Whether the last look everywhere brought nothing. */
  #nothingElse = false

  constructor(
    private readonly hooks: ScanFloorHooks,
    private readonly now: () => number = () => performance.now(),
  ) {}

  async claim(look: Look): Promise<Found> {
    if (this.#floors.size > 0 && this.now() < this.#aboveUntil) {
      const rows = await look([...this.#floors.values()])
      this.#raise(rows)
      if (rows.length > 0 || !this.#goesOn()) return { rows }
    }
    // What commits from now on may not be seen by this look, and waits for the next one.
    const since = this.now()
    const rows = await look()
    this.#nothingElse = rows.length === 0
    // It does not tell how long it took, and changes nothing else.
    if (rows.length === 0) return { rows, nothingDueAt: since }
    this.#aboveUntil = since + aboveMs(rows)
    this.#raise(rows)
    return { rows }
  }

  /** Whether to look everywhere after nothing was found above the floor. */
  #goesOn(): boolean {
    return this.hooks.working() && (!this.#nothingElse || this.hooks.mustBeSure())
  }

  /** @param rows - In order, so that the last of each priority counts. */
  #raise(rows: readonly ClaimedRow[]): void {
    for (const [index, { priority, runAtUs, id }] of rows.entries()) {
      if (rows[index + 1]?.priority === priority) continue
      // Infinite, or so long ago that a number does not hold the microseconds, it is no place to go on from.
      if (Number.isSafeInteger(runAtUs)) this.#floors.set(priority, { priority, runAtUs, id })
      else this.#floors.delete(priority)
    }
    if (this.#floors.size > MAX_PRIORITIES) this.#floors.clear()
  }
}

function aboveMs(rows: readonly ClaimedRow[]): number {
  // By the server's clock: a busy event loop or a slow network is no reason.
  const lookMs = rows[0]?.foundInMs ?? 0
  return lookMs > SLOW_MS + SLOW_MS_PER_TASK * rows.length ? Math.min(lookMs * FACTOR, MAX_ABOVE_MS) : 0
}
