/**
 * The tasks of a queue for a loop of the application's own. It is a worker whose slots are the consumers that wait for a
 * claim: each `next` adds one, each claim that is delivered takes one away, and what is claimed beyond that waits in the
 * worker's buffer.
 *
 * - not begun: nothing is registered; `return` ends it.
 * - running: from the first `next` on.
 * - ended: by `return`, by the signal, or because it could not register. Every `next` says so.
 */
import type { Claim } from '../vocabulary/claim.js'
import type { PgDb } from '../vocabulary/db.js'
import type { QueueDefinition } from '../vocabulary/definition.js'
import { checkWorkerName } from '../vocabulary/limits.js'
import type { PollOptions, StorageConfig } from '../vocabulary/settings.js'
import { handBack } from './handed-out.js'
import { whenAborted } from './shutdown-signal.js'
import { QueueWorker } from './worker.js'

const DONE = { done: true, value: undefined } as const

type Taken<Args> = IteratorResult<Claim<Args>, undefined>

/** Each loop over it registers by itself, also after one that could not. */
export function poll<Args>(
  db: PgDb,
  definition: QueueDefinition<Args>,
  config: StorageConfig,
  options: PollOptions,
): AsyncIterable<Claim<Args>> {
  checkWorkerName(options.worker, 'worker')
  return { [Symbol.asyncIterator]: () => new Poll(db, definition, config, options) }
}

class Poll<Args> implements AsyncIterator<Claim<Args>, undefined> {
  readonly #worker: QueueWorker<Args, unknown>
  readonly #signal: AbortSignal | undefined
  #unwatch: () => void = () => undefined
  /** Consumers, in the order of their calls. */
  #waiting: ((taken: Taken<Args>) => void)[] = []
  #starting: Promise<void> | undefined
  #ending: Promise<void> | undefined

  constructor(db: PgDb, definition: QueueDefinition<Args>, config: StorageConfig, { worker, signal }: PollOptions) {
    const poll = (_args: Args, { task }: { readonly task: Claim<Args> }) => this.#deliver(task)
    const options = { name: worker, concurrency: 1, autoAck: false }
    this.#worker = new QueueWorker(db, definition, poll, config, options, undefined, true)
    this.#signal = signal
  }

  async next(): Promise<Taken<Args>> {
    if (this.#signal?.aborted) await this.#end()
    if (this.#ending !== undefined) return this.return()
    const taken = new Promise<Taken<Args>>((resolve) => {
      this.#waiting.push(resolve)
      this.#worker.slots.add()
    })
    await this.#begin()
    return taken
  }

  async return(): Promise<Taken<Args>> {
    await this.#end()
    return DONE
  }

  /** @throws what kept it from registering, to one of the consumers. */
  async #begin(): Promise<void> {
    if (this.#starting === undefined && this.#signal !== undefined) {
      this.#unwatch = whenAborted(this.#signal, () => void this.#end())
    }
    try {
      await (this.#starting ??= this.#worker.start())
    } catch (error) {
      if (this.#ending !== undefined) return
      void this.#end()
      throw error
    }
  }

  #end(): Promise<void> {
    return (this.#ending ??= this.#stop())
  }

  async #stop(): Promise<void> {
    const waiting = this.#waiting
    this.#waiting = []
    for (const _ of waiting) this.#worker.slots.remove()
    await this.#worker.retire()
    this.#unwatch()
    for (const resolve of waiting) resolve(DONE)
  }

  #deliver(task: Claim<Args>): void {
    const resolve = this.#waiting.shift()
    // The loop ended while the task was being decoded.
    if (resolve === undefined) return handBack(task)
    this.#worker.slots.remove()
    resolve({ done: false, value: task })
  }
}
