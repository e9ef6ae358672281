/**
 * The work of one registration: claim tasks, run them in the free slots, acknowledge them, keep the registration alive.
 *
 * - working: claims while there is room.
 * - draining (after `drain`): claims nothing more, hands unstarted tasks back, lets handlers finish and then aborts them.
 * - lost: the registration is gone. Every claim is lost with it; nothing more is recorded. The worker starts a new session.
 *
 * One claim statement is under way at a time: several would each read the foreign key's worker row and fill the
 * database with multixacts.
 */
import { claim } from '../statements/claim.js'
import type { ClaimedRow } from '../statements/claim.js'
import type { Heartbeat } from '../statements/heartbeat.js'
import { markRunning } from '../statements/mark-running.js'
import { databaseError } from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import type { TaskId } from '../vocabulary/errors.js'
import type { AckOutcome, Fence } from '../vocabulary/outcome.js'
import { firstPoll, nextPoll, withJitter } from '../vocabulary/poll-backoff.js'
import type { WorkerSettings } from '../vocabulary/settings.js'
import { AckGroup } from './ack-group.js'
import type { AckAnswer } from './ack-group.js'
import { HeldClaim } from './held-claim.js'
import { KeepAlive } from './keep-alive.js'
import type { Registration } from './registration.js'
import { inWords } from './report.js'
import type { Report } from './report.js'
import { ABORT_GRACE_MS, runTask } from './run-task.js'
import type { Execution, TaskRunner } from './run-task.js'
import type { Slots } from './slots.js'
import { Strays } from './strays.js'
import { Wakeup } from './wakeup.js'

/** The server ends a claim after 15 s; an answer that comes later was held up on the way. */
const CLAIM_DEADLINE_MS = 16_000
/** Buffered tasks that have run for so long are shown as Running. */
const MARK_AFTER_MS = 1_000
const MAX_FAILURE_BACKOFF_MS = 5_000

export interface SessionParts<Args, Result> {
  readonly db: Db
  readonly registration: Registration
  readonly settings: WorkerSettings
  readonly slots: Slots
  readonly runner: TaskRunner<Args, Result>
  readonly report: Report
}

export class Session<Args, Result> {
  /** Resolves when the registration is lost; pending until then. */
  readonly lost: Promise<unknown>
  #state: 'working' | 'draining' | 'lost' = 'working'
  readonly #held = new Map<string, HeldClaim>()
  readonly #buffer: HeldClaim[] = []
  readonly #tasks = new Set<Promise<void>>()
  readonly #strays = new Strays()
  readonly #wakeup = new Wakeup()
  readonly #acks: AckGroup
  readonly #keepAlive: KeepAlive
  readonly #claiming: Promise<void>
  readonly #marking: ReturnType<typeof setInterval>
  #idle: { readonly since: number; readonly resolve: () => void }[] = []

