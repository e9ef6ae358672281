/** How long the loops of a worker wait for the database, in milliseconds. They depend on each other, hence one place. */
export interface Deadlines {
  /** For the answer to one statement. The server ends its own after 15 s, so a later one will not come. */
  readonly answerMs: number
  /**
   * After which a task that the database counts as this worker's, and that no claim has brought, is handed back. Above
   * `answerMs`: until then the answer of its claim may still arrive.
   */
  readonly strayMs: number
  /** For the last acknowledgements of a stopping worker; what the database does not take by then is left to the sweep of others. */
  readonly lastCallMs: number
}

export const DEADLINES: Deadlines = { answerMs: 16_000, strayMs: 20_000, lastCallMs: 1_500 }

/** An event loop that was blocked finds its timers due first; so much time it gets to read what has arrived meanwhile. */
const READING_MS = 100

/** Settles as `work` does, or after `ms` as `onLate` does. */
export function within<T>(ms: number, work: Promise<T>, onLate: () => T): Promise<T> {
  // One promise and no race: each push and each statement passes through here.
  return new Promise((resolve, reject: (reason: Error) => void) => {
    let timer: ReturnType<typeof setTimeout>
    const late = () => {
      try {
        resolve(onLate())
      } catch (error) {
        reject(error as Error)
      }
    }
    const read = () => (timer = setTimeout(late, READING_MS))
    timer = setTimeout(read, ms)
    work.then(
      (value) => {
        clearTimeout(timer)
        resolve(value)
      },
      (error: unknown) => {
        clearTimeout(timer)
        reject(error as Error)
      },
    )
  })
}
