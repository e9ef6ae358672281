/** One line that is updated in a terminal; elsewhere, as in a log of CI, a line a second while something happens. */
import { setInterval } from 'node:timers/promises'

export class Progress {
  readonly #isTerminal = process.stdout.isTTY
  readonly #ended = new AbortController()
  readonly #updating: Promise<void>
  #shown = ''

  /** @param describe - What to show. */
  constructor(private readonly describe: () => string) {
    this.#updating = this.#update()
  }

  /** Prints a line of its own. */
  note(text: string): void {
    this.#clear()
    console.log(text)
    if (this.#isTerminal) this.#show()
  }

  /** Shows the final state, and nothing more. */
  async end(): Promise<void> {
    this.#ended.abort()
    await this.#updating
    this.#show()
    if (this.#isTerminal) process.stdout.write('\n')
  }

  async #update(): Promise<void> {
    const { signal } = this.#ended
    try {
      for await (const _ of setInterval(this.#isTerminal ? 100 : 1_000, undefined, { signal })) this.#show()
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }

  #show(): void {
    const text = this.describe()
    if (this.#isTerminal) {
      this.#clear()
      // A line that wraps could not be cleared.
      process.stdout.write(text.slice(0, process.stdout.columns - 1))
    } else if (text !== this.#shown) {
      console.log(text)
    }
    this.#shown = text
  }

  #clear(): void {
    if (this.#isTerminal) process.stdout.write('\r\x1b[2K')
  }
}
