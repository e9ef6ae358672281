/**
 * The heartbeat of one registration, and the sweep of other workers' orphans.
 *
 * - alive: heartbeats succeed, one every `keepAliveMs`. Once two have succeeded that far apart, each is followed by a
 *   sweep; the registration counts as the first.
 * - doubtful: a heartbeat failed, or came so late that others may have taken over. The next comes soon if it failed;
 *   nothing is swept before two have succeeded again, because after an outage, or when a machine wakes from sleep, every
 *   worker looks dead to the first that comes back.
 * - lost: the database said that the registration is gone, or a heartbeat failed when the last that succeeded was so long
 *   ago that others may take over. It ends here; the worker registers again.
 * - stopped: by `stop`. What a heartbeat under way says does not matter any more.
 */
import { heartbeat, type Heartbeat } from '../statements/heartbeat.js'
import { SWEEP_LIMIT, sweep } from '../statements/sweep.js'
import { databaseError } from '../vocabulary/database-error.js'
import { WorkerNotRegisteredError } from '../vocabulary/errors.js'
import type { OwnedOrphan } from '../vocabulary/orphan.js'
import type { ControlClient } from './control-client.js'
import { within } from './deadlines.js'
import type { Registration } from './registration.js'
import { Wakeup } from './wakeup.js'

const RETRY_MS = 1_000

type KeepAliveOperation = 'sending the heartbeat' | 'sweeping orphans'

export interface KeepAliveHooks {
  /** @param sentAt - `performance.now()` before the request left. */
  onBeat(beat: Heartbeat, sentAt: number): void
  onSwept(orphans: readonly OwnedOrphan[]): void
  /** The registration stands, although others might have taken it over. @param silentMs - Between the last two heartbeats. */
  onSilence(silentMs: number): void
  onFailure(operation: KeepAliveOperation, error: unknown): void
  onSuccess(operation: KeepAliveOperation): void
  /** @param refused - Whether the database has said so. Otherwise others may take over, and may not have done so yet. */
  onLost(cause: unknown, refused: boolean): void
}

export class KeepAlive {
  readonly #timer = new Wakeup()
  readonly #running: Promise<void>
  #stopping = false
  /**
   * When the first of the present run of successful heartbeats was sent; `undefined` while in doubt. By the wall clock,
   * as the database counts: the monotonic one stands still while a machine sleeps.
   */
  #aliveSince: number | undefined
  #lastSuccess: number

  /** @param registeredAt - `Date.now()` before the registration was sent. */
  constructor(
    private readonly control: ControlClient,
    private readonly registration: Registration,
    registeredAt: number,
    private readonly settings: { readonly keepAliveMs: number; readonly reenqueueOrphanedAfterMs: number },
    private readonly hooks: KeepAliveHooks,
  ) {
    this.#aliveSince = registeredAt
    this.#lastSuccess = registeredAt
    this.#running = this.#run()
  }

  async stop(): Promise<void> {
    this.#stopping = true
    this.#timer.wake()
    await this.#running
  }

  async #run(): Promise<void> {
    const { keepAliveMs } = this.settings
    let standing = true
    while (standing && !this.#stopping) {
      await this.#timer.wait(this.#aliveSince === undefined ? Math.min(RETRY_MS, keepAliveMs) : keepAliveMs)
      if (this.#stopping) return
      standing = await this.#beat()
      if (this.#maySweep()) await this.#sweep()
    }
  }

  /** @returns Whether the registration still stands, as far as is known. */
  async #beat(): Promise<boolean> {
    const { queue, worker, leaseToken } = this.registration
    const sentAt = performance.now()
    const sentDate = Date.now()
    try {
      const beat = await within(
        this.#untilTakenOver(sentDate),
        this.control.run((db) => heartbeat(db, queue, worker, leaseToken)),
        () => {
          throw new Error('no answer before others may take over')
        },
      )
      if (this.#stopping) return true
      if (!beat.registered) return this.#lost(new WorkerNotRegisteredError('heartbeat', queue, worker), true)
      if (this.#mayBeTakenOver(sentDate)) {
        this.#aliveSince = undefined
        this.hooks.onSilence(sentDate - this.#lastSuccess)
      }
      this.#aliveSince ??= sentDate
      this.#lastSuccess = sentDate
      this.hooks.onSuccess('sending the heartbeat')
      this.hooks.onBeat(beat, sentAt)
      return true
    } catch (error) {
      if (this.#stopping) return true
      this.#aliveSince = undefined
      const cause = databaseError('sending the heartbeat', error)
      if (this.#mayBeTakenOver(Date.now())) return this.#lost(cause, false)
      this.hooks.onFailure('sending the heartbeat', cause)
      return true
    }
  }

  /** An answer may be longer under way than others wait: this worker must know by then that it is out. */
  #untilTakenOver(at: number): number {
    return Math.max(this.#lastSuccess + this.settings.reenqueueOrphanedAfterMs - at, 0)
  }

  #mayBeTakenOver(at: number): boolean {
    return at - this.#lastSuccess >= this.settings.reenqueueOrphanedAfterMs
  }

  #lost(cause: unknown, refused: boolean): false {
    this.#aliveSince = undefined
    this.hooks.onLost(cause, refused)
    return false
  }

  #maySweep(): boolean {
    if (this.#stopping || this.#aliveSince === undefined) return false
    return this.#lastSuccess - this.#aliveSince >= this.settings.keepAliveMs
  }

  async #sweep(): Promise<void> {
    const { queue } = this.registration
    const { reenqueueOrphanedAfterMs } = this.settings
    try {
      for (;;) {
        const orphans = await this.control.run((db) => sweep(db, queue, reenqueueOrphanedAfterMs))
        if (orphans.length > 0) this.hooks.onSwept(orphans)
        this.hooks.onSuccess('sweeping orphans')
        if (orphans.length < SWEEP_LIMIT || this.#stopping) return
      }
    } catch (error) {
      this.hooks.onFailure('sweeping orphans', error)
    }
  }
}
