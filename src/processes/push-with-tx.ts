/** The outbox: tasks inserted in the caller's own transaction, so that they exist exactly when its other writes do. */
import { insertTask } from '../statements/insert-task.js'
import { insertTasks } from '../statements/insert-tasks.js'
import { encodeBatch, inStatements, isKeyed, refuseConflicts } from '../vocabulary/batch.js'
import { databaseError } from '../vocabulary/database-error.js'
import { transaction, type Db, type PgTx } from '../vocabulary/db.js'
import { InvalidArgumentError, type TaskId } from '../vocabulary/errors.js'
import { checkOptionNames } from '../vocabulary/limits.js'
import { mayAnnounce } from '../vocabulary/notify-limit.js'
import { encodeTask, type EncodedTask, type Task } from '../vocabulary/task.js'

const OPERATION = 'inserting tasks in a transaction'

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
  checkOnConflict(options)
  const encoded = await encodeTask(task)
  try {
    const stored = await insertTask(db, encoded, mayAnnounce([encoded], performance.now()))
    if (stored) return encoded.id
  } catch (error) {
    throw databaseError(OPERATION, error)
  }
  if (options?.onConflict !== 'doNothing') refuseConflicts([encoded], () => true)
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
  checkOnConflict(options)
  return store(db, await encodeBatch(tasks), options)
}

function checkOnConflict(options: OnConflict | undefined): void {
  checkOptionNames(options, { onConflict: true })
  const onConflict: string | undefined = options?.onConflict
  if (onConflict === undefined || onConflict === 'doNothing') return
  throw new InvalidArgumentError('onConflict', "it has to be 'doNothing', or is left out, and a conflict throws.")
}

async function store(
  tx: Db,
  tasks: readonly EncodedTask[],
  options: OnConflict | undefined,
): Promise<(TaskId | undefined)[]> {
  try {
    const stored = await (options?.onConflict === 'doNothing' ? insert(tx, tasks) : insertAllOrNone(tx, tasks))
    return tasks.map(({ id }) => (stored.has(id) ? id : undefined))
  } catch (error) {
    throw databaseError(OPERATION, error)
  }
}

async function insertAllOrNone(tx: Db, tasks: readonly EncodedTask[]): Promise<Set<string>> {
  const insertOrRefuse = async (db: Db) => {
    const stored = await insert(db, tasks)
    refuseConflicts(tasks, ({ id }) => !stored.has(id))
    return stored
  }
  // Only a key can be refused, and only a batch can be stored in part: nothing else needs a savepoint.
  return tasks.length > 1 && tasks.some(isKeyed) ? tx.transaction(insertOrRefuse) : insertOrRefuse(tx)
}

async function insert(tx: Db, tasks: readonly EncodedTask[]): Promise<Set<string>> {
  const stored = new Set<string>()
  for (const statement of inStatements(tasks)) {
    const announce = mayAnnounce(statement, performance.now())
    for (const id of await insertTasks(tx, statement, announce)) stored.add(id)
  }
  return stored
}
