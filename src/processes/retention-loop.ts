/**
 * Deletes the tasks of a queue that ended longer ago than the application keeps them, while a worker runs. Every worker of
 * the queue that is told to has such a loop. No leader is elected: a lock that lives as long as one statement lets one
 * batch run at a time, and who does not get it finds nothing to do and looks again in the next round.
 */
import { pruneTasks, type PruneRequest } from '../statements/prune.js'
import type { PrunableStatus } from '../vocabulary/prune-options.js'
import { retentionAges, type Retention } from '../vocabulary/retention.js'
import type { ControlClient } from './control-client.js'
import { Wakeup } from './wakeup.js'

const ROUND_MS = 60_000
/**
 * Only so often it looks at everything that is old. Otherwise each round would pass over all tasks of other statuses that
 * are kept for longer: the index by age knows no status. In between it looks at what became old within this time.
 */
const LOOK_BACK_MS = 3_600_000
const MAX_BATCH = 1_000
/** After a batch as many times its own time, so that pruning takes a tenth of one connection's time. */
const REST = 9
const MIN_REST_MS = 100
/** Large payloads and a slow disk take their time, and a heartbeat may have to wait behind a batch. */
const SLOW_MS = 1_000

export interface RetentionHooks {
  onPruned(status: PrunableStatus, count: number): void
  onFailure(error: unknown): void
  /** A round went through. */
  onSuccess(): void
}

export class RetentionLoop {
  readonly #timer = new Wakeup()
  readonly #running: Promise<void>
  #stopped = false
  #limit = MAX_BATCH
  #lookedBackAt = Number.NEGATIVE_INFINITY

  constructor(
    private readonly control: Pick<ControlClient, 'run'>,
    private readonly queue: string,
    private readonly retention: Retention,
    private readonly hooks: RetentionHooks,
    private readonly roundMs: number = ROUND_MS,
  ) {
    this.#running = this.#run()
  }

  /** Resolves when no batch is under way any more. */
  stop(): Promise<void> {
    this.#stopped = true
    this.#timer.wake()
    return this.#running
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      try {
        await this.#round()
        this.hooks.onSuccess()
      } catch (error) {
        if (!this.#stopped) this.hooks.onFailure(error)
      }
      // Processes that started together should not look together.
      if (!this.#stopped) await this.#timer.wait(this.roundMs * (0.5 + Math.random()))
    }
  }

  async #round(): Promise<void> {
    const now = performance.now()
    const all = now - this.#lookedBackAt >= LOOK_BACK_MS
    for (const [status, olderThanMs] of retentionAges(this.retention)) {
      await this.#prune({ status, olderThanMs, newlyOldMs: all ? undefined : LOOK_BACK_MS })
    }
    if (all) this.#lookedBackAt = now
  }

  async #prune(old: Pick<PruneRequest, 'status' | 'olderThanMs' | 'newlyOldMs'>): Promise<void> {
    let count = 0
    let fromUs: string | undefined
    try {
      while (!this.#stopped) {
        const startedAt = performance.now()
        const limit = this.#limit
        const request = { ...old, queue: this.queue, limit, fromUs, alone: true }
        const batch = await this.control.run((db) => pruneTasks(db, request)).finally(() => this.#adapt(startedAt))
        count += batch.tasks
        fromUs = batch.endedAtUs
        if (batch.tasks < limit) return
        await this.#timer.wait(Math.max(MIN_REST_MS, (performance.now() - startedAt) * REST))
      }
    } finally {
      if (count > 0) this.hooks.onPruned(old.status, count)
    }
  }

  /** A batch that takes long, perhaps until it is cancelled, is followed by a much smaller one. */
  #adapt(startedAt: number): void {
    const slow = performance.now() - startedAt > SLOW_MS
    this.#limit = slow ? Math.ceil(this.#limit / 10) : Math.min(this.#limit * 2, MAX_BATCH)
  }
}
