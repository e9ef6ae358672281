import { markRunning } from '../statements/mark-running.js'
import type { ControlClient } from './control-client.js'
import type { HeldClaims } from './held-claims.js'
import type { Outages } from './outages.js'
import type { Registration } from './registration.js'

/** Buffered tasks that have run for so long are shown as Running. */
const MARK_AFTER_MS = 1_000

export interface RunningMarksParts {
  readonly control: ControlClient
  readonly registration: Registration
  readonly outages: Outages
  readonly held: HeldClaims
}

/**
 * Shows tasks that were claimed ahead, as Queued, and run by now as Running, so that they are charged if the process dies.
 * Most have ended before that is due, and cost nothing.
 */
export class RunningMarks {
  readonly #timer: ReturnType<typeof setInterval>

  constructor(private readonly parts: RunningMarksParts) {
    this.#timer = setInterval(() => void this.#mark(), MARK_AFTER_MS)
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  async #mark(): Promise<void> {
    const { control, registration, outages } = this.parts
    const now = performance.now()
    const started = this.parts.held.all().filter((held) => held.shownAsQueued && held.runningFor(now) >= MARK_AFTER_MS)
    if (started.length === 0) return
    // So that the next tick does not mark them again while this one has no answer yet.
    for (const held of started) held.shownAsQueued = false
    const fences = started.map(({ fence }) => fence)
    const marked = await outages.attempt('marking tasks as running', () =>
      control.run((db) => markRunning(db, registration.queue, registration.worker, fences)),
    )
    // The others are locked by a transaction, so they are tried again.
    for (const held of started) held.shownAsQueued = marked?.has(held.id) !== true
  }
}
