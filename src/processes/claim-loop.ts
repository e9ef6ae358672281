/**
 * Looks for due tasks while there is room for more, one look at a time: several at once would each read the foreign key's
 * worker row and fill the database with multixacts.
 *
 * - full: there is no room. Waits until `wake` says that there may be.
 * - busy: a look brought as many tasks as there was room for. Looks again as soon as there is room.
 * - pausing: a look brought fewer, so no more were due. Waits, 2 ms after found work and longer each time up to a second;
 *   that there is more room does not shorten it.
 * - failing: a look failed. Waits, longer each time.
 */
import { firstPoll, nextPoll, withJitter } from '../vocabulary/poll-backoff.js'
import { Wakeup } from './wakeup.js'

const MAX_FAILURE_BACKOFF_MS = 5_000

export interface ClaimLoopHooks {
  /** How many more tasks there is room for. */
  room(): number
  /** Claims up to `limit` tasks. @returns How many. */
  claim(limit: number): Promise<number>
  /** Whether the next look should come at once. */
  hurried(): boolean
  onFailure(error: unknown): void
}

export class ClaimLoop {
  readonly #wakeup = new Wakeup()
  readonly #running: Promise<void>
  #stopped = false

  constructor(
    private readonly pollIntervalMs: number,
    private readonly hooks: ClaimLoopHooks,
  ) {
    this.#running = this.#run()
  }

  /** Tells that there may be room, or a hurry. */
  wake(): void {
    this.#wakeup.wake()
  }

  /** Resolves when no claim is under way any more. */
  stop(): Promise<void> {
    this.#stopped = true
    this.#wakeup.wake()
    return this.#running
  }

  async #run(): Promise<void> {
    let poll = firstPoll(this.pollIntervalMs)
    let failureMs = poll.delayMs
    while (!this.#stopped) {
      const room = this.hooks.room()
      if (room <= 0) {
        await this.#wakeup.wait()
        continue
      }
      try {
        const found = await this.hooks.claim(room)
        failureMs = this.pollIntervalMs
        if (found === room) continue
        poll = nextPoll(poll, found > 0)
        await this.#pause(poll.delayMs, () => this.hooks.hurried())
      } catch (error) {
        this.hooks.onFailure(error)
        failureMs = Math.min(failureMs * 2, MAX_FAILURE_BACKOFF_MS)
        await this.#pause(failureMs)
      }
    }
  }

  async #pause(ms: number, cutShort: () => boolean = () => false): Promise<void> {
    const until = performance.now() + withJitter(ms, Math.random())
    while (!this.#stopped && !cutShort()) {
      const left = until - performance.now()
      if (left <= 0) return
      await this.#wakeup.wait(left)
    }
  }
}
