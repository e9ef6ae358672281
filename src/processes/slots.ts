/**
 * The places in which handlers run; of a poll, one for each consumer that waits. They belong to the worker and not to one registration: a handler that ignores its
 * signal keeps its place, also beyond a lost registration.
 */
export class Slots {
  #size: number
  #taken = 0
  #changes = 0

  constructor(
    size: number,
    private readonly onFree: () => void,
  ) {
    this.#size = size
  }

  get free(): number {
    // One that was removed may still be in use.
    return Math.max(this.#size - this.#taken, 0)
  }

  /** How many handlers run. */
  get taken(): number {
    return this.#taken
  }

  /** How many handlers have started or ended so far, to tell whether anything happened between two looks. */
  get changes(): number {
    return this.#changes
  }

  add(): void {
    this.#size += 1
    this.onFree()
  }

  remove(): void {
    this.#size -= 1
  }

  take(): void {
    this.#taken += 1
    this.#changes += 1
  }

  release(): void {
    this.#taken -= 1
    this.#changes += 1
    this.onFree()
  }
}
