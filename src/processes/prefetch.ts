const WINDOW_MS = 100
const MAX_AHEAD = 500

/**
 * How many tasks a worker may hold ahead of its slots: as many as it ends in a tenth of a second. So the database hands
 * out hundreds at a time where tasks are fast, and where they are slow none waits here for long while another worker has
 * nothing to do. Where the application has said how many, it is that.
 */
export class Prefetch {
  #since: number
  #endedBefore = 0
  #ahead = 0

  /** @param bufferSize - What the application has said, or never fewer than this. */
  constructor(
    private readonly bufferSize: number,
    private readonly follows: boolean,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.#since = now()
  }

  /** @param ended - How many tasks this worker has ended so far. */
  size(ended: number): number {
    if (!this.follows) return this.bufferSize
    const now = this.now()
    const elapsedMs = now - this.#since
    if (elapsedMs >= WINDOW_MS) {
      this.#ahead = Math.floor(((ended - this.#endedBefore) / elapsedMs) * WINDOW_MS)
      this.#endedBefore = ended
      this.#since = now
    }
    return Math.max(this.bufferSize, Math.min(this.#ahead, MAX_AHEAD))
  }
}
