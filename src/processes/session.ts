/**
 * The work of one registration: claim tasks, run them in the free slots, acknowledge them, keep the registration alive.
 *
 * - working: claims while there is room. Left by `drain`, and when the heartbeat finds the registration lost.
 * - draining: claims nothing more, hands unstarted tasks back, lets handlers finish and then aborts them.
 * - lost: claims nothing more and aborts its handlers. The worker begins a new session. What comes of the claims is still
 *   offered to the database, because after an outage they are good as long as nobody has taken the tasks. Where the
 *   database itself has refused the heartbeat somebody has, so of handlers that run then nothing is recorded.
 */
import { claim, claimAbove } from '../statements/claim.js'
import { nextDueMs } from '../statements/next-due.js'
import type { ClaimedRow } from '../vocabulary/claimed-row.js'
import type { Claim } from '../vocabulary/claim.js'
import type { AckOutcome, Fence } from '../vocabulary/outcome.js'
import type { WorkerSettings } from '../vocabulary/settings.js'
import { AckGroup } from './ack-group.js'
import { claimStands, type TxClaim } from './ack-in-tx.js'
import { CancellationWatch } from './cancellation-watch.js'
import { ClaimLoop } from './claim-loop.js'
import { ClaimsUnderWay } from './claims-under-way.js'
import type { ControlClient } from './control-client.js'
import { within, type Deadlines } from './deadlines.js'
import { handOut } from './handed-out.js'
import { HeldClaim } from './held-claim.js'
import { HeldClaims } from './held-claims.js'
import type { IdleWatch } from './idle-watch.js'
import { InFlight } from './in-flight.js'
import { KeepAlive } from './keep-alive.js'
import { onNextTurn } from './next-turn.js'
import type { Outages } from './outages.js'
import { OutcomeRecorder } from './outcome-recorder.js'
import { reportLateError, reportOrphans, reportOverrun, reportSilence, reportWait } from './outcome-report.js'
import { Prefetch } from './prefetch.js'
import { Reconciliation } from './reconciliation.js'
import type { Registration } from './registration.js'
import { inWords, type Report } from './report.js'
import { ABORT_GRACE_MS, runTask, type Execution, type RunHooks, type TaskRunner } from './run-task.js'
import { RunningMarks } from './running-marks.js'
import { ScanFloor, type Look } from './scan-floor.js'
import type { Slots } from './slots.js'
import type { StuckSlots } from './stuck-slots.js'

/** A stop that takes no longer surprises nobody. */
const TELL_AFTER_MS = 1_000
/** Tasks in one claim. Larger ones are no faster, and leave no room for one beside them. */
const MAX_CLAIM = 500
/** How long tasks that were claimed ahead may wait beyond what would be claimed ahead by now. */
const SURPLUS_MS = 1_000

