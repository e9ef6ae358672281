/**
 * Pushes outside a transaction, on the application's own pool.
 *
 * Concurrent pushes of single tasks share one INSERT while another is under way: under load one commit carries hundreds.
 * Only tasks without a key and with an id made here are grouped, because an insert with a key may wait for another
 * session's transaction, and a chosen id may exist already; neither must hold up or fail its neighbours. Tasks of queues
 * that are never announced are grouped among themselves.
 *
 * Each promise gets its own outcome: stored, refused, or, when an answer was lost and could not be looked up, unknown.
 */
import { encodeBatch, isKeyed, refuseRepeatedIds, weight } from '../vocabulary/batch.js'
import { refusesRow } from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import { isApalisError, PoolError, type TaskId } from '../vocabulary/errors.js'
import { announcesOutsideTx } from '../vocabulary/notify-limit.js'
import { encodeTask, type EncodedTask, type Task } from '../vocabulary/task.js'
import { within } from './deadlines.js'
import { OPERATION, storeTasks, unknownOutcome } from './store-tasks.js'

const MAX_ROWS = 500
const MAX_BYTES = 4 * 1024 * 1024
/** After which a push gives up. Drivers may wait for a free connection without limit. */
const DEADLINE_MS = 30_000
/** After which a group no longer holds up the next: its connection may be dead, or a transaction may keep the last one. */
const PATIENCE_MS = 1_000
/**
 * Of the microtask queue, in which a caller that pushes one task after the other gets its answer and comes with the next.
 * Without them it would find a group on its way that has no more than the tasks that came meanwhile.
 */
const TURNS = 20

const groups = new WeakMap<object, PushGroup>()

/** One group per database, whatever the queue. */
export function pushGroup(db: Db): PushGroup {
  const group = groups.get(db) ?? new PushGroup(db)
  groups.set(db, group)
  return group
}

class Entry {
  resolve!: () => void
  reject!: (error: unknown) => void
  readonly outcome = new Promise<void>((resolve, reject) => Object.assign(this, { resolve, reject }))

  constructor(readonly task: EncodedTask) {}
}

export class PushGroup {
  /** In the order of their arrival. */
  readonly #waiting = new Set<Entry>()
  #flushing = false

  constructor(
    private readonly db: Db,
    private readonly deadlineMs = DEADLINE_MS,
  ) {}

  /**
   * Stores one task.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` before any SQL.
   * @throws {IdempotencyConflictError} `IDEMPOTENCY_CONFLICT`
   * @throws {PoolError} `POOL` when no connection became free within 30 s.
   * @throws {OutcomeUnknownError} `OUTCOME_UNKNOWN` when there was no answer within 30 s, or it was lost and the task could not be looked up.
   * @throws {DatabaseError} `DATABASE`
   */
  async pushTask(task: Task): Promise<TaskId> {
    const encoded = await encodeTask(task)
    if (encoded.idGiven || isKeyed(encoded)) await this.#storeAlone([encoded])
    else await this.#storeGrouped(encoded)
    return encoded.id
  }

  /** Stores all tasks or none. Errors as for `pushTask`. */
  async pushTasks(tasks: Iterable<Task>): Promise<TaskId[]> {
    const encoded = await encodeBatch(tasks)
    await this.pushEncoded(encoded)
    return encoded.map(({ id }) => id)
  }

  /** As `pushTasks`, for tasks that are encoded already. */
  async pushEncoded(tasks: readonly EncodedTask[]): Promise<void> {
    refuseRepeatedIds(tasks)
    if (tasks.length > 0) await this.#storeAlone(tasks)
  }

  #storeAlone(tasks: readonly EncodedTask[]): Promise<void> {
    return within(this.deadlineMs, storeTasks(this.db, tasks), () => {
      throw this.#noAnswer(tasks)
    })
  }

  #storeGrouped(task: EncodedTask): Promise<void> {
    const entry = new Entry(task)
    this.#waiting.add(entry)
    if (!this.#flushing) void this.#flush()
    return within(this.deadlineMs, entry.outcome, () => {
      throw this.#waiting.delete(entry) ? new PoolError(OPERATION, this.deadlineMs) : this.#noAnswer([task])
    })
  }

  #noAnswer(tasks: readonly EncodedTask[]): Error {
    const hint = `There was no answer within ${this.deadlineMs} ms, and the statement may still be executed. If this was called inside db.transaction, which can hold the last connection of the pool, call pushWithTx or pushTaskWithTx with the transaction.`
    return unknownOutcome(tasks, undefined, hint)
  }

  async #flush(): Promise<void> {
    this.#flushing = true
    while (this.#waiting.size > 0) {
      await within(PATIENCE_MS, this.#store(this.#nextGroup()), () => undefined)
      await turns(TURNS)
    }
    this.#flushing = false
  }

  #nextGroup(): Entry[] {
    const group: Entry[] = []
    let bytes = 0
    let announced: boolean | undefined
    for (const entry of this.#waiting) {
      // A statement announces all of its tasks or none, and a queue may want never to be announced.
      announced ??= announcesOutsideTx([entry.task])
      if (announcesOutsideTx([entry.task]) !== announced) continue
      bytes += weight(entry.task)
      if (group.length === MAX_ROWS || (group.length > 0 && bytes > MAX_BYTES)) break
      this.#waiting.delete(entry)
      group.push(entry)
    }
    return group
  }

  /** Settles every entry; never rejects. */
  async #store(entries: readonly Entry[]): Promise<void> {
    const tasks = entries.map(({ task }) => task)
    try {
      await storeTasks(this.db, tasks)
      for (const { resolve } of entries) resolve()
    } catch (error) {
      if (entries.length > 1 && isApalisError(error, 'DATABASE') && refusesRow(error.sqlState))
        return this.#storeApart(entries)
      for (const { task, reject } of entries) reject(ownError(task, error))
    }
  }

  /** One task is refused by the server: the halves are tried apart until it stands alone. */
  async #storeApart(entries: readonly Entry[]): Promise<void> {
    const middle = Math.ceil(entries.length / 2)
    await this.#store(entries.slice(0, middle))
    await this.#store(entries.slice(middle))
  }
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await Promise.resolve()
}

/** An unknown outcome names the task of its promise alone. */
function ownError(task: EncodedTask, error: unknown): unknown {
  return isApalisError(error, 'OUTCOME_UNKNOWN') ? unknownOutcome([task], error.cause) : error
}
