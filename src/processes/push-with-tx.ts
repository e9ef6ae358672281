/** The outbox: tasks inserted in the caller's own transaction, so that they exist exactly when its other writes do. */
import { insertTasks } from '../statements/insert-tasks.js'
import { databaseError } from '../vocabulary/database-error.js'
import { transaction } from '../vocabulary/db.js'
import type { Db, PgTx } from '../vocabulary/db.js'
import type { TaskId } from '../vocabulary/errors.js'
import { encodeBatch, refuseConflicts } from '../vocabulary/batch.js'
import { encodeTask } from '../vocabulary/task.js'
import type { EncodedTask, Task } from '../vocabulary/task.js'

/** What to do with a task whose idempotency key is taken. Without it the push throws. */
export interface OnConflict {
  readonly onConflict: 'doNothing'
}

/**
 * Inserts one task in the caller's transaction: one round trip, no savepoint. The task exists, and workers are notified,
 * when that transaction commits; after a rollback there is neither.
 *
 * @param options.onConflict - `'doNothing'` keeps the stored task and resolves to `undefined`.
 * @returns The id of the task.
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT` before any SQL, for a value that cannot be stored or a `db` in place of a `tx`.
 * @throws {IdempotencyConflictError} `IDEMPOTENCY_CONFLICT` when the queue already holds `idempotencyKey`; the transaction stays usable.
 * @throws {DatabaseError} `DATABASE` when the statement fails; as after any SQL error the transaction can only roll back.
 * @example
 * await db.transaction(async (tx) => {
 *   await tx.insert(orders).values(order)
 *   await pushTaskWithTx(tx, emails.task({ orderId: order.id }))
 * })
 * @see https://www.postgresql.org/docs/current/sql-notify.html
 */
export function pushTaskWithTx(tx: PgTx, task: Task): Promise<TaskId>
export function pushTaskWithTx(tx: PgTx, task: Task, options: OnConflict): Promise<TaskId | undefined>
export async function pushTaskWithTx(tx: PgTx, task: Task, options?: OnConflict): Promise<TaskId | undefined> {
  const db = transaction(tx, 'pushTaskWithTx')
  const encoding = encodeTask(task)
  const encoded = encoding instanceof Promise ? await encoding : encoding
  const stored = await insert(db, [encoded])
  if (stored.has(encoded.id)) return encoded.id
  if (options?.onConflict !== 'doNothing') refuseConflicts([encoded], stored)
  return undefined
}

/**
 * Inserts tasks, of one queue or several, in the caller's transaction: all of them or, when a key is taken, none.
 *
 * @param options.onConflict - `'doNothing'` stores the others and answers `undefined` in the place of each refused task.
 * @returns The ids in the order of the tasks.
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT` before any SQL.
 * @throws {IdempotencyConflictError} `IDEMPOTENCY_CONFLICT` for keys that are stored or repeated in the batch. Only the batch is undone; the transaction stays usable.
 * @throws {DatabaseError} `DATABASE` when a statement fails.
 */
export function pushTasksWithTx(tx: PgTx, tasks: Iterable<Task>): Promise<TaskId[]>
export function pushTasksWithTx(tx: PgTx, tasks: Iterable<Task>, options: OnConflict): Promise<(TaskId | undefined)[]>
export async function pushTasksWithTx(
  tx: PgTx,
  tasks: Iterable<Task>,
  options?: OnConflict,
): Promise<(TaskId | undefined)[]> {
  const db = transaction(tx, 'pushTasksWithTx')
  const { encoded, statements } = await encodeBatch(tasks)
  if (options?.onConflict === 'doNothing') {
    const stored = await insertAll(db, statements)
    return encoded.map(({ id }) => (stored.has(id) ? id : undefined))
  }
  // Only a key can be refused, and only a batch can be stored in part: nothing else needs a savepoint.
  if (encoded.length > 1 && encoded.some((task) => task.idempotencyKey !== null)) {
    await db.transaction(async (savepoint: Db) => refuseConflicts(encoded, await insertAll(savepoint, statements)))
  } else {
    refuseConflicts(encoded, await insertAll(db, statements))
  }
  return encoded.map(({ id }) => id)
}

async function insertAll(db: Db, statements: readonly (readonly EncodedTask[])[]): Promise<Set<string>> {
  const stored = new Set<string>()
  for (const tasks of statements) for (const id of await insert(db, tasks)) stored.add(id)
  return stored
}

async function insert(db: Db, tasks: readonly EncodedTask[]): Promise<Set<string>> {
  try {
    return await insertTasks(db, tasks)
  } catch (error) {
    throw databaseError('inserting tasks in a transaction', error)
  }
}
