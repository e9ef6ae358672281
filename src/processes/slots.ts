/**
 * The places in which handlers run; of a poll, one for each consumer that waits. They belong to the worker and not to one registration: a handler that ignores its
 * signal keeps its place, also beyond a lost registration.
 */
export class Slots {
  #size: number
  #taken = 0
  /** Those of the taken whose handlers have ignored their signal. */
  #overrun = 0
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

  get size(): number {
    return this.#size
  }

  /** Whether nothing can start until a handler that ignored its signal ends after all. */
  get stuck(): boolean {
    return this.#overrun > 0 && this.#overrun >= this.#size
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

  /** The handler ignored its signal, and keeps its slot until `over`. */
  keep(over: Promise<void>, onOver: () => void): void {
    this.#overrun += 1
    void over.then(() => {
      this.#overrun -= 1
      this.release()
      onOver()
    })
  }

  release(): void {
    this.#taken -= 1
    this.#changes += 1
    this.onFree()
  }
}