export interface SessionParts<Args, Result> {
  readonly control: ControlClient
  readonly registration: Registration
  /** `Date.now()` before the registration was sent. */
  readonly registeredAt: number
  readonly settings: WorkerSettings
  readonly deadlines: Deadlines
  readonly slots: Slots
  readonly stuckSlots: StuckSlots
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
  readonly #held: HeldClaims
  /** Claims whose handler is through, and which wait for the application to acknowledge them. */
  #unacknowledged = 0
  /** Whatever is under way with a held claim that is not buffered, and the hand-backs of strays. */
  readonly #tasks = new InFlight(() => this.#offerRoom())
  readonly #underWay = new ClaimsUnderWay()
  readonly #acks: AckGroup
  readonly #keepAlive: KeepAlive
  readonly #claims: ClaimLoop
  readonly #scanFloor: ScanFloor
  readonly #cancellations: CancellationWatch
  readonly #recorder: OutcomeRecorder
  readonly #marks: RunningMarks
  readonly #prefetch: Prefetch
  readonly #surplus: ReturnType<typeof setInterval> | undefined
  readonly #hooks: RunHooks<Args> = {
    inTx: (held) => this.#inTx(held),
    handOut: (held, task) => this.#handOut(held, task),
  }

  constructor(private readonly parts: SessionParts<Args, Result>) {
    const { control, registration, registeredAt, settings, deadlines, runner, report, outages, heldEarlier } = parts
    const tasks = this.#tasks
    let lost: () => void = () => undefined
    this.lost = new Promise((resolve) => (lost = resolve))
    const held = new HeldClaims(report)
    this.#held = held
    const growsBuffer = settings.growsBuffer && !parts.onDemand
    this.#prefetch = new Prefetch(settings.bufferSize, growsBuffer)
    if (growsBuffer) this.#surplus = setInterval(() => this.#handBackSurplus(), SURPLUS_MS)
    this.#acks = new AckGroup(control, registration.queue, registration.worker, {
      onFailure: (error) => outages.failed('acknowledging tasks', error),
      onRecovery: () => outages.worked('acknowledging tasks'),
    })
    const cancellations = new CancellationWatch({ control, registration, outages, held, tasks })
    this.#cancellations = cancellations
    const { autoAck } = runner
    const { keepAliveMs } = settings
    const recorder = new OutcomeRecorder({ held, acks: this.#acks, cancellations, report, autoAck, keepAliveMs })
    this.#recorder = recorder
    this.#marks = new RunningMarks({ control, registration, outages, held })
    const reconciliation = new Reconciliation({ held, cancellations, recorder, tasks, heldEarlier }, deadlines.strayMs)
    this.#keepAlive = new KeepAlive(control, registration, registeredAt, settings, {
      onBeat: (beat, sentAt) => reconciliation.reconcile(beat, sentAt, this.#underWay.firstSentAt),
      onSwept: (orphans) => reportOrphans(report, orphans, 'silent workers'),
      onSilence: (silentMs) => reportSilence(report, silentMs),
      onFailure: (operation, error) => outages.failed(operation, error),
      onSuccess: (operation) => outages.worked(operation),
      onLost: (cause, refused) => {
        this.#lose(cause, refused)
        lost()
      },
    })
    this.#scanFloor = new ScanFloor({
      working: () => this.#state === 'working',
      mustBeSure: () => parts.idleWatch.asked,
    })
    this.#claims = new ClaimLoop(settings.pollIntervalMs, {
      room: () => this.#room(),
      claim: (limit) => this.#underWay.run(limit, () => this.#claim(limit)),
      nextDueMs: () => control.run((db) => nextDueMs(db, registration.queue)),
      listening: parts.listening,
      hurried: () => parts.idleWatch.asked && held.size === 0,
      onFailure: (error) => outages.failed('claiming tasks', error),
      onSuccess: () => outages.worked('claiming tasks'),
    })
  }

  /** Tells that a slot became free, or that somebody waits for the worker to be idle. */
  wake(): void {
    this.#fillSlots()
    this.#offerRoom()
  }

  /** Tells that there may be a new task. */
  hint(): void {
    this.#claims.hint()
  }

  /** Tells that tasks of this worker may have been cancelled. */
  lookForCancelled(): void {
    this.#cancellations.look()
  }

  /**
   * Stops claiming, hands back what has not started, and waits for the handlers; those that run longer are aborted.
   * Resolves soon after `timeoutMs` at the latest, whatever handlers and database do.
   */
  async drain(timeoutMs: number): Promise<void> {
    if (this.#state === 'working') this.#state = 'draining'
    const aborting = setTimeout(() => this.#abortAll(), timeoutMs)
    const telling = setTimeout(
      () => reportWait(this.parts.report, this.#held.running, timeoutMs - TELL_AFTER_MS),
      TELL_AFTER_MS,
    )
    await within(timeoutMs + ABORT_GRACE_MS + this.parts.deadlines.lastCallMs, this.settled(), () => undefined)
    clearTimeout(aborting)
    clearTimeout(telling)
    this.#marks.stop()
    clearInterval(this.#surplus)
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
    return this.#held.holds(claim)
  }

  /** Whether a handler runs, or the application has yet to acknowledge a claim. */
  get running(): boolean {
    return this.#held.running > 0
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
   * How many tasks to claim: none until half of the buffer or the largest claim is used up, so that claims under load are
   * large. What claims under way may bring counts as if it was here. Outcomes on their way count as far as they are more than
   * a buffer, so that a database that takes no acknowledgements is not asked for more tasks, and claims are not small while
   * it takes them; and so do those that the application has yet to tell, so that one which never does is not handed the
   * whole queue. With every slot stuck none are claimed, except one by one for those who wait for the queue to be empty,
   * which goes back.
   */
  #room(): number {
    const { slots, onDemand, idleWatch } = this.parts
    if (this.#stuck) return idleWatch.asked ? 1 : 0
    const ahead = this.#prefetch.size(this.#held.ended)
    // Those that are about to start do not wait.
    const waiting = this.#held.buffered + this.#underWay.promised - slots.free
    if (waiting > Math.max(ahead / 2, ahead - MAX_CLAIM)) return 0
    const acking = Math.max(this.#acks.underWay - ahead, 0)
    const unacknowledged = onDemand ? 0 : this.#unacknowledged
    return Math.min(ahead - waiting - acking - unacknowledged, MAX_CLAIM)
  }

  /** Most of what ends makes no room: waking the loop each time would cost more than the task. */
  #offerRoom(): void {
    if (this.#room() > 0 || this.parts.idleWatch.asked) this.#claims.wake()
  }

  async #claim(limit: number): Promise<number> {
    const wasIdle = this.#held.size === 0 && this.#underWay.promised === limit
    const { hints } = this.#cancellations
    const { rows, nothingDueAt } = await this.#scanFloor.claim(this.#look(limit))
    for (const row of rows) this.#hold(row)
    // They may have been meant although their claim was still on its way.
    if (hints !== this.#cancellations.hints) this.#cancellations.look()
    // Where there may be more, the next claim leaves before these run: the database works while they do.
    if (rows.length === limit) onNextTurn(() => this.#fillSlots())
    else this.#fillSlots()
    if (this.#state !== 'working') this.#handBackBuffer()
    else if (this.#stuck) this.#giveWay()
    if (wasIdle && nothingDueAt !== undefined) this.parts.idleWatch.noteIdle(nothingDueAt)
    // As if there were no more, so that the next look is not at once.
    return this.#stuck ? 0 : rows.length
  }

  #look(limit: number): Look {
    const { control, registration, settings, slots } = this.parts
    const { queue, worker, leaseToken } = registration
    return (floors) => {
      const earlier = this.#held.buffered + this.#underWay.promised - limit
      const running = Math.max(slots.free - earlier, 0)
      const request = { queue, worker, leaseToken, limit, running, thresholdMs: settings.reenqueueOrphanedAfterMs }
      return control.run((db) => (floors === undefined ? claim(db, request) : claimAbove(db, request, floors)))
    }
  }

  #hold(row: ClaimedRow): void {
    const earlier = this.#held.of(row.id)
    // One that is being acknowledged became claimable by just that, or learns from the database that it is stale.
    if (earlier !== undefined && earlier.state !== 'acking') this.#supersede(earlier, row)
    const held = new HeldClaim(row)
    this.#held.add(held)
    const { id, attempt } = held
    this.parts.report('debug', `claimed task ${id} for attempt ${attempt}`, { type: 'task.claimed', id, attempt })
  }

  /** A claim whose task was claimed again. */
  #supersede(earlier: HeldClaim, row: ClaimedRow): void {
    const failedInTransaction = earlier.inTransaction?.outcome.status === 'Failed' && row.attempts === earlier.attempt
    if (failedInTransaction) this.#recorder.endInTransaction(earlier, { written: 'Failed', inTransaction: true })
    else this.#held.forget(earlier, 'claim-lost')
  }

  #fillSlots(): void {
    while (this.#state === 'working' && this.parts.slots.free > 0) {
      const next = this.#held.next()
      if (next === undefined) return
      this.#run(next)
    }
  }

  async #untilEach(isSo: (held: HeldClaim) => boolean): Promise<void> {
    while (!this.#held.all().every(isSo)) await this.#tasks.nextEnd()
  }

  #run(held: HeldClaim): void {
    const { slots, runner } = this.parts
    slots.take()
    held.start()
    this.#tasks.begin()
    runTask(held, runner, this.#hooks, (execution) => {
      // It counts as under way until the database knows, and its slot is free from now on.
      this.#tasks.endWith(this.#conclude(held, execution))
      this.#free(held, execution)
    })
  }

  #free(held: HeldClaim, { overrun }: Execution): void {
    const { slots, stuckSlots, report } = this.parts
    if (overrun === undefined) return slots.release()
    reportOverrun(report, held)
    slots.keep(overrun, () => stuckSlots.ended())
    if (this.#stuck) this.#giveWay()
  }

  #conclude(held: HeldClaim, execution: Execution): Promise<unknown> {
    const { outcome, cause, unlessCompleted } = execution
    if (outcome === undefined && unlessCompleted === undefined) return this.#leave(held, cause)
    // The application has acknowledged it while its handler ran.
    if (held.state === 'acking' || held.state === 'over') return Promise.resolve()
    if (held.inTransaction !== undefined) return this.#concludeAfterTransaction(held, execution)
    return this.#record(held, execution)
  }

  /** A transaction of the application may have acknowledged it. */
  async #concludeAfterTransaction(held: HeldClaim, execution: Execution): Promise<void> {
    const { cause } = execution
    if (!(await this.#recorder.endedInTransaction(held))) await this.#record(held, execution)
    else if (cause !== undefined && held.abortedBecause !== 'shutdown') reportLateError(this.parts.report, held, cause)
  }

  #record(held: HeldClaim, { outcome, cause, unlessCompleted }: Execution): Promise<unknown> {
    if (unlessCompleted === undefined) return this.#recorder.record(held, outcome!, cause)
    const otherwise = unlessCompleted()
    return this.#recorder.record(held, otherwise.outcome!, otherwise.cause)
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
        if (!runner.autoAck) void this.#recorder.untilCommitted(held)
      },
    }
  }

  #handOut(held: HeldClaim, task: Claim<Args>): void {
    const inTx = this.#inTx(held)
    const { onRetryFailure } = this.parts.runner
    const record = (outcome: AckOutcome, cause: unknown) => {
      const recording = this.#recorder.record(held, outcome, cause)
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
    if (!(await this.#recorder.endedInTransaction(held))) await this.#recorder.record(held, { status: 'Pending' })
  }

  /** Whether no task can start. Consumers of a poll take theirs without holding a slot. */
  get #stuck(): boolean {
    return !this.parts.onDemand && this.parts.slots.stuck
  }

  /** Leaves the buffer to other processes: under our heartbeat its tasks would wait for as long as the handlers hang. */
  #giveWay(): void {
    const { slots, stuckSlots } = this.parts
    stuckSlots.began(slots.size, this.#held.buffered)
    this.#handBackBuffer()
  }

  /** @param keep - How many stay. */
  #handBackBuffer(keep = 0): void {
    for (const held of this.#held.emptyBuffer(keep)) this.#tasks.add(this.#recorder.record(held, { status: 'Pending' }))
  }

  /** Tasks have become slow: those that were claimed ahead while they were fast may start sooner elsewhere. */
  #handBackSurplus(): void {
    this.#handBackBuffer(this.parts.slots.free + this.#prefetch.size(this.#held.ended))
  }

  #abortAll(): void {
    for (const held of this.#held.all()) {
      if (held.state !== 'running') continue
      held.abort('shutdown')
      held.dismiss()
    }
  }

  #lose(cause: unknown, refused: boolean): void {
    const next = this.#state === 'working' ? ' Registering again.' : ''
    this.#state = 'lost'
    this.#marks.stop()
    clearInterval(this.#surplus)
    void this.#claims.stop()
    this.parts.report('error', `lost its registration: ${inWords(cause)}${next}`, { type: 'heartbeat.lost', cause })
    this.#handBackBuffer()
    for (const held of this.#held.all()) {
      if (held.state !== 'running') continue
      if (refused) this.#held.forget(held, 'claim-lost')
      else held.abort('claim-lost')
    }
  }
}
