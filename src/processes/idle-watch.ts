/** Those who wait until a worker has nothing to do. It belongs to the worker and not to one registration, as `Slots`. */
export class IdleWatch {
  #waiting: { readonly since: number; readonly resolve: () => void }[] = []
  #ended = false

  constructor(private readonly onAsked: () => void) {}

  /**
   * Resolves when a look at the queue that began after this call has found nothing, while no task was held; or when the
   * worker stops.
   */
  wait(): Promise<void> {
    if (this.#ended) return Promise.resolve()
    return new Promise((resolve) => {
      this.#waiting.push({ since: performance.now(), resolve })
      this.onAsked()
    })
  }

  /** Whether somebody waits, so that the next look should not. */
  get asked(): boolean {
    return this.#waiting.length > 0
  }

  /** @param sentAt - `performance.now()` before the look that found nothing. */
  noteIdle(sentAt: number): void {
    const answered = this.#waiting.filter(({ since }) => since <= sentAt)
    this.#waiting = this.#waiting.filter(({ since }) => since > sentAt)
    for (const { resolve } of answered) resolve()
  }

  end(): void {
    this.#ended = true
    this.noteIdle(Number.POSITIVE_INFINITY)
  }
}
