/**
 * A stream that stores the tasks written to it. The first one is stored at once; those that arrive meanwhile are the next
 * batch. So a trickle is not held back, and under load each statement carries a full batch.
 *
 * - taking: a write is taken while the batch has room, and otherwise waits until the one before it is stored. What waits in
 *   the stream itself holds up the writer.
 * - closing: `close`, and `abort` too, wait until all that was taken is stored.
 * - failed: a batch that could not be stored ends the stream, with an error that holds all tasks that were taken and not
 *   stored. Writes that still waited reject with it.
 */
import type { Task } from '../vocabulary/task.js'
import { Series, type Storing } from './series.js'

/** @param capacity - Tasks of a batch, and as many that wait in the stream. */
export function sink<Item extends Task>(
  storing: Storing,
  check: (task: Item) => Task,
  capacity: number,
): WritableStream<Item> {
  const taking = new Sink(new Series(storing, check, capacity))
  return new WritableStream<Item>(taking, { highWaterMark: capacity })
}

class Sink<Item extends Task> {
  #controller: WritableStreamDefaultController | undefined
  /** The batch that is being stored. */
  #batch = Promise.resolve()
  /** Pending while anything is to be stored; rejected for good after a failure. */
  #storing: Promise<void> | undefined

  constructor(private readonly series: Series<Item>) {}

  start(controller: WritableStreamDefaultController): void {
    this.#controller = controller
  }

  async write(task: Item): Promise<void> {
    await this.series.add(task)
    const { endsHere } = this.series
    this.#storing ??= this.#store()
    if (endsHere) return this.close()
    while (this.series.isFull) await this.#batch
  }

  /** Resolves when all that was taken is stored. */
  async close(): Promise<void> {
    await this.#storing
  }

  abort(): Promise<void> {
    return this.close()
  }

  #store(): Promise<void> {
    const storing = this.#storeAll()
    // The stream says so at once, to writers that only wait; whoever closes it is told too.
    storing.catch((error: unknown) => this.#controller?.error(error))
    return storing
  }

  async #storeAll(): Promise<void> {
    while (!this.series.isEmpty) {
      this.#batch = this.series.store()
      await this.#batch
    }
    this.#storing = undefined
  }
}
