import { weight } from '../vocabulary/batch.js'
import { encodeTask, type EncodedTask, type Task } from '../vocabulary/task.js'

const BATCH_TASKS = 1_000
/** Below the bound of one statement, so that each batch is one. */
const BATCH_BYTES = 4 * 1024 * 1024

/** Pushes a series in batches; the next tasks are read only when a batch is stored, so memory stays flat. */
export async function pushAll<Item extends Task>(
  group: { pushEncoded(tasks: readonly EncodedTask[]): Promise<void> },
  tasks: AsyncIterable<Item> | Iterable<Item>,
  check: (task: Item) => Task,
  signal: AbortSignal | undefined,
): Promise<number> {
  let stored = 0
  let batch: EncodedTask[] = []
  let bytes = 0
  const flush = async () => {
    signal?.throwIfAborted()
    await group.pushEncoded(batch)
    stored += batch.length
    batch = []
    bytes = 0
  }
  for await (const task of tasks) {
    signal?.throwIfAborted()
    const encoded = await encodeTask(check(task))
    batch.push(encoded)
    bytes += weight(encoded)
    if (batch.length === BATCH_TASKS || bytes >= BATCH_BYTES) await flush()
  }
  if (batch.length > 0) await flush()
  return stored
}
