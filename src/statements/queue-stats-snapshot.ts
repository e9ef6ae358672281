import { asc, sql } from 'drizzle-orm'
import { queueStatsSnapshot as view } from '../schema.js'
import type { Db } from '../vocabulary/db.js'
import { prepared } from '../vocabulary/prepared.js'
import type { QueueStatsSnapshot } from '../vocabulary/queue-info.js'

/**
 * Counts anew. Reads the whole table; readers of the snapshot are not held up, except the first time in a database whose
 * snapshot was never filled, because only a filled one can be replaced concurrently.
 */
export async function refreshSnapshot(db: Db): Promise<void> {
  const refresh = db.refreshMaterializedView(view)
  await ((await isPopulated(db)) ? refresh.concurrently() : refresh)
}

/** By queue; empty before the first refresh. */
export async function readSnapshot(db: Db): Promise<QueueStatsSnapshot[]> {
  // To read one that was never filled is an error, which would end a caller's transaction.
  if (!(await isPopulated(db))) return []
  // Drizzle takes every column of a view for nullable; of these only the last run and the last end can be null.
  return (await prepared(db, readStatement).execute()) as QueueStatsSnapshot[]
}

async function isPopulated(db: Db): Promise<boolean> {
  const [row] = await prepared(db, populatedStatement).execute()
  return row?.populated === true
}

const populatedStatement = (db: Db) =>
  db
    .select({ populated: sql<boolean>`ispopulated` })
    .from(sql`pg_matviews`)
    .where(sql`schemaname = 'apalis' and matviewname = 'queue_stats_snapshot'`)
    .$withCache(false)

const readStatement = (db: Db) =>
  db
    .select({
      queue: view.jobType,
      total: view.totalJobs,
      running: view.runningJobs,
      pending: view.pendingJobs,
      queued: view.queuedJobs,
      failed: view.failedJobs,
      done: view.doneJobs,
      killed: view.killedJobs,
      active: view.activeJobs,
      pastHour: view.jobsPastHour,
      pastDay: view.jobsPastDay,
      past7Days: view.jobsPast7Days,
      mostRecentRunAt: view.mostRecentRunAt,
      mostRecentDoneAt: view.mostRecentDoneAt,
      snapshotAt: view.snapshotAt,
    })
    .from(view)
    .orderBy(asc(view.jobType))
    .$withCache(false)