  constructor(private readonly parts: SessionParts<Args, Result>) {
    const { db, registration, settings } = parts
    let lose: (cause: unknown) => void = () => undefined
    this.lost = new Promise((resolve) => (lose = resolve))
    this.#acks = new AckGroup(db, registration.queue, registration.worker, (error) =>
      this.#reportFailure('acknowledging tasks', error),
    )
    this.#keepAlive = new KeepAlive(db, registration, settings, {
      onBeat: (beat, sentAt) => this.#reconcile(beat, sentAt),
      onSwept: (ids) =>
        parts.report('warn', `returned ${ids.length} tasks of silent workers to the queue`, {
          type: 'orphan.swept',
          ids,
        }),
      onFailure: (operation, error) => this.#reportFailure(operation, error),
      onLost: (cause) => {
        this.#lose()
        lose(cause)
      },
    })
    this.#marking = setInterval(() => void this.#markRunning(), MARK_AFTER_MS)
    this.#claiming = this.#claimLoop()
  }

  /** Resolves when a claim that was sent after `since` (`performance.now()`) found nothing and nothing is held. */
  idleAfter(since: number): Promise<void> {
    return new Promise((resolve) => {
      this.#idle.push({ since, resolve })
      this.#wakeup.wake()
    })
  }

  /** Stops claiming, hands back what has not started, and waits for the handlers; those that run longer are aborted. */
  async drain(timeoutMs: number): Promise<void> {
    if (this.#state === 'working') this.#state = 'draining'
    this.#wakeup.wake()
    const deadline = setTimeout(() => this.#abortAll(), timeoutMs)
    // What the database does not take until then is found by other workers: this process cannot wait for ever.
    const lastCall = setTimeout(() => this.#acks.giveUp(), timeoutMs + ABORT_GRACE_MS + 2_000)
    const unstarted = this.#handBackBuffer()
    await this.#claiming
    await Promise.all([unstarted, ...this.#tasks])
    clearTimeout(deadline)
    clearTimeout(lastCall)
    clearInterval(this.#marking)
    await this.#keepAlive.stop()
  }

  async #claimLoop(): Promise<void> {
    let poll = firstPoll(this.parts.settings.pollIntervalMs)
    let failureMs = poll.delayMs
    while (this.#state === 'working') {
      const room = this.#room()
      if (room === 0) {
        await this.#wakeup.wait()
        continue
      }
      const sentAt = performance.now()
      try {
        const rows = await this.#claim(room)
        this.#accept(rows, sentAt)
        failureMs = poll.delayMs
        // Only a full batch says that there is more.
        if (rows.length === room) continue
        poll = nextPoll(poll, rows.length > 0)
        if (rows.length === 0) this.#noteIdle(sentAt)
        await this.#pause(poll.delayMs, () => this.#askedForIdle())
      } catch (error) {
        this.#reportFailure('claiming tasks', error)
        failureMs = Math.min(failureMs * 2, MAX_FAILURE_BACKOFF_MS)
        await this.#pause(failureMs)
      }
    }
  }

  /** Waits for the time of the next look, through wake-ups that only say that a task has ended. */
  async #pause(ms: number, cutShort: () => boolean = () => false): Promise<void> {
    const until = performance.now() + withJitter(ms, Math.random())
    while (this.#state === 'working' && !cutShort()) {
      const left = until - performance.now()
      if (left <= 0) return
      await this.#wakeup.wait(left)
    }
  }

  /** How many tasks to claim: none until half of the buffer is used up, so that claims under load are large. */
  #room(): number {
    const { bufferSize, concurrency } = this.parts.settings
    if (this.#buffer.length > bufferSize / 2) return 0
    return Math.max(bufferSize + concurrency - this.#held.size, 0)
  }

  async #claim(limit: number): Promise<ClaimedRow[]> {
    const { db, registration, settings, slots } = this.parts
    const { queue, worker, leaseToken } = registration
    const running = Math.max(slots.free - this.#buffer.length, 0)
    return claim(db, { queue, worker, leaseToken, limit, running, thresholdMs: settings.reenqueueOrphanedAfterMs })
  }

  #accept(rows: readonly ClaimedRow[], sentAt: number): void {
    // The heartbeat may have handed the tasks of such a late answer back already; if not, it will.
    if (performance.now() - sentAt > CLAIM_DEADLINE_MS) return
    for (const row of rows) {
      const held = new HeldClaim(row)
      this.#held.get(row.id)?.lose()
      this.#held.set(row.id, held)
      this.#buffer.push(held)
      const { id, attempt } = held
      this.parts.report('debug', `claimed task ${id}, attempt ${attempt}`, { type: 'task.claimed', id, attempt })
    }
    if (this.#state === 'working') this.#fillSlots()
    else if (this.#state === 'draining') this.#track(this.#handBackBuffer())
    else this.#lose()
  }

  #fillSlots(): void {
    while (this.#state === 'working' && this.parts.slots.free > 0) {
      const next = this.#buffer.shift()
      if (next === undefined) return
      this.#track(this.#run(next))
    }
  }

  #track(work: Promise<void>): void {
    const tracked = work.finally(() => {
      this.#tasks.delete(tracked)
      this.#wakeup.wake()
    })
    this.#tasks.add(tracked)
  }

  async #run(held: HeldClaim): Promise<void> {
    const { slots, runner } = this.parts
    slots.take()
    held.start()
    const execution = await runTask(held, runner)
    if (execution.overrun === undefined) slots.release()
    else this.#reportOverrun(held, execution.overrun)
    this.#fillSlots()
    this.#wakeup.wake()
    await this.#record(held, execution)
  }

  #reportOverrun(held: HeldClaim, ended: Promise<void>): void {
    const { id, attempt } = held
    const message = `task ${id} ignores its signal (${held.abortedBecause}) and keeps its slot until its handler returns`
    this.parts.report('warn', message, { type: 'task.overrun', id, attempt })
    void ended.then(() => {
      this.parts.slots.release()
      this.#fillSlots()
      this.#wakeup.wake()
    })
  }

  async #record(held: HeldClaim, { outcome, cause }: Execution): Promise<void> {
    const answer = await this.#acknowledge(held, outcome)
    this.#reportOutcome(held, outcome, answer, cause)
  }

  async #acknowledge(held: HeldClaim, outcome: AckOutcome): Promise<AckAnswer> {
    if (held.state === 'over') return 'stale'
    held.state = 'acking'
    const answer = await this.#acks.submit(held, outcome)
    held.state = 'over'
    if (this.#held.get(held.id) === held) this.#held.delete(held.id)
    return answer
  }

  #reportOutcome(
    { id, attempt }: Pick<HeldClaim, 'id' | 'attempt'>,
    outcome: AckOutcome,
    answer: AckAnswer,
    cause: unknown,
  ): void {
    const { report } = this.parts
    const status = typeof answer === 'string' ? answer : answer.written
    switch (status) {
      case 'Done':
        return report('debug', `finished task ${id}`, { type: 'task.done', id, attempt })
      case 'Failed':
        return report('warn', `attempt ${attempt} of task ${id} failed, ${inWords(cause)}`, {
          type: 'task.failed',
          id,
          attempt,
          cause,
        })
      case 'Killed':
        return report('error', `task ${id} gave up in attempt ${attempt}, ${inWords(cause)}`, {
          type: 'task.killed',
          id,
          attempt,
          cause,
        })
      case 'Pending':
        return report('debug', `returned task ${id} to the queue uncharged`, { type: 'task.deferred', id, attempt })
      case 'given-up':
        return report(
          'error',
          `task ${id} ended as ${outcome.status}, which could not be recorded; it will run again`,
          {
            type: 'task.stale',
            id,
            attempt,
          },
        )
      default:
        return report('warn', `task ${id} ended after its claim was lost; its outcome is not recorded`, {
          type: 'task.stale',
          id,
          attempt,
        })
    }
  }

  async #handBackBuffer(): Promise<void> {
    const unstarted = this.#buffer.splice(0)
    await Promise.all(unstarted.map((held) => this.#record(held, { outcome: { status: 'Pending' } })))
  }

  #abortAll(): void {
    for (const held of this.#held.values()) held.abort('shutdown')
  }

  /** Claims that the database no longer counts as ours are lost; tasks that only the database counts as ours go back. */
  #reconcile(beat: Heartbeat, sentAt: number): void {
    const owned = new Map(beat.owned.map((fence) => [fence.id, fence]))
    for (const held of this.#held.values()) {
      if (held.state === 'acking' || held.heldSince > sentAt || held.isClaimOf(owned.get(held.id))) continue
      this.#forget(held)
    }
    const unknown = beat.owned.filter((fence) => !this.#held.get(fence.id)?.isClaimOf(fence))
    const strays = this.#strays.seen(unknown, performance.now())
    if (strays.length > 0) this.#track(this.#handBackStrays(strays))
  }

  #forget(held: HeldClaim): void {
    const wasBuffered = held.state === 'buffered'
    held.lose()
    this.#held.delete(held.id)
    if (!wasBuffered) return
    this.#buffer.splice(this.#buffer.indexOf(held), 1)
    this.#reportOutcome(held, { status: 'Pending' }, 'stale', undefined)
  }

  /** Their claim's answer was lost on the way, so nobody works on them. */
  async #handBackStrays(strays: readonly Fence[]): Promise<void> {
    const back: AckOutcome = { status: 'Pending' }
    const submitted = strays.map(async (fence) => {
      const answer = await this.#acks.submit({ fence, state: 'acking' }, back)
      this.#reportOutcome({ id: fence.id as TaskId, attempt: fence.attempts + 1 }, back, answer, undefined)
    })
    await Promise.all(submitted)
  }

  async #markRunning(): Promise<void> {
    const now = performance.now()
    const started = [...this.#held.values()].filter(
      (held) => held.shownAsQueued && held.runningFor(now) >= MARK_AFTER_MS,
    )
    if (started.length === 0) return
    const { db, registration } = this.parts
    for (const held of started) held.shownAsQueued = false
    try {
      await markRunning(
        db,
        registration.queue,
        registration.worker,
        started.map(({ fence }) => fence),
      )
    } catch (error) {
      for (const held of started) held.shownAsQueued = true
      this.#reportFailure('marking tasks as running', error)
    }
  }

  #lose(): void {
    this.#state = 'lost'
    // Outcomes under way may still arrive: as long as nobody has taken the tasks, the claims are good.
    for (const held of this.#held.values()) if (held.state !== 'acking') this.#forget(held)
    this.#wakeup.wake()
  }

  #askedForIdle(): boolean {
    return this.#idle.length > 0 && this.#held.size === 0
  }

  #noteIdle(sentAt: number): void {
    if (this.#held.size > 0) return
    const [idle, others] = partition(this.#idle, ({ since }) => sentAt >= since)
    this.#idle = others
    for (const { resolve } of idle) resolve()
  }

  #reportFailure(operation: string, error: unknown): void {
    const cause = databaseError(operation, error)
    this.parts.report('error', `${inWords(cause)} Trying again.`, { type: 'worker.error', operation, cause })
  }
}

function partition<T>(values: readonly T[], test: (value: T) => boolean): [T[], T[]] {
  return [values.filter(test), values.filter((value) => !test(value))]
}
