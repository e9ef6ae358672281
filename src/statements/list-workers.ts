import { asc, desc, eq, sql } from 'drizzle-orm'
import { workers } from '../schema.js'
import type { Db } from '../vocabulary/db.js'
import { prepared } from '../vocabulary/prepared.js'
import type { WorkerRow } from '../vocabulary/worker-row.js'

/** The workers registered in a queue, the one that was heard of last first. */
export async function listWorkers(db: Db, queue: string): Promise<WorkerRow[]> {
  return prepared(db, listStatement).execute({ queue })
}

/** The workers of all queues, in the same order. */
export async function listAllWorkers(db: Db): Promise<WorkerRow[]> {
  return prepared(db, listAllStatement).execute()
}

const listStatement = (db: Db) => ordered(db, true)
const listAllStatement = (db: Db) => ordered(db, false)

/** Without the lease token, which is a secret between a worker and its row. */
function ordered(db: Db, oneQueue: boolean) {
  return db
    .select({
      name: workers.id,
      queue: workers.workerType,
      backend: workers.storageName,
      layers: workers.layers,
      startedAt: workers.startedAt,
      lastSeen: workers.lastSeen,
    })
    .from(workers)
    .where(oneQueue ? eq(workers.workerType, sql.placeholder('queue')) : undefined)
    .orderBy(desc(workers.lastSeen), asc(workers.workerType), asc(workers.id))
    .$withCache(false)
}
