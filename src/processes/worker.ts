/**
 * A worker: the handler of one queue, run by one process under one name.
 *
 * - `idle`: made, not started. `start` leads to `running`, `stop` to `stopped`.
 * - `running`: registered; a session claims and runs tasks. When the registration is lost, the session's claims are lost
 *   with it, and a new session begins under a new registration, for as long as it takes.
 * - `stopping`: claims nothing; see `Session.drain`. A second `stop` gets the same promise.
 * - `stopped`: released; nothing of it runs any more. It cannot be started again; make a new one.
 */
import type { Handler } from '../vocabulary/claim.js'
import { databaseError } from '../vocabulary/database-error.js'
import { database } from '../vocabulary/db.js'
import type { PgDb } from '../vocabulary/db.js'
import { InvalidArgumentError } from '../vocabulary/errors.js'
import type { WorkerEvent } from '../vocabulary/events.js'
import type { QueueDefinition } from '../vocabulary/definition.js'
import { workerSettings } from '../vocabulary/settings.js'
import type { StorageConfig, WorkerOptions, WorkerSettings } from '../vocabulary/settings.js'
import { openControlClient } from './control-client.js'
import type { ControlClient } from './control-client.js'
import { registerWorker, releaseWorker } from './registration.js'
import type { Registration } from './registration.js'
import { inWords, reporter } from './report.js'
import type { Report } from './report.js'
import { runWorkers } from './run-workers.js'
import type { RunOptions } from './run-workers.js'
import type { TaskRunner } from './run-task.js'
import { Session } from './session.js'
import { Slots } from './slots.js'
import { Wakeup } from './wakeup.js'

const MAX_REGISTER_BACKOFF_MS = 30_000

export interface Worker extends AsyncDisposable {
  /** The registered name, such as `worker#1`; before the start the name that was asked for. */
  readonly name: string
  readonly queue: string
  /**
   * Registers and begins to claim; resolves when registered.
   *
   * @throws {AlreadyRegisteredError} `ALREADY_REGISTERED` when a full name is held by another process.
   * @throws {DatabaseError} `DATABASE` when the database cannot be reached or has no `apalis` schema.
   */
  start(): Promise<void>
  /**
   * Claims nothing more, hands unstarted tasks back uncharged, waits for running handlers, and releases the name. What
   * still runs after `timeoutMs` (default `stopTimeoutMs`) is aborted and returns uncharged. Never rejects; every call
   * gets the same promise.
   */
  stop(options?: { timeoutMs?: number | undefined }): Promise<void>
  /** Starts, runs until `signal` aborts (or, with `untilIdle`, until no task is due and none runs), and stops. */
  run(options?: RunOptions): Promise<void>
}

export class QueueWorker<Args, Result> implements Worker {
  readonly queue: string
  readonly #settings: WorkerSettings
  readonly #slots: Slots
  readonly #onEvent: ((event: WorkerEvent) => void) | undefined
  readonly #retry = new Wakeup()
  #requestStop: (reason: typeof STOP) => void = () => undefined
  readonly #stopRequested = new Promise<typeof STOP>((resolve) => (this.#requestStop = resolve))
  #state: 'idle' | 'running' | 'stopping' | 'stopped' = 'idle'
  #registered: { readonly registration: Registration; readonly session: Session<Args, Result> } | undefined
  #control: ControlClient | undefined
  #starting: Promise<void> | undefined
  #supervising: Promise<void> | undefined
  readonly #lostSessions: Promise<void>[] = []
  #stopping: Promise<void> | undefined

  constructor(
    private readonly db: PgDb,
    private readonly definition: QueueDefinition<Args, Result>,
    private readonly handler: Handler<Args, Result>,
    config: StorageConfig,
    options: WorkerOptions,
  ) {
    database(db, 'worker')
    if (typeof handler !== 'function') {
      throw new InvalidArgumentError('handler', 'pass the function that runs a task: worker(async (args, ctx) => …).')
    }
    this.queue = definition.name
    this.#settings = workerSettings(config, options)
    this.#slots = new Slots(this.#settings.concurrency)
    this.#onEvent = options.onEvent ?? config.onEvent
  }

  get name(): string {
    return this.#registered?.registration.worker ?? this.#settings.name
  }

