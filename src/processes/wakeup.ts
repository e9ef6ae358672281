/** Waiting that something else can cut short. A wake-up that comes while nobody waits ends the next wait at once. */
export class Wakeup {
  #pending = false
  #wake: (() => void) | undefined

  wake(): void {
    if (this.#wake === undefined) this.#pending = true
    else this.#wake()
  }

  /** Resolves on a wake-up, and after `ms` at the latest. One wait at a time. */
  async wait(ms: number = Number.POSITIVE_INFINITY): Promise<void> {
    if (!this.#pending) {
      let timer: ReturnType<typeof setTimeout> | undefined
      await new Promise<void>((resolve) => {
        this.#wake = resolve
        if (ms !== Number.POSITIVE_INFINITY) timer = setTimeout(resolve, ms)
      })
      clearTimeout(timer)
      this.#wake = undefined
    }
    this.#pending = false
  }
}
