/**
 * Pushes outside a transaction, on the application's own pool.
 *
 * Concurrent pushes of single tasks share one INSERT while another is under way: under load one commit carries hundreds.
 * Only tasks without a key and with an id made here are grouped, because an insert with a key may wait for another
 * session's transaction, and a chosen id may exist already; neither must hold up or fail its neighbours.
 *
 * Each promise gets its own outcome: stored, refused, or, when an answer was lost and could not be looked up, unknown.
 */
import { storedIds } from '../statements/find-tasks.js'
import { insertTasksAgain, insertTasksOutsideTx } from '../statements/insert-tasks.js'
import { encodeBatch, refuseConflicts, weight } from '../vocabulary/batch.js'
import {
  databaseError,
  isConnectionFailure,
  isDataError,
  isRefusedConnection,
  isTransient,
} from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import { OutcomeUnknownError, PoolError } from '../vocabulary/errors.js'
import type { TaskId } from '../vocabulary/errors.js'
import { encodeTask } from '../vocabulary/task.js'
import type { EncodedTask, Task } from '../vocabulary/task.js'

const MAX_ROWS = 500
const MAX_BYTES = 4 * 1024 * 1024
/** Milliseconds after which a push gives up. Drivers may wait for a free connection without limit. */
const DEADLINE_MS = 30_000
/** Waits between attempts to learn what became of a lost answer, about as long as a server takes to restart. */
const SETTLE_DELAYS_MS = [50, 200, 800, 2_000]
const OPERATION = 'pushing tasks'
const USE_TX = 'If this was called inside db.transaction, use pushWithTx or pushTaskWithTx with the transaction.'

const groups = new WeakMap<object, PushGroup>()

/** One group per database, whatever the queue. */
export function pushGroup(db: Db): PushGroup {
  const group = groups.get(db) ?? new PushGroup(db)
  groups.set(db, group)
  return group
}

interface Entry {
  readonly task: EncodedTask
  readonly resolve: (id: TaskId) => void
  readonly reject: (error: unknown) => void
  /** Whether a statement with this task may have reached the server. */
  sent: boolean
}

export class PushGroup {
  #waiting: Entry[] = []
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
   * @throws {OutcomeUnknownError} `OUTCOME_UNKNOWN` when the answer was lost and the task could not be looked up.
   * @throws {DatabaseError} `DATABASE`
   */
  async pushTask(task: Task): Promise<TaskId> {
    const encoding = encodeTask(task)
    const encoded = encoding instanceof Promise ? await encoding : encoding
    if (encoded.idGiven || encoded.idempotencyKey !== null) {
      await this.#storeTogether([[encoded]])
      return encoded.id
    }
    return this.#join(encoded)
  }

  /** Stores all tasks or none. Errors as for `pushTask`. */
  async pushTasks(tasks: Iterable<Task>): Promise<TaskId[]> {
    const { encoded, statements } = await encodeBatch(tasks)
    if (encoded.length > 0) await this.#storeTogether(statements)
    return encoded.map(({ id }) => id)
  }

