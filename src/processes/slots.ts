/** The places in which handlers run. A handler that ignores its signal keeps its place, also beyond a lost registration. */
export class Slots {
  #taken = 0
  #everTaken = 0

  constructor(readonly size: number) {}

  get free(): number {
    return this.size - this.#taken
  }

  /** How often a slot was taken since the worker was made. */
  get everTaken(): number {
    return this.#everTaken
  }

  take(): void {
    this.#taken += 1
    this.#everTaken += 1
  }

  release(): void {
    this.#taken -= 1
  }
}
