/**
 * Acknowledgements, grouped: those that become ready while a statement is under way share the next one. Under load this
 * turns hundreds of commits into one; an idle worker's ack leaves at once.
 *
 * A technical failure is retried until the server has answered: a handler that has done its work is not run again because
 * a connection broke. One task that the server refuses to store does not keep its neighbours: the group is dissolved, and
 * its acknowledgements go one by one, beside the next groups. Nor does one that another transaction holds locked: it is
 * passed over, and tried again after ever longer pauses in which it keeps no connection.
 *
 * Whether a transaction of the application has acknowledged a claim is asked in the same groups: one read for all of them.
 */
import { ackUnlessLocked, statusOfClaims } from '../statements/ack.js'
import { isConnectionFailure, isRefusedRow, isTransient, sqlStateOf } from '../vocabulary/database-error.js'
import type { AckOutcome, Fence } from '../vocabulary/outcome.js'
import { errResult } from '../vocabulary/result.js'
import type { ControlClient } from './control-client.js'
import { nextTurn } from './next-turn.js'
import { Wakeup } from './wakeup.js'

/** Acks in one statement. */
const MAX_GROUP = 500
/** Characters of results in one statement; a single one may have a million. */
const MAX_GROUP_SIZE = 4 * 1024 * 1024
const FIRST_RETRY_MS = 50
const MAX_RETRY_MS = 2_000
/** Locked so often, which takes some seconds, a task is worth a report. */
const TELL_AFTER_ATTEMPTS = 7
/** What is asked with it is only whether the claim stands: it never shows as written. */
const NOTHING_WRITTEN: AckOutcome = { status: 'Pending' }

/**
 * The status that was written, and whether a transaction of the application wrote it; `stale` when the claim was no longer
 * the task's; `given-up` when the server did not answer as long as it was asked.
 */
export type AckAnswer = { readonly written: string; readonly inTransaction?: true } | 'stale' | 'given-up'

interface Entry {
  readonly fence: Fence
  /** `undefined` when only the outcome of a transaction is asked for. */
  outcome: AckOutcome | undefined
  /** What a transaction of the application may have written. */
  readonly inTransaction: AckOutcome | undefined
  /** An earlier attempt may have been stored although its answer was lost. */
  inDoubt: boolean
  /** How often it was passed over because another transaction had locked its task. */
  passedOver: number
  readonly answer: (answer: AckAnswer) => void
}

/** One that has something to write. */
type Acknowledging = Entry & { outcome: AckOutcome }

/** One statement at a time, with up to `size` entries. */
interface Lane {
  readonly size: number
  readonly waiting: Entry[]
  readonly pause: Wakeup
  sending: boolean
}

