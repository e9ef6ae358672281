/** Deletes tasks that ended long ago, and workers that nothing names any more: in batches, so that nobody waits for long. */
import { endedQueues, pruneTasks, pruneWorkers, WORKER_BATCH } from '../statements/prune.js'
import { databaseError } from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import { checkPruneOptions, PRUNABLE, type Pruned, type PruneOptions } from '../vocabulary/prune-options.js'

const BATCH = 1_000
/** No live worker is silent for so long. How long one may be is a setting of each process, so it is not known here. */
const SILENT_MS = 86_400_000

/**
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT`
 * @throws {DatabaseError} `DATABASE`; outside of a transaction the batches before it stay deleted.
 */
export async function prune(db: Db, options: PruneOptions): Promise<Pruned> {
  checkPruneOptions(options)
  const { signal, onProgress } = options
  const batches = pruning(db, options)
  let total: Pruned = { jobs: 0, workers: 0 }
  for (;;) {
    signal?.throwIfAborted()
    const { done, value: batch } = await nextOf(batches)
    if (done) return total
    if (batch.jobs + batch.workers === 0) continue
    total = { jobs: total.jobs + batch.jobs, workers: total.workers + batch.workers }
    await onProgress?.(total)
  }
}

type Batches = AsyncGenerator<Pruned, void>

/** Statement by statement, those that find nothing included. */
async function* pruning(db: Db, { olderThanMs, statuses = PRUNABLE }: PruneOptions): Batches {
  for (const queue of await endedQueues(db)) {
    for (const status of new Set(statuses)) {
      let fromUs: string | undefined
      let jobs: number
      do {
        const batch = await pruneTasks(db, { queue, status, olderThanMs, limit: BATCH, fromUs })
        jobs = batch.tasks
        fromUs = batch.endedAtUs
        yield { jobs, workers: 0 }
      } while (jobs === BATCH)
    }
  }
  let workers: number
  do {
    workers = await pruneWorkers(db, Math.max(olderThanMs, SILENT_MS))
    yield { jobs: 0, workers }
  } while (workers === WORKER_BATCH)
}

async function nextOf(batches: Batches): Promise<IteratorResult<Pruned, void>> {
  try {
    return await batches.next()
  } catch (error) {
    throw databaseError('pruning', error)
  }
}
