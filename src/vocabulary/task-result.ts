import type { QueueDefinition } from './definition.js'
import { DecodeError, type TaskId } from './errors.js'
import { readResult } from './result.js'

/**
 * How a task ended. `Failed` is a task whose attempts are used up and that no library of this family has left so; what
 * failed and will run again has not ended.
 */
export type TaskResult<Result> =
  | { readonly id: TaskId; readonly status: 'Done'; readonly result: Result }
  | { readonly id: TaskId; readonly status: 'Failed' | 'Killed'; readonly error: string }

/** A stored task that has ended. */
export interface EndedRow {
  readonly id: TaskId
  readonly queue: string
  readonly status: string
  /** The text of `last_result`. */
  readonly result: string | null
}

/**
 * Reads what an ended task left behind, whatever its queue, as results of the given queue.
 *
 * @throws {DecodeError} if that is no result, does not fit the queue's schema, or contradicts the status.
 */
export async function taskResult<Result>(
  definition: QueueDefinition<unknown, Result>,
  { id, queue, status, result }: EndedRow,
): Promise<TaskResult<Result>> {
  if (result === null) throw new DecodeError(id, queue, 'its result is missing, last_result is NULL')
  const stored = await readResult({ ...definition, name: queue }, id, result)
  if (status === 'Done' && stored.ok) return { id, status, result: stored.result }
  if ((status === 'Failed' || status === 'Killed') && !stored.ok) return { id, status, error: stored.error }
  throw new DecodeError(id, queue, `its status is ${status}, and its result that of a task which did not end so`)
}
