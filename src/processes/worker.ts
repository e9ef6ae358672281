/**
 * A worker: the handler of one queue, run by one process under one name.
 *
 * - `idle`: made, not started. `start` leads to `starting`, `stop` to `stopped`.
 * - `starting`: registers. Leads to `running`, or back to `idle` when that fails; a `stop` meanwhile waits for it, but not
 *   for long. A registration that comes later is released at once.
 * - `running`: a session claims and runs tasks. When its registration is lost, its claims are lost with it, and a new
 *   session begins under a new registration, however long that takes.
 * - `stopping`: entered by `stop` at once; see `Session.drain`. A second `stop` gets the same promise, `start` is refused.
 * - `stopped`: released; nothing of it runs any more, except handlers that ignored their signal.
 */
import type { Handler } from '../vocabulary/claim.js'
import { databaseError } from '../vocabulary/database-error.js'
import { database, type PgDb } from '../vocabulary/db.js'
import { InvalidArgumentError } from '../vocabulary/errors.js'
import type { WorkerEvent } from '../vocabulary/events.js'
import type { QueueDefinition } from '../vocabulary/definition.js'
import { retentionAges } from '../vocabulary/retention.js'
import {
  isStopTimeout,
  workerSettings,
  type StorageConfig,
  type WorkerOptions,
  type WorkerSettings,
} from '../vocabulary/settings.js'
import { openControlClient, type ControlClient } from './control-client.js'
import { DEADLINES, within, type Deadlines } from './deadlines.js'
import { endedHere } from './ended-here.js'
import { IdleWatch } from './idle-watch.js'
import { chosenListener } from './listener.js'
import { Outages } from './outages.js'
import { reportOrphans, reportRetryFailure } from './outcome-report.js'
import { newLeaseToken, registerWorker, releaseWorker, type Registration } from './registration.js'
import { inWords, reporter, type Report } from './report.js'
import { RetentionLoop } from './retention-loop.js'
import { runnable, runWorkers, type Runnable, type RunOptions } from './run-workers.js'
import type { TaskRunner } from './run-task.js'
import { Session } from './session.js'
import { Slots } from './slots.js'
import { StuckSlots } from './stuck-slots.js'
import { Wakeup } from './wakeup.js'

const FIRST_REGISTER_BACKOFF_MS = 100
const MAX_REGISTER_BACKOFF_MS = 30_000

export class QueueWorker<Args, Result> implements Runnable {
  readonly queue: string
  /** Resolves when `stop` has done its work. */
  readonly stopped: Promise<void>
  // Private to the runtime too, because printing a worker must not print the client and with it the password.
  readonly #db: PgDb
  readonly #settings: WorkerSettings
  readonly #leaseToken = newLeaseToken()
  readonly #slots: Slots
  readonly #stuckSlots = new StuckSlots((...event) => this.#report(...event))
  readonly #idleWatch = new IdleWatch(() => this.#session?.wake())
  readonly #onEvent: ((event: WorkerEvent) => void) | undefined
  readonly #outages = new Outages((...event) => this.#report(...event))
  /** The wait before the next attempt to register. */
  readonly #pause = new Wakeup()
  #requestStop: () => void = () => undefined
  readonly #stopRequested = new Promise<void>((resolve) => (this.#requestStop = resolve))
  #state: 'idle' | 'starting' | 'running' | 'stopping' | 'stopped' = 'idle'
  #name: string
  #control: ControlClient | undefined
  #registration: Registration | undefined
  #session: Session<Args, Result> | undefined
  /** Sessions whose registration was lost, and whose last handlers and acknowledgements are not through yet. */
  readonly #lostSessions = new Set<Session<Args, Result>>()
  #retention: RetentionLoop | undefined
  #listening = false
  #unsubscribe: () => Promise<void> = () => Promise.resolve()
  #starting: Promise<void> | undefined
  #supervising: Promise<void> | undefined
  #stopping: Promise<void> | undefined
  #resolveStopped: () => void = () => undefined
  #resolveHandedBack: () => void = () => undefined
  readonly #handedBack = new Promise<void>((resolve) => (this.#resolveHandedBack = resolve))

