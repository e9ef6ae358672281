/**
 * The heartbeat of one registration, and the sweep of other workers' orphans.
 *
 * - alive: heartbeats succeed. Once they have done so for `keepAliveMs`, each is followed by a sweep.
 * - doubtful: a heartbeat failed. It is repeated soon; nothing is swept, because after an outage every worker looks dead
 *   to the first that comes back.
 * - lost: the database says that the registration is gone, or has not answered for as long as others wait before they
 *   take over. Ends here; the worker registers again.
 */
import { heartbeat } from '../statements/heartbeat.js'
import type { Heartbeat } from '../statements/heartbeat.js'
import { SWEEP_LIMIT, sweep } from '../statements/sweep.js'
import { databaseError } from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import { WorkerNotRegisteredError } from '../vocabulary/errors.js'
import type { TaskId } from '../vocabulary/errors.js'
import type { Registration } from './registration.js'
import { Wakeup } from './wakeup.js'

const RETRY_MS = 1_000

export interface KeepAliveHooks {
  /** @param sentAt - `performance.now()` before the request left. */
  onBeat(beat: Heartbeat, sentAt: number): void
  onSwept(ids: readonly TaskId[]): void
  onFailure(operation: string, error: unknown): void
  onLost(cause: unknown): void
}

export class KeepAlive {
  readonly #timer = new Wakeup()
  readonly #running: Promise<void>
  #stopping = false
  /** When the present run of successful heartbeats began; the registration is the first. */
  #aliveSince: number | undefined = performance.now()
  #lastSuccess = performance.now()

  constructor(
    private readonly db: Db,
    private readonly registration: Registration,
    private readonly settings: { readonly keepAliveMs: number; readonly reenqueueOrphanedAfterMs: number },
    private readonly hooks: KeepAliveHooks,
  ) {
    this.#running = this.#run()
  }

  async stop(): Promise<void> {
    this.#stopping = true
    this.#timer.wake()
    await this.#running
  }

  async #run(): Promise<void> {
    const { keepAliveMs } = this.settings
    while (!this.#stopping) {
      await this.#timer.wait(this.#aliveSince === undefined ? Math.min(RETRY_MS, keepAliveMs) : keepAliveMs)
      if (this.#stopping) return
      if (!(await this.#beat())) return
      if (this.#maySweep()) await this.#sweep()
    }
  }

  /** @returns Whether the registration still stands, as far as is known. */
  async #beat(): Promise<boolean> {
    const { queue, worker, leaseToken } = this.registration
    const sentAt = performance.now()
    try {
      const beat = await heartbeat(this.db, queue, worker, leaseToken)
      if (!beat.registered) return this.#lost(new WorkerNotRegisteredError('heartbeat', queue, worker))
      this.#aliveSince ??= sentAt
      this.#lastSuccess = sentAt
      this.hooks.onBeat(beat, sentAt)
      return true
    } catch (error) {
      this.#aliveSince = undefined
      const cause = databaseError('sending the heartbeat', error)
      // Counted from before the last success was sent, so that this worker stops before others may take over.
      if (performance.now() - this.#lastSuccess >= this.settings.reenqueueOrphanedAfterMs) return this.#lost(cause)
      this.hooks.onFailure('sending the heartbeat', cause)
      return true
    }
  }

  #lost(cause: unknown): false {
    this.hooks.onLost(cause)
    return false
  }

  #maySweep(): boolean {
    return this.#aliveSince !== undefined && this.#lastSuccess - this.#aliveSince >= this.settings.keepAliveMs
  }

  async #sweep(): Promise<void> {
    try {
      for (;;) {
        const ids = await sweep(this.db, this.registration.queue, this.settings.reenqueueOrphanedAfterMs)
        if (ids.length > 0) this.hooks.onSwept(ids as TaskId[])
        if (ids.length < SWEEP_LIMIT || this.#stopping) return
      }
    } catch (error) {
      this.hooks.onFailure('sweeping orphans', databaseError('sweeping orphans', error))
    }
  }
}
