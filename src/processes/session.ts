/**
 * The work of one registration: claim tasks, run them in the free slots, acknowledge them, keep the registration alive.
 *
 * - working: claims while there is room. Left by `drain`, and when the heartbeat finds the registration lost.
 * - draining: claims nothing more, hands unstarted tasks back, lets handlers finish and then aborts them.
 * - lost: claims nothing more and aborts its handlers. The worker begins a new session. What comes of the claims is still
 *   offered to the database, because after an outage they are good as long as nobody has taken the tasks. Where the
 *   database itself has refused the heartbeat somebody has, so of handlers that run then nothing is recorded.
 */
import { claim } from '../statements/claim.js'
import { findCancelled } from '../statements/find-cancelled.js'
import type { Heartbeat } from '../statements/heartbeat.js'
import { markRunning } from '../statements/mark-running.js'
import { nextDueMs } from '../statements/next-due.js'
import type { ClaimedRow } from '../vocabulary/claimed-row.js'
import type { TaskId } from '../vocabulary/errors.js'
import type { Claim } from '../vocabulary/claim.js'
import type { AckOutcome, Fence } from '../vocabulary/outcome.js'
import type { WorkerSettings } from '../vocabulary/settings.js'
import { AckGroup, type AckAnswer } from './ack-group.js'
import { claimStands, type TxClaim } from './ack-in-tx.js'
import { ClaimLoop } from './claim-loop.js'
import type { ControlClient } from './control-client.js'
import { within, type Deadlines } from './deadlines.js'
import { handOut } from './handed-out.js'
import { HeldClaim, type LossReason } from './held-claim.js'
import type { IdleWatch } from './idle-watch.js'
import { InFlight } from './in-flight.js'
import { KeepAlive } from './keep-alive.js'
import type { Outages } from './outages.js'
import { reportLateError, reportLostClaim, reportOrphans, reportOutcome, reportUnknown } from './outcome-report.js'
import type { Registration } from './registration.js'
import { inWords, type Report } from './report.js'
import { ABORT_GRACE_MS, runTask, type Execution, type RunHooks, type TaskRunner } from './run-task.js'
import type { Slots } from './slots.js'
import { Strays } from './strays.js'

/** Buffered tasks that have run for so long are shown as Running. */
const MARK_AFTER_MS = 1_000
/** A stop that takes no longer surprises nobody. */
const TELL_AFTER_MS = 1_000
/** After which the row of a claim that was acknowledged in a transaction is first looked at; then after ever longer. */
const FIRST_LOOK_MS = 20

export interface SessionParts<Args, Result> {
  readonly control: ControlClient
  readonly registration: Registration
  /** `Date.now()` before the registration was sent. */
  readonly registeredAt: number
  readonly settings: WorkerSettings
  readonly deadlines: Deadlines
  readonly slots: Slots
  /** Whether the application asks for each task, and so says itself how many it holds without an acknowledgement. */
  readonly onDemand: boolean
  readonly idleWatch: IdleWatch
  /** Whether an earlier session of this worker, whose registration was lost, still holds the claim. */
  readonly heldEarlier: (claim: Fence) => boolean
  /** Whether new tasks are announced. */
  readonly listening: () => boolean
  readonly runner: TaskRunner<Args, Result>
  readonly report: Report
  readonly outages: Outages
}