  /** @param onDemand - It starts without slots; who asks for a task adds one. */
  constructor(
    db: PgDb,
    private readonly definition: QueueDefinition<Args, Result>,
    private readonly handler: Handler<Args, Result>,
    config: StorageConfig,
    options: WorkerOptions,
    private readonly deadlines: Deadlines = DEADLINES,
    private readonly onDemand = false,
  ) {
    database(db, 'worker')
    this.#db = db
    if (typeof handler !== 'function') {
      throw new InvalidArgumentError('handler', 'pass the function that runs a task: worker(async (args, ctx) => …).')
    }
    this.queue = definition.name
    this.#settings = workerSettings(config, options)
    this.#name = this.#settings.name
    this.#slots = new Slots(onDemand ? 0 : this.#settings.concurrency, () => this.#session?.wake())
    this.#onEvent = options.onEvent ?? config.onEvent
    this.stopped = new Promise((resolve) => (this.#resolveStopped = resolve))
    runnable(this)
  }

  get name(): string {
    return this.#name
  }

  start(): Promise<void> {
    if (this.isStopped) {
      const message = 'this worker was stopped; make a new one with storage.worker.'
      return Promise.reject(new InvalidArgumentError('start', message))
    }
    return (this.#starting ??= this.#start())
  }

  stop({ timeoutMs = this.#settings.stopTimeoutMs }: { timeoutMs?: number | undefined } = {}): Promise<void> {
    if (!isStopTimeout(timeoutMs)) {
      const message = 'pass a whole number of milliseconds, at most a day.'
      return Promise.reject(new InvalidArgumentError('timeoutMs', message))
    }
    return (this.#stopping ??= this.#stop(timeoutMs))
  }

  /**
   * Stops when the application has acknowledged all that it was given, however long that takes. Resolves already when
   * only such claims are left.
   */
  async retire(): Promise<void> {
    this.#stopping ??= this.#stop(this.#settings.stopTimeoutMs, (session) => this.#untilAcknowledged(session))
    await Promise.race([this.#stopping, this.#handedBack])
  }

  get slots(): Slots {
    return this.#slots
  }

  run(options: RunOptions = {}): Promise<void> {
    return runWorkers([this], options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  /** Also the handlers of a lost registration have to end, or to have ignored their signal: they may still push. */
  async idle(): Promise<void> {
    do {
      await Promise.all([...this.#lostSessions].map((session) => session.settled()))
      await this.#idleWatch.wait()
    } while (this.#lostSessions.size > 0)
  }

  get isStopped(): boolean {
    return this.#stopping !== undefined
  }

  get activity(): number {
    return this.#slots.changes
  }

  async #start(): Promise<void> {
    this.#state = 'starting'
    let control: ControlClient | undefined
    try {
      control = await openControlClient(this.#db, this.deadlines.answerMs)
      await this.#beginSession(control)
    } catch (error) {
      if (this.#state === 'starting') this.#state = 'idle'
      this.#starting = undefined
      await control?.close()
      throw databaseError('starting a worker', error)
    }
    await this.#registered(control)
  }

  async #registered(control: ControlClient): Promise<void> {
    if (this.#state === 'stopped') {
      await this.#release(control)
      return control.close()
    }
    this.#report('info', 'started', { type: 'worker.started' })
    this.#control = control
    if (this.#state !== 'starting') return
    this.#state = 'running'
    this.#subscribe()
    this.#retention = this.#retain(control)
    this.#supervising = this.#supervise(control)
  }

  async #beginSession(control: ControlClient): Promise<void> {
    const { name, reenqueueOrphanedAfterMs: thresholdMs } = this.#settings
    const registeredAt = Date.now()
    const registration = await control.run((db) =>
      registerWorker(db, {
        queue: this.queue,
        name,
        leaseToken: this.#leaseToken,
        layers: this.#layers(),
        thresholdMs,
      }),
    )
    this.#registration = registration
    this.#name = registration.worker
    reportOrphans(this.#report, registration.takenBack, 'a dead process of this name')
    // `stop` has gone on to drain the sessions there were, and releases this registration.
    if (this.#state === 'stopping' || this.#state === 'stopped') return
    this.#session = new Session({
      control,
      registration,
      registeredAt,
      settings: this.#settings,
      deadlines: this.deadlines,
      slots: this.#slots,
      stuckSlots: this.#stuckSlots,
      onDemand: this.onDemand,
      idleWatch: this.#idleWatch,
      // They are not told what the beats of this session say: the signals of their claims have aborted as lost, and their
      // outcomes are offered under a fence, which tells them apart from a later claim.
      heldEarlier: (claim) => [...this.#lostSessions].some((session) => session.holds(claim)),
      listening: () => this.#listening,
      runner: this.#runner(registration.worker),
      report: this.#report,
      outages: this.#outages,
    })
  }

  /** Notifications wake whatever session there is. */
  #subscribe(): void {
    const listener = chosenListener(this.#db, this.#settings.listen)
    if (listener === undefined) return
    let wasDown = false
    this.#unsubscribe = listener.subscribe({
      queue: this.queue,
      onWake: () => this.#session?.hint(),
      onCancel: (worker) => {
        if (worker === this.#name) this.#session?.lookForCancelled()
      },
      onUp: () => {
        this.#listening = true
        // Of what was cancelled before nobody has told.
        this.#session?.lookForCancelled()
        this.#report(wasDown ? 'warn' : 'info', 'notifications are on', { type: 'listener.up' })
        wasDown = false
      },
      onDown: (cause) => {
        this.#listening = false
        wasDown = true
        this.#report('warn', inWords(cause), { type: 'listener.down', cause })
        // Polls come more often now, from this moment on.
        this.#session?.hint()
      },
    })
  }

  #retain(control: ControlClient): RetentionLoop | undefined {
    const { retention } = this.#settings
    const operation = 'pruning tasks'
    if (retentionAges(retention).length === 0) return undefined
    return new RetentionLoop(control, this.queue, retention, {
      onPruned: (status, count) =>
        this.#report('info', `deleted ${count} old ${status} tasks`, { type: 'tasks.pruned', status, count }),
      onFailure: (error) => this.#outages.failed(operation, error),
      onSuccess: () => this.#outages.worked(operation),
    })
  }

  #runner(worker: string): TaskRunner<Args, Result> {
    return {
      worker,
      queue: this.definition,
      handler: this.handler,
      autoAck: this.#settings.autoAck,
      onRetryFailure: (cause) => reportRetryFailure(this.#report, cause),
    }
  }

  /** Begins a new session whenever the registration is lost, until the worker stops. */
  async #supervise(control: ControlClient): Promise<void> {
    while (this.#state === 'running') {
      const session = this.#session!
      await Promise.race([session.lost, this.#stopRequested])
      if (this.#state !== 'running') return
      this.#session = undefined
      this.#registration = undefined
      this.#lostSessions.add(session)
      void session.settled().then(() => this.#lostSessions.delete(session))
      await this.#registerAgain(control)
    }
  }

  async #registerAgain(control: ControlClient): Promise<void> {
    const operation = 'registering again'
    for (let delayMs = FIRST_REGISTER_BACKOFF_MS; this.#state === 'running'; delayMs = nextBackoff(delayMs)) {
      try {
        await this.#beginSession(control)
        if (this.#state !== 'running') return
        this.#outages.worked(operation)
        // As loud as the loss, which whoever read of it waits to see ended.
        this.#report('warn', 'registered again', { type: 'heartbeat.regained' })
        return
      } catch (error) {
        if (this.#state !== 'running') return
        this.#outages.failed(operation, error)
        await this.#pause.wait(delayMs * (0.5 + Math.random()))
      }
    }
  }

  async #untilAcknowledged(session: Session<Args, Result>): Promise<void> {
    await within(this.deadlines.lastCallMs, session.handBack(), () => undefined)
    if (session.running) this.#resolveHandedBack()
    await session.acknowledged()
  }

  /** @param ready - Each session is drained when it resolves. */
  async #stop(
    timeoutMs: number,
    ready: (session: Session<Args, Result>) => Promise<void> = () => Promise.resolve(),
  ): Promise<void> {
    this.#state = 'stopping'
    this.#requestStop()
    this.#pause.wake()
    this.#idleWatch.end()
    this.#stuckSlots.stop()
    const { lastCallMs } = this.deadlines
    const sessions = [...this.#lostSessions, ...(this.#session === undefined ? [] : [this.#session])]
    const supervising = this.#supervising
    let registers = supervising !== undefined
    const supervised = supervising?.then(() => (registers = false))
    // A registration under way is let finish, so that there is one order of events; but a database that does not answer
    // keeps neither the sessions nor the caller waiting.
    const registered = Promise.all([this.#starting?.catch(() => undefined), supervised])
    await Promise.all([
      within<unknown>(lastCallMs, registered, () => undefined),
      within(lastCallMs, this.#unsubscribe(), () => undefined),
      within<unknown>(lastCallMs, Promise.resolve(this.#retention?.stop()), () => undefined),
      ...sessions.map((session) => ready(session).then(() => session.drain(timeoutMs))),
    ])
    const control = this.#control
    if (control !== undefined) {
      const released = (supervised ?? Promise.resolve()).then(() => this.#release(control)).then(() => control.close())
      if (!registers) await released
    }
    this.#state = 'stopped'
    if (control !== undefined) this.#reportStopped()
    this.#resolveStopped()
  }

  /** Handlers that ignored their signal cannot be ended, and whatever they wait for keeps the process alive. */
  #reportStopped(): void {
    const { taken } = this.#slots
    const handlers =
      taken === 1
        ? '1 handler that ignored its signal still runs'
        : `${taken} handlers that ignored their signals still run`
    const message =
      taken === 0 ? 'stopped' : `stopped, but ${handlers} and may keep the process alive; task.overrun told of each`
    this.#report(taken === 0 ? 'info' : 'warn', message, { type: 'worker.stopped' })
  }

  /** Not for longer than the database is given for the last acknowledgements. */
  async #release(control: ControlClient): Promise<void> {
    const registration = this.#registration
    if (registration === undefined) return
    const { lastCallMs } = this.deadlines
    const released = control.run((db) => releaseWorker(db, registration))
    try {
      await within(lastCallMs, released, () => {
        throw new Error(`no answer within ${lastCallMs} ms`)
      })
    } catch (error) {
      const operation = 'releasing the worker'
      const cause = databaseError(operation, error)
      const message = `${inWords(cause)} Its name is free after reenqueueOrphanedAfterMs.`
      this.#report('warn', message, { type: 'worker.error', operation, cause })
    }
  }

  /** What dashboards show as the worker's layers. */
  #layers(): string {
    const { timeoutMs } = this.definition
    const task = `TaskFn<${this.handler.name || 'handler'}>`
    return timeoutMs === undefined ? task : `Timeout<${task}>`
  }

  /** What is reported as ended is recorded, so those who wait for it in this process look. */
  get #report(): Report {
    const report = reporter(this.queue, this.#name, this.#onEvent)
    return (level, message, body) => {
      if (body.type === 'task.done' || body.type === 'task.killed') endedHere(this.#db, body.id)
      report(level, message, body)
    }
  }
}

function nextBackoff(delayMs: number): number {
  return Math.min(delayMs * 2, MAX_REGISTER_BACKOFF_MS)
}
