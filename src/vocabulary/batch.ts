/** Many tasks pushed together: checked as a whole, cut into statements of bounded size, refused as a whole. */
import { IdempotencyConflictError, InvalidArgumentError } from './errors.js'
import { checkSeries } from './limits.js'
import { encodeTask, type EncodedTask, type Task } from './task.js'

/** Of one INSERT. A statement of hundreds of megabytes takes the server seconds and this process gigabytes. */
const MAX_STATEMENT_BYTES = 8 * 1024 * 1024
/** What a row adds beside the texts of unbounded length. */
const ROW_BYTES = 100

/** Checks and encodes every task before the first SQL. */
export async function encodeBatch(tasks: Iterable<Task>): Promise<EncodedTask[]> {
  const encoded: EncodedTask[] = []
  for (const task of checkSeries('tasks', tasks, '[task]')) {
    const encoding = encodeTask(task)
    encoded.push(encoding instanceof Promise ? await encoding : encoding)
  }
  refuseRepeatedIds(encoded)
  return encoded
}

/** Repeated keys are a conflict like any other; a repeated id would be an error of the database, which aborts the transaction. */
export function refuseRepeatedIds(tasks: readonly EncodedTask[]): void {
  const given = new Set<string>()
  for (const { id, idGiven } of tasks) {
    if (!idGiven) continue
    if (given.has(id)) {
      throw new InvalidArgumentError('id', `${id} stands twice in one batch. Ids are unique over all queues.`)
    }
    given.add(id)
  }
}

/** The bytes a task adds to a statement, about: the payload goes as hexadecimal digits. */
export function weight(task: EncodedTask): number {
  return ROW_BYTES + 2 * task.job.length + task.metadata.length + (task.idempotencyKey?.length ?? 0)
}

/** The tasks in groups that each fit one statement, in the order of their keys. */
export function inStatements(tasks: readonly EncodedTask[]): readonly (readonly EncodedTask[])[] {
  const groups: EncodedTask[][] = []
  let bytes = Infinity
  for (const task of inKeyOrder(tasks)) {
    bytes += weight(task)
    if (bytes > MAX_STATEMENT_BYTES) {
      groups.push([])
      bytes = weight(task)
    }
    groups.at(-1)?.push(task)
  }
  return groups
}

/** All take their keys in one order, also across statements: two batches in opposite order would deadlock. */
function inKeyOrder(tasks: readonly EncodedTask[]): readonly EncodedTask[] {
  if (!tasks.some(isKeyed)) return tasks
  return tasks.toSorted((a, b) => compare(a.queue, b.queue) || compare(a.idempotencyKey ?? '', b.idempotencyKey ?? ''))
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

export function isKeyed(task: EncodedTask): boolean {
  return task.idempotencyKey !== null
}

/** The tasks whose key an earlier one of the same batch has. */
export function repeatingKeys(tasks: readonly EncodedTask[]): EncodedTask[] {
  const keys = new Set<string>()
  return tasks.filter(
    (task) => isKeyed(task) && keys.size === keys.add(JSON.stringify([task.queue, task.idempotencyKey])).size,
  )
}

/** @throws {IdempotencyConflictError} if a task was refused; names the keys of the first queue concerned. */
export function refuseConflicts(tasks: readonly EncodedTask[], isRefused: (task: EncodedTask) => boolean): void {
  const refused = tasks.filter(isRefused)
  const [first] = refused
  if (first === undefined) return
  const keys = refused.filter(({ queue }) => queue === first.queue).map(({ idempotencyKey }) => idempotencyKey)
  const distinct = [...new Set(keys.filter((key) => key !== null))]
  throw new IdempotencyConflictError(first.queue, distinct, refused.length, tasks.length)
}