export class Session<Args, Result> {
  /** Resolves when the registration is lost; pending until then. */
  readonly lost: Promise<void>
  #state: 'working' | 'draining' | 'lost' = 'working'
  readonly #held = new Map<string, HeldClaim>()
  /** Those of the held that wait for a slot, in the order of their start. */
  readonly #buffer: HeldClaim[] = []
  /** Claims whose handler is through, and which wait for the application to acknowledge them. */
  #unacknowledged = 0
  /** Whatever is under way with a held claim that is not buffered, and the hand-backs of strays. */
  readonly #tasks = new InFlight(() => this.#claims.wake())
  /** How often it was told that tasks may have been cancelled. */
  #cancelHints = 0
  #lookingForCancelled = false
  readonly #strays: Strays
  /** When the claim under way was sent. */
  #claimSentAt: number | undefined
  readonly #acks: AckGroup
  readonly #keepAlive: KeepAlive
  readonly #claims: ClaimLoop
  readonly #marking: ReturnType<typeof setInterval>
  readonly #hooks: RunHooks<Args> = {
    inTx: (held) => this.#inTx(held),
    handOut: (held, task) => this.#handOut(held, task),
  }

  constructor(private readonly parts: SessionParts<Args, Result>) {
    const { control, registration, registeredAt, settings, deadlines, outages } = parts
    let lost: () => void = () => undefined
    this.lost = new Promise((resolve) => (lost = resolve))
    this.#strays = new Strays(deadlines.strayMs)
    this.#acks = new AckGroup(control, registration.queue, registration.worker, {
      onFailure: (error) => outages.failed('acknowledging tasks', error),
      onRecovery: () => outages.worked('acknowledging tasks'),
    })
    this.#keepAlive = new KeepAlive(control, registration, registeredAt, settings, {
      onBeat: (beat, sentAt) => this.#reconcile(beat, sentAt),
      onSwept: (orphans) => reportOrphans(parts.report, orphans, 'silent workers'),
      onFailure: (operation, error) => outages.failed(operation, error),
      onSuccess: (operation) => outages.worked(operation),
      onLost: (cause, refused) => {
        this.#lose(cause, refused)
        lost()
      },
    })
    this.#marking = setInterval(() => void this.#markRunning(), MARK_AFTER_MS)
    this.#claims = new ClaimLoop(settings.pollIntervalMs, {
      room: () => this.#room(),
      claim: (limit) => this.#claim(limit),
      nextDueMs: () => control.run((db) => nextDueMs(db, registration.queue)),
      listening: parts.listening,
      hurried: () => parts.idleWatch.asked && this.#held.size === 0,
      onFailure: (error) => outages.failed('claiming tasks', error),
      onSuccess: () => outages.worked('claiming tasks'),
    })
  }

  /** Tells that a slot became free, or that somebody waits for the worker to be idle. */
  wake(): void {
    this.#fillSlots()
    this.#claims.wake()
  }

  /** Tells that there may be a new task. */
  hint(): void {
    this.#claims.hint()
  }

  /** Tells that tasks of this worker may have been cancelled. Whoever tells during a look shares the next one. */
  lookForCancelled(): void {
    this.#cancelHints += 1
    if (!this.#lookingForCancelled) this.#tasks.add(this.#dropCancelled())
  }

  /**
   * Stops claiming, hands back what has not started, and waits for the handlers; those that run longer are aborted.
   * Resolves soon after `timeoutMs` at the latest, whatever handlers and database do.
   */
  async drain(timeoutMs: number): Promise<void> {
    if (this.#state === 'working') this.#state = 'draining'
    const aborting = setTimeout(() => this.#abortAll(), timeoutMs)
    const telling = setTimeout(() => this.#reportWait(timeoutMs - TELL_AFTER_MS), TELL_AFTER_MS)
    await within(timeoutMs + ABORT_GRACE_MS + this.parts.deadlines.lastCallMs, this.settled(), () => undefined)
    clearTimeout(aborting)
    clearTimeout(telling)
    clearInterval(this.#marking)
    this.#acks.giveUp()
    void this.#keepAlive.stop()
  }

  /** Claims nothing more and hands back what has not started; resolves when that is recorded. */
  async handBack(): Promise<void> {
    if (this.#state === 'working') this.#state = 'draining'
    const claimed = this.#claims.stop()
    this.#handBackBuffer()
    await claimed
    await this.#untilEach(({ state }) => state === 'running')
  }

  /** Resolves when the application has acknowledged all that it was given, or lost it. */
  acknowledged(): Promise<void> {
    return this.#untilEach(({ state }) => state !== 'running')
  }

  holds(claim: Fence): boolean {
    return this.#held.get(claim.id)?.isClaimOf(claim) === true
  }

  /** Whether a handler runs, or the application has yet to acknowledge a claim. */
  get running(): boolean {
    return [...this.#held.values()].some(({ state }) => state === 'running')
  }

  /** Resolves when a session that claims nothing more has nothing more to do. */
  async settled(): Promise<void> {
    const claimed = this.#claims.stop()
    this.#handBackBuffer()
    await claimed
    while (this.#tasks.count > 0) await this.#tasks.nextEnd()
    await this.#keepAlive.stop()
  }

  /**
   * How many tasks to claim: none until half of the buffer is used up, so that claims under load are large. Outcomes on
   * their way count as far as they are more than a buffer, so that a database that takes no acknowledgements is not asked
   * for more tasks, and claims are not small while it takes them; and so do those that the application has yet to tell, so
   * that one which never does is not handed the whole queue.
   */
  #room(): number {
    const { settings, slots, onDemand } = this.parts
    const { bufferSize } = settings
    if (this.#buffer.length > bufferSize / 2) return 0
    const acking = Math.max(this.#acks.underWay - bufferSize, 0)
    const unacknowledged = onDemand ? 0 : this.#unacknowledged
    return bufferSize + slots.free - this.#buffer.length - acking - unacknowledged
  }

  async #claim(limit: number): Promise<number> {
    const { control, registration, settings, slots, idleWatch } = this.parts
    const { queue, worker, leaseToken } = registration
    const running = Math.max(slots.free - this.#buffer.length, 0)
    const request = { queue, worker, leaseToken, limit, running, thresholdMs: settings.reenqueueOrphanedAfterMs }
    const wasIdle = this.#held.size === 0
    const sentAt = performance.now()
    const cancelHints = this.#cancelHints
    this.#claimSentAt = sentAt
    try {
      const rows = await control.run((db) => claim(db, request))
      for (const row of rows) this.#hold(row)
      // They may have been meant although their claim was still on its way.
      if (cancelHints !== this.#cancelHints) this.lookForCancelled()
      this.#fillSlots()
      if (this.#state !== 'working') this.#handBackBuffer()
      if (wasIdle && rows.length === 0) idleWatch.noteIdle(sentAt)
      return rows.length
    } finally {
      this.#claimSentAt = undefined
    }
  }

  #hold(row: ClaimedRow): void {
    const earlier = this.#held.get(row.id)
    // One that is being acknowledged became claimable by just that, or learns from the database that it is stale.
    if (earlier !== undefined && earlier.state !== 'acking') this.#supersede(earlier, row)
    const held = new HeldClaim(row)
    this.#held.set(row.id, held)
    this.#buffer.push(held)
    const { id, attempt } = held
    this.parts.report('debug', `claimed task ${id} for attempt ${attempt}`, { type: 'task.claimed', id, attempt })
  }

  /** A claim whose task was claimed again. */
  #supersede(earlier: HeldClaim, row: ClaimedRow): void {
    const failedInTransaction = earlier.inTransaction?.outcome.status === 'Failed' && row.attempts === earlier.attempt
    if (failedInTransaction) this.#endInTransaction(earlier, { written: 'Failed', inTransaction: true })
    else this.#forget(earlier, 'claim-lost')
  }

  #fillSlots(): void {
    while (this.#state === 'working' && this.parts.slots.free > 0) {
      const next = this.#buffer.shift()
      if (next === undefined) return
      this.#tasks.add(this.#run(next))
    }
  }

  async #untilEach(isSo: (held: HeldClaim) => boolean): Promise<void> {
    while (![...this.#held.values()].every(isSo)) await this.#tasks.nextEnd()
  }

  async #run(held: HeldClaim): Promise<void> {
    const { slots, runner } = this.parts
    slots.take()
    held.start()
    const execution = await runTask(held, runner, this.#hooks)
    const { overrun } = execution
    if (overrun === undefined) slots.release()
    else {
      this.#reportOverrun(held)
      void overrun.then(() => slots.release())
    }
    await this.#conclude(held, execution)
  }

  async #conclude(held: HeldClaim, { outcome, cause, unlessCompleted }: Execution): Promise<void> {
    if (outcome === undefined && unlessCompleted === undefined) return this.#leave(held, cause)
    // The application has acknowledged it while its handler ran.
    if (held.state === 'acking' || held.state === 'over') return
    if (held.inTransaction !== undefined && (await this.#endedInTransaction(held))) {
      if (cause !== undefined && held.abortedBecause !== 'shutdown') reportLateError(this.parts.report, held, cause)
      return
    }
    const { outcome: otherwise, cause: reason } = unlessCompleted?.() ?? { outcome, cause }
    await this.#record(held, otherwise!, reason)
  }

  /** Whether a transaction of the application has acknowledged a claim and has committed. Then that is the end of it. */
  async #endedInTransaction(held: HeldClaim): Promise<boolean> {
    if (held.inTransaction === undefined) return false
    if (held.state === 'running') held.state = 'acking'
    const answer = await this.#acks.ask(held.fence, held.inTransaction.outcome)
    if (typeof answer === 'string') return false
    this.#endInTransaction(held, answer)
    return true
  }

  #inTx(held: HeldClaim): TxClaim {
    const { control, registration, runner } = this.parts
    const { queue, worker } = registration
    return {
      held,
      queue,
      worker,
      stands: () => control.run((db) => claimStands(db, { held, queue, worker })),
      onAcknowledged: () => {
        // Otherwise the end of the handler is the time to ask.
        if (!runner.autoAck) void this.#untilCommitted(held)
      },
    }
  }

  #handOut(held: HeldClaim, task: Claim<Args>): void {
    const inTx = this.#inTx(held)
    const { onRetryFailure } = this.parts.runner
    const record = (outcome: AckOutcome, cause: unknown) => {
      const recording = this.#record(held, outcome, cause)
      this.#tasks.add(recording)
      held.dismiss()
      return recording
    }
    handOut(task, { ...inTx, keeper: { ...inTx, onRetryFailure, record } })
  }

  /** Waits for the application to acknowledge the claim. What it keeps beyond the end of the worker goes back. */
  async #leave(held: HeldClaim, cause: unknown): Promise<void> {
    if (cause !== undefined && held.abortedBecause !== 'shutdown' && held.state !== 'lost') {
      const operation = 'running a handler without autoAck'
      const message = `the handler of task ${held.id} failed: ${inWords(cause)}; its claim waits for storage.ack`
      this.parts.report('error', message, { type: 'worker.error', operation, cause })
    }
    this.#unacknowledged += 1
    await held.dismissed
    this.#unacknowledged -= 1
    if (held.state !== 'running' && held.state !== 'lost') return
    if (!(await this.#endedInTransaction(held))) await this.#record(held, { status: 'Pending' })
  }

  /** Offers an outcome to the database, unless the claim is lost already, and reports what became of it. */
  async #record(held: HeldClaim, outcome: AckOutcome, cause?: unknown): Promise<AckAnswer> {
    const { report } = this.parts
    if (held.lostBecause !== undefined) {
      reportLostClaim(report, held, held.lostBecause)
      return 'stale'
    }
    held.state = 'acking'
    const answer = await this.#acks.submit(held.fence, outcome, held.inTransaction?.outcome)
    if (typeof answer !== 'string' && answer.inTransaction) {
      this.#endInTransaction(held, answer)
      return answer
    }
    this.#end(held)
    if (answer === 'stale') reportLostClaim(report, held, await this.#whyLost(held))
    else if (answer === 'given-up' && held.inTransaction !== undefined) reportUnknown(report, held)
    else reportOutcome(report, held, outcome, answer, cause)
    return answer
  }

  #end(held: HeldClaim): void {
    held.state = 'over'
    if (this.#held.get(held.id) === held) this.#held.delete(held.id)
  }

  /** A transaction of the application has acknowledged it. */
  #endInTransaction(held: HeldClaim, answer: Exclude<AckAnswer, string>): void {
    this.#end(held)
    const { outcome, cause } = held.inTransaction!
    reportOutcome(this.parts.report, held, outcome, answer, cause)
    held.dismiss()
  }

  /** Looks whether the transaction that acknowledged a claim has committed, until a heartbeat would tell anyway. */
  async #untilCommitted(held: HeldClaim): Promise<void> {
    const { keepAliveMs } = this.parts.settings
    for (let ms = FIRST_LOOK_MS; ms < keepAliveMs && held.state === 'running'; ms *= 2) {
      await new Promise((resolve) => setTimeout(resolve, ms).unref())
      if (held.state === 'running') await this.#settle(held)
    }
  }

  /** Ends a claim if a transaction has acknowledged it. While its handler runs, that is left to the end of the handler. */
  async #settle(held: HeldClaim): Promise<AckAnswer> {
    const answer = await this.#acks.ask(held.fence, held.inTransaction!.outcome)
    const isEnded = typeof answer !== 'string' && !this.parts.runner.autoAck && held.state === 'running'
    if (isEnded) this.#endInTransaction(held, answer)
    return answer
  }

  #handBackBuffer(): void {
    for (const held of this.#buffer.splice(0)) this.#tasks.add(this.#record(held, { status: 'Pending' }))
  }

  #abortAll(): void {
    for (const held of this.#held.values()) {
      if (held.state !== 'running') continue
      held.abort('shutdown')
      held.dismiss()
    }
  }

  /** Claims that the database no longer counts as ours are lost; tasks that only the database counts as ours go back. */
  #reconcile(beat: Heartbeat, sentAt: number): void {
    const owned = new Map(beat.owned.map((fence) => [fence.id, fence]))
    const missing = [...this.#held.values()].filter(
      (held) => held.state !== 'acking' && held.heldSince <= sentAt && !held.isClaimOf(owned.get(held.id)),
    )
    if (missing.length > 0) this.#tasks.add(this.#letGo(missing))
    const unknown = beat.owned.filter((fence) => !this.holds(fence) && !this.parts.heldEarlier(fence))
    const strays = this.#strays.seen(unknown, { sentAt, receivedAt: performance.now() }, this.#claimSentAt)
    for (const stray of strays) this.#tasks.add(this.#handBackStray(stray))
  }

  async #letGo(missing: readonly HeldClaim[]): Promise<void> {
    // None of them is to start meanwhile.
    for (const held of missing) this.#unbuffer(held)
    const cancelled = await this.#cancelledAmong(missing)
    for (const held of missing) {
      if (cancelled.has(held.id)) this.#forget(held, 'cancelled')
      else if (held.inTransaction === undefined) this.#forget(held, 'claim-lost')
      else this.#tasks.add(this.#forgetUnlessAcknowledged(held))
    }
  }

  /** Its handler goes on when a transaction of the application, and not somebody else, has ended the claim. */
  async #forgetUnlessAcknowledged(held: HeldClaim): Promise<void> {
    if ((await this.#settle(held)) === 'stale') this.#forget(held, 'claim-lost')
  }

  async #dropCancelled(): Promise<void> {
    this.#lookingForCancelled = true
    let seen: number
    do {
      seen = this.#cancelHints
      const claims = [...this.#held.values()]
      const cancelled = await this.#cancelledAmong(claims)
      for (const held of claims) if (cancelled.has(held.id)) this.#forget(held, 'cancelled')
    } while (seen !== this.#cancelHints)
    this.#lookingForCancelled = false
  }

  async #whyLost(held: HeldClaim): Promise<LossReason> {
    return (await this.#cancelledAmong([held])).has(held.id) ? 'cancelled' : 'claim-lost'
  }

  /** The ids of those that were cancelled; none when the database does not say, which the next heartbeat makes good. */
  async #cancelledAmong(claims: readonly HeldClaim[]): Promise<ReadonlySet<string>> {
    if (claims.length === 0) return new Set()
    const { control, registration, outages } = this.parts
    const operation = 'looking for cancelled tasks'
    const fences = claims.map(({ fence }) => fence)
    try {
      const ids = await control.run((db) => findCancelled(db, registration.queue, registration.worker, fences))
      outages.worked(operation)
      return ids
    } catch (error) {
      outages.failed(operation, error)
      return new Set()
    }
  }

  /**
   * A claim that is lost without having been acknowledged. A running handler ends in `record`, which reports it. One that is
   * being acknowledged learns it from the database.
   */
  #forget(held: HeldClaim, why: LossReason): void {
    const { state } = held
    if (state !== 'buffered' && state !== 'running') return
    held.lose(why)
    if (this.#held.get(held.id) === held) this.#held.delete(held.id)
    this.#unbuffer(held)
    if (state === 'buffered') reportLostClaim(this.parts.report, held, why)
  }

  #unbuffer(held: HeldClaim): void {
    const place = this.#buffer.indexOf(held)
    if (place !== -1) this.#buffer.splice(place, 1)
  }

  /** The answer of its claim was lost on the way, so nobody works on it. If it is no longer ours either, all is well. */
  async #handBackStray(fence: Fence): Promise<void> {
    const answer = await this.#acks.submit(fence, { status: 'Pending' })
    if (typeof answer === 'string') return
    const ended = { id: fence.id as TaskId, attempt: fence.attempts + 1 }
    const message = `returned task ${ended.id} to the queue uncharged: the answer of its claim was lost`
    this.parts.report('warn', message, { type: 'task.deferred', ...ended })
  }

  async #markRunning(): Promise<void> {
    const now = performance.now()
    const started = [...this.#held.values()].filter(
      (held) => held.shownAsQueued && held.runningFor(now) >= MARK_AFTER_MS,
    )
    if (started.length === 0) return
    const { control, registration, outages } = this.parts
    const operation = 'marking tasks as running'
    // So that the next tick does not mark them again while this one has no answer yet.
    for (const held of started) held.shownAsQueued = false
    const fences = started.map(({ fence }) => fence)
    let marked: ReadonlySet<string> = new Set()
    try {
      marked = await control.run((db) => markRunning(db, registration.queue, registration.worker, fences))
      outages.worked(operation)
    } catch (error) {
      outages.failed(operation, error)
    }
    // The others are locked by a transaction, so they are tried again.
    for (const held of started) held.shownAsQueued = !marked.has(held.id)
  }

  #lose(cause: unknown, refused: boolean): void {
    const next = this.#state === 'working' ? ' Registering again.' : ''
    this.#state = 'lost'
    clearInterval(this.#marking)
    void this.#claims.stop()
    this.parts.report('error', `lost its registration: ${inWords(cause)}${next}`, { type: 'heartbeat.lost', cause })
    this.#handBackBuffer()
    for (const held of this.#held.values()) {
      if (held.state !== 'running') continue
      if (refused) this.#forget(held, 'claim-lost')
      else held.abort('claim-lost')
    }
  }

  /** Whoever pressed Ctrl-C wants to know why the process is still there. */
  #reportWait(leftMs: number): void {
    const running = [...this.#held.values()].filter(({ state }) => state === 'running').length
    if (running === 0 || leftMs <= 0) return
    const tasks = running === 1 ? '1 task' : `${running} tasks`
    const message = `is stopping; ${tasks} may take ${Math.ceil(leftMs / 1_000)} s more, and then will be aborted`
    this.parts.report('warn', message, { type: 'worker.stopping', running })
  }

  #reportOverrun({ id, attempt, abortedBecause }: HeldClaim): void {
    const message = `task ${id} ignores its signal (${abortedBecause}) and keeps its slot until its handler returns`
    this.parts.report('warn', message, { type: 'task.overrun', id, attempt })
  }
}
