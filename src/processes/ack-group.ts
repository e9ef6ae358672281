/**
 * Acknowledgements, grouped: those that become ready while a statement is under way share the next one. Under load this
 * turns hundreds of commits into one; an idle worker's ack leaves at once.
 *
 * A technical failure is retried for as long as the claim is held: a handler that has done its work is not run again
 * because a connection broke. One outcome that the server refuses does not fail its neighbours.
 */
import { ack, acknowledgedEarlier } from '../statements/ack.js'
import { isConnectionFailure, isDataError, isTransient } from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import type { AckOutcome, Fence } from '../vocabulary/outcome.js'
import { errResult } from '../vocabulary/result.js'
import { Wakeup } from './wakeup.js'

/** Acks in one statement. */
const MAX_GROUP = 500
const FIRST_RETRY_MS = 50
const MAX_RETRY_MS = 2_000

/** The status that was written, or why none was. */
export type AckAnswer = { readonly written: string } | 'stale' | 'given-up'

/** What of a claim an acknowledgement needs. */
export interface Acknowledgeable {
  readonly fence: Fence
  /** `over` says that the claim is lost, so that nothing is sent any more. */
  readonly state: string
}

interface Entry {
  readonly claim: Acknowledgeable
  readonly outcome: AckOutcome
  readonly answer: (answer: AckAnswer) => void
}

export class AckGroup {
  #waiting: Entry[] = []
  #flushing: Promise<void> | undefined
  #givingUp = false
  readonly #retry = new Wakeup()

  constructor(
    private readonly db: Db,
    private readonly queue: string,
    private readonly worker: string,
    /** Told of each failed statement before it is tried again. */
    private readonly onFailure: (error: unknown) => void,
  ) {}

  /** Never rejects. */
  submit(claim: Acknowledgeable, outcome: AckOutcome): Promise<AckAnswer> {
    return new Promise((answer) => {
      this.#waiting.push({ claim, outcome, answer })
      this.#flushing ??= this.#flush()
    })
  }

  /** Ends retries: what the database does not take now is left to the sweep of other workers. */
  giveUp(): void {
    this.#givingUp = true
    this.#retry.wake()
  }

  async #flush(): Promise<void> {
    while (this.#waiting.length > 0) await this.#acknowledge(this.#waiting.splice(0, MAX_GROUP))
    this.#flushing = undefined
  }

  async #acknowledge(group: readonly Entry[]): Promise<void> {
    let answerLost = false
    for (let delayMs = FIRST_RETRY_MS; ; delayMs = Math.min(delayMs * 2, MAX_RETRY_MS)) {
      const entries = this.#stillHeld(group)
      if (entries.length === 0) return
      try {
        return settle(entries, await this.#write(entries, answerLost))
      } catch (error) {
        if (isDataError(error)) return this.#acknowledgeApart(entries)
        this.onFailure(error)
        if (this.#givingUp) return giveUp(entries)
        answerLost ||= isConnectionFailure(error)
        await this.#retry.wait(isTransient(error) ? FIRST_RETRY_MS : jittered(delayMs))
      }
    }
  }

  async #write(entries: readonly Entry[], answerLost: boolean): Promise<Map<string, string>> {
    const acks = entries.map(({ claim, outcome }) => ({ fence: claim.fence, outcome }))
    const written = await ack(this.db, this.queue, this.worker, acks)
    if (!answerLost || written.size === entries.length) return written
    // An earlier attempt may have been stored although its answer was lost: then this one finds the claim gone.
    const missing = acks.filter(({ fence }) => !written.has(fence.id))
    const earlier = await acknowledgedEarlier(this.db, this.queue, this.worker, missing)
    return new Map([...written, ...earlier])
  }

  /** The server refused a value: the halves are tried apart until the culprit stands alone. */
  async #acknowledgeApart(entries: readonly Entry[]): Promise<void> {
    const [first] = entries
    if (entries.length === 1 && first !== undefined) return this.#replaceResult(first)
    const middle = Math.ceil(entries.length / 2)
    await this.#acknowledge(entries.slice(0, middle))
    await this.#acknowledge(entries.slice(middle))
  }

  /** The work is done and is not repeated, so the task ends; its result cannot be told. */
  async #replaceResult(entry: Entry): Promise<void> {
    const { outcome } = entry
    if (outcome.status === 'Killed') return giveUp([entry])
    const result = errResult(
      new Error('The database refused to store the result of this task. It ran and is not run again.'),
    )
    await this.#acknowledge([{ ...entry, outcome: { status: 'Killed', result } }])
  }

  #stillHeld(group: readonly Entry[]): Entry[] {
    const lost = group.filter(({ claim }) => claim.state === 'over')
    for (const { answer } of lost) answer('stale')
    return group.filter((entry) => !lost.includes(entry))
  }
}

function settle(entries: readonly Entry[], written: ReadonlyMap<string, string>): void {
  for (const { claim, answer } of entries) {
    const status = written.get(claim.fence.id)
    answer(status === undefined ? 'stale' : { written: status })
  }
}

function giveUp(entries: readonly Entry[]): void {
  for (const { answer } of entries) answer('given-up')
}

function jittered(ms: number): number {
  return ms * (0.5 + Math.random())
}
