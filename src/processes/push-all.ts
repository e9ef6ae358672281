import type { TaskId } from '../vocabulary/errors.js'
import type { Task } from '../vocabulary/task.js'

const BATCH = 1_000

/** Pushes a series in batches; the next tasks are read only when a batch is stored, so memory stays flat. */
export async function pushAll<Item extends Task>(
  group: { pushTasks(tasks: Iterable<Task>): Promise<TaskId[]> },
  tasks: AsyncIterable<Item> | Iterable<Item>,
  check: (task: Item) => Task,
  signal: AbortSignal | undefined,
): Promise<number> {
  let stored = 0
  let batch: Task[] = []
  const flush = async () => {
    signal?.throwIfAborted()
    stored += (await group.pushTasks(batch)).length
    batch = []
  }
  for await (const task of tasks) {
    batch.push(check(task))
    if (batch.length === BATCH) await flush()
  }
  if (batch.length > 0) await flush()
  return stored
}