  #join(task: EncodedTask): Promise<TaskId> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#expire(entry), this.deadlineMs)
      const settled = <Value>(settle: (value: Value) => void) => {
        return (value: Value) => {
          clearTimeout(timer)
          settle(value)
        }
      }
      const entry: Entry = { task, resolve: settled(resolve), reject: settled(reject), sent: false }
      this.#waiting.push(entry)
      if (!this.#flushing) void this.#flush()
    })
  }

  #expire(entry: Entry): void {
    this.#waiting = this.#waiting.filter((waiting) => waiting !== entry)
    entry.reject(
      entry.sent ? unknownOutcome([entry.task], undefined, USE_TX) : new PoolError(OPERATION, this.deadlineMs),
    )
  }

  async #flush(): Promise<void> {
    this.#flushing = true
    while (this.#waiting.length > 0) await this.#store(this.#nextGroup())
    this.#flushing = false
  }

  #nextGroup(): Entry[] {
    let bytes = 0
    const end = this.#waiting.findIndex(({ task }, index) => {
      bytes += weight(task)
      return index > 0 && (index === MAX_ROWS || bytes > MAX_BYTES)
    })
    return this.#waiting.splice(0, end === -1 ? this.#waiting.length : end)
  }

  /** Settles every entry; never rejects. */
  async #store(entries: readonly Entry[], retry = true): Promise<void> {
    const tasks = entries.map(({ task }) => task)
    for (const entry of entries) entry.sent = true
    try {
      await insertTasksOutsideTx(this.db, tasks)
      // Without keys nothing is left out: the statement stores all rows or fails.
      for (const { task, resolve } of entries) resolve(task.id)
    } catch (error) {
      if (isTransient(error) && retry) return this.#store(entries, false)
      if (isDataError(error) && entries.length > 1) return this.#storeApart(entries)
      const outcome = isLost(error) ? await this.#settle([tasks], error) : databaseError(OPERATION, error)
      for (const { task, resolve, reject } of entries) {
        if (outcome === 'stored') resolve(task.id)
        else reject(outcome)
      }
    }
  }

  /** One task is refused by the server: the halves are tried apart until it stands alone. */
  async #storeApart(entries: readonly Entry[]): Promise<void> {
    const middle = Math.ceil(entries.length / 2)
    await this.#store(entries.slice(0, middle))
    await this.#store(entries.slice(middle))
  }

  /** All of the tasks or none, with the deadline. */
  async #storeTogether(statements: readonly (readonly EncodedTask[])[]): Promise<void> {
    const tasks = statements.flat()
    let timer: ReturnType<typeof setTimeout> | undefined
    const expired = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(unknownOutcome(tasks, undefined, USE_TX)), this.deadlineMs)
    })
    try {
      await Promise.race([this.#storeBatch(statements), expired])
    } finally {
      clearTimeout(timer)
    }
  }

  async #storeBatch(statements: readonly (readonly EncodedTask[])[], retry = true): Promise<void> {
    try {
      await this.#inOneTransaction(statements, insertTasksOutsideTx)
    } catch (error) {
      if (isTransient(error) && retry) return this.#storeBatch(statements, false)
      if (!isLost(error)) throw databaseError(OPERATION, error)
      const outcome = await this.#settle(statements, error)
      if (outcome !== 'stored') throw outcome
    }
  }

  async #inOneTransaction(
    statements: readonly (readonly EncodedTask[])[],
    insert: (db: Db, tasks: readonly EncodedTask[]) => Promise<Set<string>>,
  ): Promise<void> {
    const tasks = statements.flat()
    const insertAll = async (db: Db) => {
      const stored = new Set<string>()
      for (const group of statements) for (const id of await insert(db, group)) stored.add(id)
      refuseConflicts(tasks, stored)
    }
    // One statement is atomic by itself, unless a key may be refused and its neighbours have to be undone.
    const [only] = statements
    const needsUndo = tasks.length > 1 && tasks.some((task) => task.idempotencyKey !== null)
    if (statements.length === 1 && only !== undefined && !needsUndo) return insertAll(this.db)
    await this.db.transaction((tx: Db) => insertAll(tx))
  }

  /**
   * The connection broke while the statement was under way. The same ids are inserted once more, which waits for a first
   * attempt that still runs, and then looked up by a statement of its own: the first one's snapshot is too old.
   */
  async #settle(statements: readonly (readonly EncodedTask[])[], lost: unknown): Promise<'stored' | Error> {
    const tasks = statements.flat()
    // A stored task with a chosen id may be somebody else's.
    if (tasks.some(({ idGiven }) => idGiven)) return unknownOutcome(tasks, lost)
    for (const delayMs of SETTLE_DELAYS_MS) {
      await new Promise((resolve) => setTimeout(resolve, delayMs))
      try {
        await this.#inOneTransaction(statements, insertOrFind)
        return 'stored'
      } catch (error) {
        if (!isConnectionFailure(error)) return databaseError(OPERATION, error)
      }
    }
    return unknownOutcome(tasks, lost)
  }
}

async function insertOrFind(db: Db, tasks: readonly EncodedTask[]): Promise<Set<string>> {
  await insertTasksAgain(db, tasks)
  return storedIds(
    db,
    tasks.map(({ id }) => id),
  )
}

/** Whether the statement may have been executed although it failed. */
function isLost(error: unknown): boolean {
  return isConnectionFailure(error) && !isRefusedConnection(error)
}

function unknownOutcome(tasks: readonly EncodedTask[], cause: unknown, hint?: string): OutcomeUnknownError {
  const ids = tasks.map(({ id }) => id) as [TaskId, ...TaskId[]]
  const error = cause === undefined ? undefined : databaseError(OPERATION, cause)
  return new OutcomeUnknownError(OPERATION, ids, error, hint)
}
