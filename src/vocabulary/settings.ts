import { InvalidArgumentError } from './errors.js'
import type { WorkerEvent } from './events.js'
import { checkWorkerName, typeOf } from './limits.js'
import { isNotifyListener, type NotifyListener } from './notify-listener.js'
import { MAX_LISTENING_MS, type PollInterval } from './poll-backoff.js'
import { checkRetention, type Retention } from './retention.js'

/** Settings of a storage, which are the defaults of its workers. */
export interface StorageConfig {
  /** Milliseconds between heartbeats. Default 30,000; must be below `reenqueueOrphanedAfterMs`. */
  keepAliveMs?: number | undefined
  /** Silence in milliseconds after which another worker takes a worker's tasks. Default 300,000; at least 1,000. */
  reenqueueOrphanedAfterMs?: number | undefined
  /**
   * Claimed tasks that may wait in memory for a free slot, never fewer than `concurrency`; 0 acts as 1. Default 10, and up to
   * 500 while tasks are so fast that as many end within a tenth of a second.
   */
  bufferSize?: number | undefined
  /**
   * Milliseconds before the first look at an empty queue is repeated; each further one waits longer, up to five seconds
   * while notifications arrive and one second otherwise. At most 5,000. Or a function that says each wait, given how many
   * looks in a row have found nothing; a task that becomes due during a wait of more than 5,000 may start at its end only.
   * Default 100.
   */
  pollIntervalMs?: PollInterval | undefined
  /**
   * Whether what a handler returns or throws ends its task. With `false` that is left to `storage.ack(ctx.task, outcome)`,
   * also after the handler has returned; until then the task stays claimed, and counts towards the `bufferSize` +
   * `concurrency` tasks that the worker holds at most. A task whose payload cannot be read fails all the same, and what is
   * not acknowledged when `stop` has waited for its timeout goes back uncharged. Default `true`.
   */
  autoAck?: boolean | undefined
  /**
   * Whether workers are woken by notifications, over one more connection per database. `false`: they only poll. A listener
   * made by `createNotifyListener`, for applications whose pool goes through PgBouncer. Default `true`.
   */
  listen?: boolean | NotifyListener | undefined
  /**
   * Workers delete tasks of the queue that ended so long ago, a batch at a time among all of them, once a minute. Their
   * idempotency keys become free. Default: tasks are kept until somebody deletes them; see `admin(db).prune`.
   */
  retention?: Retention | undefined
  /** Told of everything the workers do. Default: warnings and errors go to the console, one line each. */
  onEvent?: ((event: WorkerEvent) => void) | undefined
}

export interface WorkerOptions extends StorageConfig {
  /**
   * `mailer` registers as `mailer#1`, or with the next number that no live worker holds. A full name such as `mailer#3`
   * is that one name, and is refused while another process holds it. Default `worker`.
   */
  name?: string | undefined
  /** Tasks that run at the same time. Default 10. */
  concurrency?: number | undefined
  /** Milliseconds, at most a day, that `stop` lets handlers finish before their signal aborts. Default 25,000, below the usual 30 s of a deploy. */
  stopTimeoutMs?: number | undefined
}

export interface PollOptions {
  /** A name as of `WorkerOptions`: `importer` registers as `importer#1` or the next free number, `importer#3` as itself. */
  worker: string
  /** Ends the series as a `break` does. */
  signal?: AbortSignal | undefined
}

export interface WaitOptions {
  /** Ends the wait with the signal's reason. */
  signal?: AbortSignal | undefined
  /** Milliseconds after which the wait ends with a `TimeoutError`, as `AbortSignal.timeout` has it. Default: none. */
  timeoutMs?: number | undefined
}

export interface WorkerSettings {
  readonly name: string
  readonly concurrency: number
  readonly bufferSize: number
  /** Whether the buffer may grow with the number of tasks that end, because the application has not said how large it is. */
  readonly growsBuffer: boolean
  readonly keepAliveMs: number
  readonly reenqueueOrphanedAfterMs: number
  readonly pollIntervalMs: PollInterval
  readonly listen: boolean | NotifyListener
  readonly autoAck: boolean
  readonly retention: Retention
  readonly stopTimeoutMs: number
}

