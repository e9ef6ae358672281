import { InvalidArgumentError } from '../vocabulary/errors.js'
import { typeOf } from '../vocabulary/limits.js'
import type { Task } from '../vocabulary/task.js'
import { Series, type Storing } from './series.js'

const BATCH_TASKS = 1_000

/**
 * Pushes a series in batches; the next tasks are read only when a batch is stored, so memory stays flat. However it ends,
 * what was read is stored or reported: the source cannot be asked for it again.
 */
export async function pushAll<Item extends Task>(
  storing: Storing,
  tasks: AsyncIterable<Item> | Iterable<Item>,
  check: (task: Item) => Task,
  signal: AbortSignal | undefined,
): Promise<number> {
  if (!isSeries(tasks)) {
    throw new InvalidArgumentError('tasks', `a series is needed, such as [task] or a generator, not ${typeOf(tasks)}.`)
  }
  signal?.throwIfAborted()
  const series = new Series(storing, check, BATCH_TASKS)
  try {
    for await (const task of tasks) {
      await series.add(task)
      if (series.isFull) await series.store()
      signal?.throwIfAborted()
    }
  } finally {
    await series.store()
  }
  return series.stored
}

/** A string is one, of characters. */
function isSeries(tasks: unknown): boolean {
  return typeof tasks === 'object' && tasks !== null && (Symbol.asyncIterator in tasks || Symbol.iterator in tasks)
}
