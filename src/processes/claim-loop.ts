/**
 * Looks for due tasks while there is room for more, one look at a time. Only while claims are large two are under way, so
 * that the server works on one while this process reads the other. Each pair costs the server a multixact, because both
 * read the foreign key's worker row, which small claims would not be worth, and which of them gets the earlier tasks is up
 * to the server.
 *
 * - full: there is no room. Waits until `wake` says that there may be.
 * - busy: a claim brought as many tasks as there was room for. Claims again as soon as there is room.
 * - pausing: a claim brought fewer, so no more were due. Waits for the poll backoff, for the next task to become due, or
 *   for a hint, whichever comes first; that there is more room does not shorten it. A hint causes one claim and leaves the
 *   backoff as it is, so that many idle workers do not pounce on every new task; only found work resets it.
 * - failing: a look failed. Waits, longer each time.
 *
 * An idle worker, whose polls are far apart, asks when the next task is due instead of claiming: one read that tells both
 * whether to claim and when to look again.
 */
import { firstPoll, nextPoll, withJitter, type Poll, type PollInterval } from '../vocabulary/poll-backoff.js'
import { Wakeup } from './wakeup.js'

const FIRST_FAILURE_MS = 100
const MAX_FAILURE_BACKOFF_MS = 5_000
/** Polls this far apart need to know when the next task is due; closer ones find it soon enough. */
const IDLE_MS = 250
/** A timer may fire a little early, and the task is not due before its time by the database's clock. */
const TIMER_MARGIN_MS = 1
/** Claims for so many tasks are large. */
const LARGE = 200

export interface ClaimLoopHooks {
  /** How many more tasks there is room for. */
  room(): number
  /** Claims up to `limit` tasks. @returns How many. */
  claim(limit: number): Promise<number>
  /** Milliseconds until the next task is due; `undefined` when none waits. */
  nextDueMs(): Promise<number | undefined>
  /** Whether new tasks are announced. */
  listening(): boolean
  /** Whether the next look should come at once. */
  hurried(): boolean
  onFailure(error: unknown): void
  /** A look was answered, whatever it found. */
  onSuccess(): void
}

export class ClaimLoop {
  readonly #wakeup = new Wakeup()
  readonly #running: Promise<void>
  /** The claims beside those of the loop. */
  #beside: Promise<void> | undefined
  #hinted = false
  #stopped = false

  constructor(
    private readonly interval: PollInterval,
    private readonly hooks: ClaimLoopHooks,
  ) {
    this.#running = this.#run()
  }

  /** Tells that there may be room, or a hurry. */
  wake(): void {
    this.#wakeup.wake()
  }

  /** Tells that there may be a new task. */
  hint(): void {
    this.#hinted = true
    this.#wakeup.wake()
  }

  /** Resolves when no claim is under way any more. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#wakeup.wake()
    await this.#running
    await this.#beside
  }

  async #run(): Promise<void> {
    let poll = firstPoll(this.interval)
    let failureMs = FIRST_FAILURE_MS
    let look: 'claim' | 'ask' = 'claim'
    const answered = () => {
      failureMs = FIRST_FAILURE_MS
      this.hooks.onSuccess()
    }
    while (!this.#stopped) {
      const room = this.hooks.room()
      if (room <= 0) {
        await this.#wakeup.wait()
        continue
      }
      try {
        const ask = look === 'ask' && !this.#hurried()
        const due = ask ? await this.#askNextDue() : { ms: 0 }
        if (due === 'cut short') {
          look = 'claim'
          continue
        }
        let dueMs = due.ms
        if (dueMs !== undefined && dueMs <= 0) {
          const hinted = this.#takeHint()
          const found = await this.hooks.claim(room)
          if (found === room) {
            answered()
            if (room >= LARGE) this.#beside ??= this.#claimBeside()
            continue
          }
          poll = nextPoll(poll, this.interval, found > 0, this.hooks.listening())
          const isIdle = poll.delayMs >= IDLE_MS && found === 0
          const next = (isIdle || hinted) && !ask && !this.#hurried() ? await this.#askNextDue() : 'cut short'
          dueMs = next === 'cut short' ? undefined : next.ms
        } else {
          poll = nextPoll(poll, this.interval, false, this.hooks.listening())
        }
        answered()
        look = await this.#pause(poll, dueMs)
      } catch (error) {
        this.hooks.onFailure(error)
        await this.#wait(failureMs, () => false)
        failureMs = Math.min(failureMs * 2, MAX_FAILURE_BACKOFF_MS)
      }
    }
  }

  /** While claims are large and bring all they ask for; when one fails the loop will meet the same. */
  async #claimBeside(): Promise<void> {
    try {
      for (let room = this.hooks.room(); room >= LARGE && !this.#stopped; room = this.hooks.room()) {
        if ((await this.hooks.claim(room)) < room) break
        this.hooks.onSuccess()
      }
    } catch (error) {
      this.hooks.onFailure(error)
    }
    this.#beside = undefined
    // The loop may wait for the room that was promised to these.
    this.#wakeup.wake()
  }

  /** Until there is a hint: a task that has just arrived does not wait for the answer, which is old by then. */
  async #askNextDue(): Promise<{ readonly ms: number | undefined } | 'cut short'> {
    let answer: { readonly ms: number | undefined } | { readonly error: unknown } | undefined
    const answered = (outcome: NonNullable<typeof answer>) => {
      answer = outcome
      this.#wakeup.wake()
    }
    this.hooks.nextDueMs().then(
      (ms) => answered({ ms }),
      (error: unknown) => answered({ error }),
    )
    while (answer === undefined && !this.#stopped && !this.#hurried()) await this.#wakeup.wait()
    if (answer === undefined) return 'cut short'
    if ('error' in answer) throw answer.error
    return answer
  }

  /** @param dueMs - 0 or less for a task that is due and was not claimed, because a transaction holds it: that is no reason to hurry. */
  async #pause(poll: Poll, dueMs: number | undefined): Promise<'claim' | 'ask'> {
    const pollMs = withJitter(poll.delayMs, Math.random())
    if (dueMs !== undefined && dueMs > 0 && dueMs <= pollMs) {
      await this.#wait(dueMs + TIMER_MARGIN_MS, () => this.#hurried())
      return 'claim'
    }
    await this.#wait(pollMs, () => this.#hurried())
    return poll.delayMs >= IDLE_MS && !this.#hinted ? 'ask' : 'claim'
  }

  async #wait(ms: number, cutShort: () => boolean): Promise<void> {
    const until = performance.now() + ms
    while (!this.#stopped && !cutShort()) {
      const left = until - performance.now()
      if (left <= 0) return
      await this.#wakeup.wait(left)
    }
  }

  #hurried(): boolean {
    return this.#hinted || this.hooks.hurried()
  }

  #takeHint(): boolean {
    const hinted = this.#hinted
    this.#hinted = false
    return hinted
  }
}
