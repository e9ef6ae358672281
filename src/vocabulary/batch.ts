/** Many tasks pushed together: checked as a whole, cut into statements of bounded size, judged by what was stored. */
import { IdempotencyConflictError, InvalidArgumentError } from './errors.js'
import { encodeTask } from './task.js'
import type { EncodedTask, Task } from './task.js'

/** Bounds of one INSERT. A statement of hundreds of megabytes takes the server seconds and the process gigabytes. */
const MAX_ROWS = 5_000
const MAX_BYTES = 8 * 1024 * 1024

export interface Batch {
  /** In the order of the tasks. */
  readonly encoded: readonly EncodedTask[]
  /** The same, in groups that each fit one statement. */
  readonly statements: readonly (readonly EncodedTask[])[]
}

/** Checks and encodes every task before the first SQL. */
export async function encodeBatch(tasks: Iterable<Task>): Promise<Batch> {
  const encoded: EncodedTask[] = []
  for (const task of tasks) {
    const encoding = encodeTask(task)
    encoded.push(encoding instanceof Promise ? await encoding : encoding)
  }
  refuseRepeatedIds(encoded)
  return { encoded, statements: statements(encoded) }
}

/** The bytes a task adds to a statement, about. */
export function weight(task: EncodedTask): number {
  return task.job.length + task.metadata.length + (task.idempotencyKey?.length ?? 0)
}

/** @throws {IdempotencyConflictError} when not every task of the push was stored; names the keys of the first queue concerned. */
export function refuseConflicts(tasks: readonly EncodedTask[], stored: ReadonlySet<string>): void {
  const refused = tasks.filter((task) => !stored.has(task.id))
  const [first] = refused
  if (first === undefined) return
  const keys = refused.filter((task) => task.queue === first.queue).map((task) => task.idempotencyKey)
  const distinct = [...new Set(keys.filter((key) => key !== null))]
  throw new IdempotencyConflictError(first.queue, distinct, refused.length, tasks.length)
}

function refuseRepeatedIds(tasks: readonly EncodedTask[]): void {
  const given = new Set<string>()
  for (const { id, idGiven } of tasks) {
    if (!idGiven) continue
    if (given.has(id))
      throw new InvalidArgumentError('id', `${id} stands twice in one batch. Ids are unique over all queues.`)
    given.add(id)
  }
}

function statements(tasks: readonly EncodedTask[]): EncodedTask[][] {
  const groups: EncodedTask[][] = []
  let bytes = 0
  for (const task of inKeyOrder(tasks)) {
    const last = groups.at(-1)
    if (last === undefined || last.length === MAX_ROWS || bytes + weight(task) > MAX_BYTES) {
      groups.push([task])
      bytes = weight(task)
    } else {
      last.push(task)
      bytes += weight(task)
    }
  }
  return groups
}

/** Across statements too the keys are taken in one order, or two large batches could deadlock. */
function inKeyOrder(tasks: readonly EncodedTask[]): readonly EncodedTask[] {
  if (!tasks.some((task) => task.idempotencyKey !== null)) return tasks
  return [...tasks].sort((a, b) => compare(a.queue, b.queue) || compare(a.idempotencyKey ?? '', b.idempotencyKey ?? ''))
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
