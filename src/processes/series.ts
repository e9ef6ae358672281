import { weight } from '../vocabulary/batch.js'
import { BatchFailedError } from '../vocabulary/errors.js'
import { encodeTask, type EncodedTask, type Task } from '../vocabulary/task.js'

/** Below the bound of one statement, so that each batch is one. */
const BATCH_BYTES = 4 * 1024 * 1024

/** Where batches are stored. */
export interface Storing {
  pushEncoded(tasks: readonly EncodedTask[]): Promise<void>
}

/** A series of tasks on its way into the database, in batches that are stored as a whole or not at all, one after the other. */
export class Series<Item extends Task> {
  /** Tasks stored so far: the first ones of the series. */
  stored = 0
  #tasks: Item[] = []
  #encoded: EncodedTask[] = []
  #bytes = 0
  /** At most one. */
  #refused: { readonly task: Item; readonly cause: unknown }[] = []

  /** @param check - Throws for a task that does not belong into the series. */
  constructor(
    private readonly storing: Storing,
    private readonly check: (task: Item) => Task,
    private readonly batchTasks: number,
  ) {}

  /** Adds a task to the batch, when that is not full. One that cannot be stored ends the batch; `store` tells of it. */
  async add(task: Item): Promise<void> {
    try {
      const encoded = await encodeTask(this.check(task))
      this.#tasks.push(task)
      this.#encoded.push(encoded)
      this.#bytes += weight(encoded)
    } catch (cause) {
      this.#refused.push({ task, cause })
    }
  }

  get isEmpty(): boolean {
    return this.#tasks.length === 0 && this.#refused.length === 0
  }

  get isFull(): boolean {
    return this.#tasks.length >= this.batchTasks || this.#bytes >= BATCH_BYTES || this.endsHere
  }

  /** Whether the batch ends with a task that cannot be stored. */
  get endsHere(): boolean {
    return this.#refused.length > 0
  }

  /**
   * Stores the batch; further tasks go to the next one already while it does.
   *
   * @throws {BatchFailedError} also for the task that ended the batch, after those before it are stored.
   */
  async store(): Promise<void> {
    const { tasks, ids, encoded, refused } = this.#take()
    try {
      await this.storing.pushEncoded(encoded)
    } catch (cause) {
      const behind = this.#take()
      const unstored = [...tasks, ...behind.tasks, ...refused.concat(behind.refused).map(({ task }) => task)]
      throw new BatchFailedError(unstored, [...ids, ...behind.ids], this.stored, cause)
    }
    this.stored += tasks.length
    for (const { task, cause } of refused) throw new BatchFailedError([task], [], this.stored, cause)
  }

  #take() {
    const tasks = this.#tasks
    const encoded = this.#encoded
    const refused = this.#refused
    this.#tasks = []
    this.#encoded = []
    this.#refused = []
    this.#bytes = 0
    return { tasks, ids: encoded.map(({ id }) => id), encoded, refused }
  }
}