function nextGroup({ waiting, size }: Lane): Entry[] {
  let characters = 0
  const ids = new Set<string>()
  const end = waiting.findIndex(({ fence, outcome }, index) => {
    characters += outcome !== undefined && 'result' in outcome ? outcome.result.length : 0
    // The answers are by id, so two claims of one task go apart.
    const full = index === size || (index > 0 && characters > MAX_GROUP_SIZE) || ids.has(fence.id)
    ids.add(fence.id)
    return full
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
  /** The pauses of those whose tasks are locked. */
  readonly #pauses = new Set<ReturnType<typeof setTimeout>>()
  #givenUp = false

  constructor(
    private readonly control: Pick<ControlClient, 'run'>,
    private readonly queue: string,
    private readonly worker: string,
    private readonly hooks: AckHooks,
  ) {}

  /** How many have no answer yet. */
  get underWay(): number {
    return this.#unanswered.size
  }

  /**
   * Never rejects.
   *
   * @param inTransaction - What a transaction of the application may have written. If it has, that is the answer.
   */
  submit(fence: Fence, outcome: AckOutcome, inTransaction?: AckOutcome): Promise<AckAnswer> {
    return this.#enter(fence, outcome, inTransaction)
  }

  /** As `submit`, but writes nothing: `stale` also while the transaction is open, and when it was undone. */
  ask(fence: Fence, inTransaction: AckOutcome): Promise<AckAnswer> {
    return this.#enter(fence, undefined, inTransaction)
  }

  #enter(fence: Fence, outcome: AckOutcome | undefined, inTransaction: AckOutcome | undefined): Promise<AckAnswer> {
    if (this.#givenUp) return Promise.resolve('given-up')
    return new Promise((answer) => {
      const entry: Entry = { fence, outcome, inTransaction, inDoubt: false, passedOver: 0, answer }
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
    for (const pause of this.#pauses) clearTimeout(pause)
    this.#pauses.clear()
  }

  #add(lane: Lane, entries: readonly Entry[]): void {
    lane.waiting.push(...entries)
    if (!lane.sending) void this.#send(lane)
  }

  async #send(lane: Lane): Promise<void> {
    lane.sending = true
    let failures = 0
    while (lane.waiting.length > 0) {
      // Those that end in the same turn of the event loop, or because the last group was answered, go together.
      await nextTurn()
      const entries = nextGroup(lane)
      try {
        await this.#acknowledge(entries)
        failures = 0
      } catch (error) {
        if (this.#givenUp) break
        this.hooks.onFailure(error)
        const failed = this.#open(entries)
        for (const entry of failed) this.#inTrouble.add(entry)
        this.#sendAgain(lane, failed, error)
        if (lane.waiting.length > 0) await lane.pause.wait(isTransient(error) ? FIRST_RETRY_MS : retryMs(failures++))
      }
    }
    lane.sending = false
  }

  async #acknowledge(entries: readonly Entry[]): Promise<void> {
    const written = await this.#write(entries.filter(acknowledges))
    for (const entry of entries) {
      const status = written.get(entry.fence.id)
      if (status !== undefined) this.#answer(entry, { written: status })
    }
    const standing = await this.#lookUp(this.#open(entries))
    const locked = this.#open(entries.filter(acknowledges)).filter(({ fence }) => standing.has(fence.id))
    if (locked.length > 0) this.#tryLater(locked)
    for (const entry of this.#open(entries)) if (!locked.includes(entry)) this.#answer(entry, 'stale')
  }

  /** Their claims stand, so somebody has locked their tasks, perhaps for long. */
  #tryLater(entries: readonly Entry[]): void {
    for (const entry of entries) entry.passedOver += 1
    const [first, ...others] = entries.filter(({ passedOver }) => passedOver >= TELL_AFTER_ATTEMPTS)
    if (first !== undefined) {
      for (const entry of [first, ...others]) this.#inTrouble.add(entry)
      this.hooks.onFailure(heldByOthers(first.fence.id, others.length))
    }
    const attempts = Math.min(...entries.map(({ passedOver }) => passedOver))
    const pause = setTimeout(
      () => {
        this.#pauses.delete(pause)
        this.#add(this.#together, this.#open(entries))
      },
      retryMs(attempts - 1),
    )
    this.#pauses.add(pause)
  }

  async #write(entries: readonly Acknowledging[]): Promise<Map<string, string>> {
    if (entries.length === 0) return new Map()
    try {
      return await this.control.run((db) => ackUnlessLocked(db, this.queue, this.worker, entries))
    } catch (error) {
      // Whatever is no answer of the server, such as one that the driver could not read, may have come after the deed.
      const refused = sqlStateOf(error) !== undefined && !isConnectionFailure(error)
      for (const entry of entries) entry.inDoubt ||= !refused
      throw error
    }
  }

  /**
   * Answers those that were acknowledged before: by an attempt whose answer was lost, or by a transaction. Either leaves
   * nothing to acknowledge.
   *
   * @returns The ids of those whose claim still stands.
   */
  async #lookUp(entries: readonly Entry[]): Promise<ReadonlySet<string>> {
    const standing = new Set<string>()
    if (entries.length === 0) return standing
    const acks = entries.flatMap(({ fence, outcome, inTransaction, inDoubt }) =>
      [inDoubt ? outcome : undefined, inTransaction ?? NOTHING_WRITTEN].flatMap((mayBe) =>
        mayBe ? [{ fence, outcome: mayBe }] : [],
      ),
    )
    const statuses = await this.control.run((db) => statusOfClaims(db, this.queue, this.worker, acks))
    for (const entry of entries) {
      const written = statuses.get(entry.fence.id)
      if (written === undefined) continue
      if (written === 'Running' || written === 'Queued') standing.add(entry.fence.id)
      // If either may have done it, it makes no difference which.
      else this.#answer(entry, entry.inDoubt ? { written } : { written, inTransaction: true })
    }
    return standing
  }

  #open(entries: readonly Entry[]): Entry[] {
    return entries.filter((entry) => this.#unanswered.has(entry))
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
    } else {
      lane.waiting.unshift(...entries)
    }
  }

  /** The task ran, and its work is not repeated: it ends, although its result cannot be told. */
  #replaceResult(lane: Lane, entry: Entry): void {
    const status = entry.outcome?.status
    if (status !== 'Done' && status !== 'Failed') return this.#answer(entry, 'given-up')
    entry.outcome = { status: 'Killed', result: REFUSED }
    lane.waiting.unshift(entry)
  }
}

function heldByOthers(id: string, others: number): Error {
  const tasks = others === 0 ? `task ${id} is` : `task ${id} and ${others} more are`
  return new Error(`${tasks} locked by another transaction; look for its xact_start in pg_stat_activity`)
}

function acknowledges(entry: Entry): entry is Acknowledging {
  return entry.outcome !== undefined
}

const REFUSED = errResult('The database refused to store the outcome of this task. It ran and is not run again.')

function retryMs(failures: number): number {
  return Math.min(FIRST_RETRY_MS * 2 ** failures, MAX_RETRY_MS) * (0.5 + Math.random())
}
