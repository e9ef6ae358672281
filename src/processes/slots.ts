/**
 * The places in which handlers run. They belong to the worker and not to one registration: a handler that ignores its
 * signal keeps its place, also beyond a lost registration.
 */
export class Slots {
  #taken = 0
  #changes = 0

  constructor(
    readonly size: number,
    private readonly onFree: () => void,
  ) {}

  get free(): number {
    return this.size - this.#taken
  }

  /** How many handlers have started or ended so far, to tell whether anything happened between two looks. */
  get changes(): number {
    return this.#changes
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