/** In milliseconds; see `StorageConfig.reenqueueOrphanedAfterMs`. */
export const DEFAULT_REENQUEUE_ORPHANED_AFTER_MS = 300_000

/** Node's timers take no more. */
const MAX_TIMER_MS = 2 ** 31 - 1
/** A day, which leaves room for what `stop` adds to it. */
const MAX_STOP_TIMEOUT_MS = 86_400_000

/** Options over config over defaults, each value checked. */
export function workerSettings(config: StorageConfig, options: WorkerOptions): WorkerSettings {
  const set = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as WorkerOptions
  const { name = 'worker', concurrency = 10, stopTimeoutMs = 25_000, ...storage } = { ...config, ...set }
  const {
    keepAliveMs = 30_000,
    reenqueueOrphanedAfterMs = DEFAULT_REENQUEUE_ORPHANED_AFTER_MS,
    bufferSize = 10,
    pollIntervalMs = 100,
    listen = true,
    autoAck = true,
    retention = {},
    onEvent,
  } = storage
  checkWorkerName(name)
  whole('concurrency', concurrency, 1, 100_000)
  whole('stopTimeoutMs', stopTimeoutMs, 0, MAX_STOP_TIMEOUT_MS)
  checkStorageConfig({
    keepAliveMs,
    reenqueueOrphanedAfterMs,
    bufferSize,
    pollIntervalMs,
    listen,
    autoAck,
    retention,
    onEvent,
  })
  return {
    name,
    concurrency,
    stopTimeoutMs,
    keepAliveMs,
    reenqueueOrphanedAfterMs,
    pollIntervalMs,
    listen,
    autoAck,
    retention,
    bufferSize: Math.max(bufferSize, concurrency, 1),
    growsBuffer: storage.bufferSize === undefined,
  }
}

/** Checks what is set, so that a wrong value is refused where the storage is made and not when its worker starts. */
export function checkStorageConfig(config: StorageConfig): void {
  const {
    keepAliveMs = 30_000,
    reenqueueOrphanedAfterMs = DEFAULT_REENQUEUE_ORPHANED_AFTER_MS,
    bufferSize = 10,
    pollIntervalMs = 100,
    listen = true,
    autoAck = true,
    retention = {},
    onEvent,
  } = config
  whole('keepAliveMs', keepAliveMs, 1, MAX_TIMER_MS)
  whole('reenqueueOrphanedAfterMs', reenqueueOrphanedAfterMs, 1_000, MAX_TIMER_MS)
  whole('bufferSize', bufferSize, 0, 10_000)
  if (typeof pollIntervalMs !== 'function') whole('pollIntervalMs', pollIntervalMs, 1, MAX_LISTENING_MS)
  if (typeof listen !== 'boolean' && !isNotifyListener(listen)) {
    throw new InvalidArgumentError('listen', 'pass true, false, or what createNotifyListener returned.')
  }
  if (typeof autoAck !== 'boolean') throw new InvalidArgumentError('autoAck', 'pass true or false.')
  checkRetention(retention)
  if (onEvent !== undefined && typeof onEvent !== 'function') {
    throw new InvalidArgumentError('onEvent', `a function is needed, not ${typeOf(onEvent)}.`)
  }
  if (keepAliveMs >= reenqueueOrphanedAfterMs) {
    throw new InvalidArgumentError(
      'keepAliveMs',
      `${keepAliveMs} is not below reenqueueOrphanedAfterMs (${reenqueueOrphanedAfterMs}), so a live worker would be taken for dead. Use a tenth of it.`,
    )
  }
}

export function isStopTimeout(timeoutMs: unknown): timeoutMs is number {
  return isWhole(timeoutMs, 0, MAX_STOP_TIMEOUT_MS)
}

/** @throws {InvalidArgumentError} for a timeout that no timer can wait for. */
export function checkWaitOptions({ timeoutMs }: WaitOptions): void {
  if (timeoutMs !== undefined) whole('timeoutMs', timeoutMs, 1, MAX_TIMER_MS)
}

function whole(argument: string, value: unknown, min: number, max: number): void {
  if (!isWhole(value, min, max)) {
    throw new InvalidArgumentError(argument, `pass a whole number from ${min} to ${max}.`)
  }
}

function isWhole(value: unknown, min: number, max: number): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max
}