  start(): Promise<void> {
    if (this.#state === 'stopping' || this.#state === 'stopped') {
      return Promise.reject(
        new InvalidArgumentError('start', 'this worker was stopped; make a new one with storage.worker.'),
      )
    }
    return (this.#starting ??= this.#start())
  }

  stop({ timeoutMs = this.#settings.stopTimeoutMs }: { timeoutMs?: number | undefined } = {}): Promise<void> {
    return (this.#stopping ??= this.#stop(timeoutMs))
  }

  run(options: RunOptions = {}): Promise<void> {
    return runWorkers([this], options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  /** Resolves when a look at the queue that began after `since` found nothing to do and nothing runs; see `Session.idleAfter`. */
  async idleAfter(since: number): Promise<void> {
    await this.#registered?.session.idleAfter(since)
  }

  /** How many tasks have been started, to tell whether anything happened between two looks. */
  get startedTasks(): number {
    return this.#slots.everTaken
  }

  async #start(): Promise<void> {
    try {
      this.#control = await openControlClient(this.db)
      await this.#beginSession()
      this.#state = 'running'
      this.#report('info', 'started', { type: 'worker.started' })
      this.#supervising = this.#supervise()
    } catch (error) {
      this.#starting = undefined
      await this.#control?.close()
      this.#control = undefined
      throw databaseError('starting a worker', error)
    }
  }

  async #beginSession(): Promise<void> {
    const { db } = this.#control!
    const { name, reenqueueOrphanedAfterMs } = this.#settings
    const registration = await registerWorker(db, this.queue, name, reenqueueOrphanedAfterMs, this.#layers())
    const report = reporter(this.queue, registration.worker, this.#onEvent)
    const runner: TaskRunner<Args, Result> = {
      worker: registration.worker,
      queue: this.definition,
      handler: this.handler,
      onRetryFailure: (cause) =>
        report('error', inWords(cause), { type: 'worker.error', operation: 'computing the delay of a retry', cause }),
    }
    const session = new Session({ db, registration, settings: this.#settings, slots: this.#slots, runner, report })
    this.#registered = { registration, session }
    const { takenBack: ids } = registration
    if (ids.length > 0) {
      report('warn', `returned ${ids.length} tasks of a dead process of this name to the queue`, {
        type: 'orphan.swept',
        ids,
      })
    }
  }

  /** Begins a new session whenever the registration is lost, until the worker stops. */
  async #supervise(): Promise<void> {
    while (this.#registered !== undefined && this.#state === 'running') {
      const { session } = this.#registered
      const cause = await Promise.race([session.lost, this.#stopRequested])
      if (cause === STOP) break
      this.#report('error', `lost its registration, ${inWords(cause)} Registering again.`, {
        type: 'heartbeat.lost',
        cause,
      })
      this.#lostSessions.push(session.drain(0))
      this.#registered = undefined
      await this.#registerAgain()
    }
  }

  async #registerAgain(): Promise<void> {
    for (let delayMs = 100; this.#state === 'running'; delayMs = Math.min(delayMs * 2, MAX_REGISTER_BACKOFF_MS)) {
      try {
        await this.#beginSession()
        return this.#report('info', 'registered again', { type: 'heartbeat.regained' })
      } catch (cause) {
        const operation = 'registering again'
        this.#report('error', `${inWords(cause)} Trying again.`, { type: 'worker.error', operation, cause })
        await this.#retry.wait(delayMs * (0.5 + Math.random()))
      }
    }
  }

  async #stop(timeoutMs: number): Promise<void> {
    // A start under way is let finish, so that there is one order of events.
    await this.#starting?.catch(() => undefined)
    const started = this.#state === 'running'
    this.#state = 'stopping'
    this.#requestStop(STOP)
    this.#retry.wake()
    if (started) await this.#wind(timeoutMs)
    this.#state = 'stopped'
    if (started) this.#report('info', 'stopped', { type: 'worker.stopped' })
  }

  async #wind(timeoutMs: number): Promise<void> {
    // First, because it may be about to begin a session.
    await this.#supervising
    await this.#registered?.session.drain(timeoutMs)
    await Promise.all(this.#lostSessions)
    try {
      const { db } = this.#control!
      if (this.#registered !== undefined) {
        await releaseWorker(db, this.#registered.registration, this.#settings.reenqueueOrphanedAfterMs)
      }
      await this.#control!.close()
    } catch (cause) {
      const operation = 'releasing the worker'
      this.#report('warn', `${inWords(cause)} Its name is free after reenqueueOrphanedAfterMs.`, {
        type: 'worker.error',
        operation,
        cause,
      })
    }
  }

  /** What dashboards show as the worker's layers. */
  #layers(): string {
    const { timeoutMs } = this.definition
    const task = `TaskFn<${this.handler.name || 'handler'}>`
    return timeoutMs === undefined ? task : `Timeout<${task}>`
  }

  get #report(): Report {
    return reporter(this.queue, this.name, this.#onEvent)
  }
}

const STOP = Symbol('stop')
