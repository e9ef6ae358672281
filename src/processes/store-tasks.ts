/**
 * Stores tasks outside of any transaction of the caller: all or none.
 *
 * One statement wherever the tasks fit one, because that is atomic by itself, and because postgres.js 3.4 throws where
 * nobody can catch it, or never answers, when a connection breaks inside a transaction.
 *
 * When the answer to a statement is lost, the tasks are looked up, and inserted again under the same ids if they are not
 * there: the unique indexes make that wait for a first attempt that is still under way. Tasks with a chosen id cannot be
 * looked up, because the task that is found may be somebody else's.
 */
import { idsWithTakenKey, storedIds } from '../statements/find-tasks.js'
import { insertAllTasks } from '../statements/insert-tasks.js'
import { inStatements, refuseConflicts, repeatingKeys } from '../vocabulary/batch.js'
import {
  databaseError,
  isConnectionFailure,
  isRefusedRow,
  isPoolTimeout,
  isRefusedConnection,
  isTransient,
  serverError,
} from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import { isApalisError, OutcomeUnknownError, PoolError, type TaskId } from '../vocabulary/errors.js'
import type { EncodedTask } from '../vocabulary/task.js'

export const OPERATION = 'pushing tasks'

/** Waits between attempts to learn what became of a lost answer, together about as long as a server takes to restart. */
const SETTLE_DELAYS_MS = [50, 200, 800, 2_000]
/** How often keys may be taken and free again, which nothing but a table in constant change explains. */
const MAX_REFUSALS = 5

type Statements = readonly (readonly EncodedTask[])[]

/**
 * @throws {IdempotencyConflictError} `IDEMPOTENCY_CONFLICT`
 * @throws {PoolError} `POOL` when the driver itself gave up waiting for a free connection.
 * @throws {OutcomeUnknownError} `OUTCOME_UNKNOWN`
 * @throws {DatabaseError} `DATABASE`
 */
export async function storeTasks(db: Db, tasks: readonly EncodedTask[]): Promise<void> {
  const statements = inStatements(tasks)
  const repeating = new Set(repeatingKeys(tasks))
  const startedAt = Date.now()
  const settleDelays = [...SETTLE_DELAYS_MS]
  let retries = 1
  let refusals = 0
  let lost: unknown

  for (;;) {
    try {
      if (lost !== undefined && (await storedIds(db, tasks)).size > 0) return
      if (repeating.size === 0 && (await insertUnlessTaken(db, statements, lost !== undefined))) return
      const taken = await idsWithTakenKey(db, tasks)
      refuseConflicts(tasks, (task) => taken.has(task.id) || repeating.has(task))
      if (++refusals === MAX_REFUSALS) throw databaseError(OPERATION, new Error('keys were taken and then free again'))
    } catch (error) {
      if (isApalisError(error)) throw error
      if (lost === undefined) {
        if (isTransient(error) && retries-- > 0) continue
        if (isPoolTimeout(error)) throw new PoolError(OPERATION, Date.now() - startedAt)
        if (!isConnectionFailure(error) || isRefusedConnection(error)) throw databaseError(OPERATION, error)
        if (tasks.some(({ idGiven }) => idGiven)) throw unknownOutcome(tasks, error)
        lost = error
      } else if (isRefusedRow(error)) {
        // Nor was the first attempt stored, which said the same.
        throw databaseError(OPERATION, error)
      } else if (!isTransient(error) && !isConnectionFailure(error)) {
        throw unknownOutcome(tasks, error)
      }
      const delayMs = settleDelays.shift()
      if (delayMs === undefined) throw unknownOutcome(tasks, lost)
      await new Promise((resolve) => setTimeout(resolve, delayMs))
    }
  }
}

/** `false` when a key is taken or, in doubt, an id: then nothing was stored. */
async function insertUnlessTaken(db: Db, statements: Statements, inDoubt: boolean): Promise<boolean> {
  const [only, ...more] = statements
  try {
    if (only !== undefined && more.length === 0) return await insertAllTasks(db, only)
    await db.transaction((tx: Db) => insertEach(tx, statements))
    return true
  } catch (error) {
    if (error instanceof KeyTaken || isTaken(error, inDoubt)) return false
    throw error
  }
}

/** Undoes the transaction. */
class KeyTaken extends Error {}

async function insertEach(tx: Db, statements: Statements): Promise<void> {
  for (const tasks of statements) if (!(await insertAllTasks(tx, tasks))) throw new KeyTaken()
}

/** An id is only taken if an earlier attempt may have stored it; otherwise the caller chose it. */
function isTaken(error: unknown, inDoubt: boolean): boolean {
  const server = serverError(error)
  return server?.code === '23505' && (inDoubt || server.constraint === 'idx_jobs_idempotency_key')
}

export function unknownOutcome(tasks: readonly EncodedTask[], cause: unknown, hint?: string): OutcomeUnknownError {
  const ids = tasks.map(({ id }) => id) as [TaskId, ...TaskId[]]
  const error = cause === undefined ? undefined : databaseError(OPERATION, cause)
  return new OutcomeUnknownError(OPERATION, ids, error, hint)
}
