/** The claims of one session that are not answered yet. */
export class ClaimsUnderWay {
  #promised = 0
  readonly #sentAt = new Set<number>()

  /** How many tasks they may bring. */
  get promised(): number {
    return this.#promised
  }

  /** When the first of them was sent; infinite when there is none. */
  get firstSentAt(): number {
    return Math.min(...this.#sentAt)
  }

  /** @param claim - For up to `limit` tasks; under way until what it brings is held. */
  async run<T>(limit: number, claim: () => Promise<T>): Promise<T> {
    const sentAt = performance.now()
    this.#promised += limit
    this.#sentAt.add(sentAt)
    try {
      return await claim()
    } finally {
      this.#promised -= limit
      this.#sentAt.delete(sentAt)
    }
  }
}
