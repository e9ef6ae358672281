/** Work under way, of which only matters how much there is and that some of it has ended. */
export class InFlight {
  #count = 0
  #waiting: (() => void)[] = []

  constructor(private readonly onEnd: () => void) {}

  get count(): number {
    return this.#count
  }

  /** Work that ends with a promise which is not there yet; see `endWith`. */
  begin(): void {
    this.#count += 1
  }

  /** What has begun ends with this. */
  endWith(work: Promise<unknown>): void {
    void work.then(this.#end, this.#fail)
  }

  add(work: Promise<unknown>): void {
    this.begin()
    this.endWith(work)
  }

  /** Resolves when some of it ends, also of what is added later. */
  nextEnd(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  readonly #end = (): void => {
    this.#count -= 1
    this.onEnd()
    if (this.#waiting.length === 0) return
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }

  readonly #fail = (error: unknown): never => {
    this.#end()
    throw error
  }
}
