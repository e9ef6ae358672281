/**
 * Acknowledgements, grouped: those that become ready while a statement is under way share the next one. Under load this
 * turns hundreds of commits into one; an idle worker's ack leaves at once.
 *
 * A technical failure is retried until the server has answered: a handler that has done its work is not run again because
 * a connection broke. One task that the server refuses to store, or that another transaction holds locked, does not keep
 * its neighbours: the group is dissolved, and its acknowledgements go one by one, beside the next groups.
 */
import { ack, acknowledgedEarlier } from '../statements/ack.js'
import { isConnectionFailure, isRefusedRow, isTransient, sqlStateOf } from '../vocabulary/database-error.js'
import type { AckOutcome, Fence } from '../vocabulary/outcome.js'
import { errResult } from '../vocabulary/result.js'
import type { ControlClient } from './control-client.js'
import { Wakeup } from './wakeup.js'

/** Acks in one statement. */
const MAX_GROUP = 500
/** Characters of results in one statement; a single one may have a million. */
const MAX_GROUP_SIZE = 4 * 1024 * 1024
const FIRST_RETRY_MS = 50
const MAX_RETRY_MS = 2_000
const LOCK_NOT_AVAILABLE = '55P03'

/**
 * The status that was written; `stale` when the claim was no longer the task's; `given-up` when the server did not answer
 * as long as it was asked.
 */
export type AckAnswer = { readonly written: string } | 'stale' | 'given-up'

interface Entry {
  readonly fence: Fence
  outcome: AckOutcome
  /** An earlier attempt may have been stored although its answer was lost. */
  inDoubt: boolean
  readonly answer: (answer: AckAnswer) => void
}

/** One statement at a time, with up to `size` entries. */
interface Lane {
  readonly size: number
  readonly waiting: Entry[]
  readonly pause: Wakeup
  sending: boolean
}

function nextGroup({ waiting, size }: Lane): Entry[] {
  let characters = 0
  const end = waiting.findIndex(({ outcome }, index) => {
    characters += 'result' in outcome ? outcome.result.length : 0
    return index === size || (index > 0 && characters > MAX_GROUP_SIZE)
  })
  return waiting.splice(0, end === -1 ? waiting.length : end)
}

export interface AckHooks {
  /** Told of each failed statement before it is tried again. */
  onFailure(error: unknown): void
  /** All that had failed are answered. */
  onRecovery(): void
}

export class AckGroup {
  readonly #together: Lane = { size: MAX_GROUP, waiting: [], pause: new Wakeup(), sending: false }
  readonly #alone: Lane = { size: 1, waiting: [], pause: new Wakeup(), sending: false }
  readonly #unanswered = new Set<Entry>()
  /** Those of the unanswered that have failed already. */
  readonly #inTrouble = new Set<Entry>()
  #givenUp = false

  constructor(
    private readonly control: Pick<ControlClient, 'run'>,
    private readonly queue: string,
    private readonly worker: string,
    private readonly hooks: AckHooks,
  ) {}

  /** Never rejects. */
  submit(fence: Fence, outcome: AckOutcome): Promise<AckAnswer> {
    if (this.#givenUp) return Promise.resolve('given-up')
    return new Promise((answer) => {
      const entry: Entry = { fence, outcome, inDoubt: false, answer }
      this.#unanswered.add(entry)
      this.#add(this.#together, [entry])
    })
  }

  /** Answers all that wait, also for a statement under way, and sends nothing more. */
  giveUp(): void {
    this.#givenUp = true
    for (const entry of this.#unanswered) this.#answer(entry, 'given-up')
    for (const { waiting, pause } of [this.#together, this.#alone]) {
      waiting.length = 0
      pause.wake()
    }
  }

  #add(lane: Lane, entries: readonly Entry[]): void {
    lane.waiting.push(...entries)
    if (!lane.sending) void this.#send(lane)
  }

  async #send(lane: Lane): Promise<void> {
    lane.sending = true
    let failures = 0
    while (lane.waiting.length > 0) {
      const entries = nextGroup(lane)
      try {
        await this.#acknowledge(entries)
        failures = 0
      } catch (error) {
        if (this.#givenUp) break
        this.hooks.onFailure(error)
        const failed = entries.filter((entry) => this.#unanswered.has(entry))
        for (const entry of failed) this.#inTrouble.add(entry)
        this.#sendAgain(lane, failed, error)
        if (lane.waiting.length > 0) await lane.pause.wait(isTransient(error) ? FIRST_RETRY_MS : retryMs(failures++))
      }
    }
    lane.sending = false
  }

  async #acknowledge(entries: readonly Entry[]): Promise<void> {
    const { queue, worker } = this
    const written = await this.control.run((db) => ack(db, queue, worker, entries))
    const missing = entries.filter((entry) => {
      const status = written.get(entry.fence.id)
      if (status !== undefined) this.#answer(entry, { written: status })
      return status === undefined
    })
    // An attempt that was stored although its answer was lost leaves nothing to acknowledge for the next one.
    const inDoubt = missing.filter((entry) => entry.inDoubt)
    const earlier =
      inDoubt.length === 0 ? undefined : await this.control.run((db) => acknowledgedEarlier(db, queue, worker, inDoubt))
    for (const entry of missing) {
      const status = earlier?.get(entry.fence.id)
      this.#answer(entry, status === undefined ? 'stale' : { written: status })
    }
  }

  #answer(entry: Entry, answer: AckAnswer): void {
    this.#unanswered.delete(entry)
    entry.answer(answer)
    if (this.#inTrouble.delete(entry) && this.#inTrouble.size === 0 && !this.#givenUp) this.hooks.onRecovery()
  }

  #sendAgain(lane: Lane, entries: readonly Entry[], error: unknown): void {
    const [first] = entries
    if (isRefusedRow(error)) {
      if (entries.length > 1) this.#add(this.#alone, entries)
      else if (first !== undefined) this.#replaceResult(lane, first)
    } else if (sqlStateOf(error) === LOCK_NOT_AVAILABLE) {
      this.#add(this.#alone, entries)
    } else {
      for (const entry of entries) entry.inDoubt ||= isConnectionFailure(error)
      lane.waiting.unshift(...entries)
    }
  }

  /** The task ran, and its work is not repeated: it ends, although its result cannot be told. */
  #replaceResult(lane: Lane, entry: Entry): void {
    const { status } = entry.outcome
    if (status === 'Killed' || status === 'Pending') return this.#answer(entry, 'given-up')
    entry.outcome = { status: 'Killed', result: REFUSED }
    lane.waiting.unshift(entry)
  }
}

const REFUSED = errResult('The database refused to store the outcome of this task. It ran and is not run again.')

function retryMs(failures: number): number {
  return Math.min(FIRST_RETRY_MS * 2 ** failures, MAX_RETRY_MS) * (0.5 + Math.random())
}
