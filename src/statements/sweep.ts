import { and, eq, lte, sql, type SQLWrapper } from 'drizzle-orm'
import { alias } from 'drizzle-orm/pg-core'
import { jobs, workers } from '../schema.js'
import { announced } from '../vocabulary/announce.js'
import { guard, owned } from '../vocabulary/claimable.js'
import type { Db } from '../vocabulary/db.js'
import type { TaskId } from '../vocabulary/errors.js'
import { orphanReturned, type OwnedOrphan } from '../vocabulary/orphan.js'
import { prepared } from '../vocabulary/prepared.js'

/** At most so many tasks a call; a worker sweeps again while a call finds as many. */
export const SWEEP_LIMIT = 1_000

/**
 * Returns the tasks of silent workers of a queue: those whose heartbeat is older than the threshold.
 *
 * It starts from owned tasks, because there may be thousands of old worker rows that own nothing. It locks the worker
 * rows first, which excludes a heartbeat under way, and skips every row that is locked: a task whose acknowledgement
 * is under way stays its worker's, and nobody waits for a user's transaction. The guard stands on the updated row
 * itself, because only that is checked again after a wait.
 *
 * @returns The tasks taken back.
 */
export async function sweep(db: Db, queue: string, thresholdMs: number): Promise<OwnedOrphan[]> {
  const rows = await prepared(db, sweepStatement).execute({ queue, thresholdMs })
  return rows.map(({ id, status, attempts, from, charged }) => ({ id, status, attempts, from, charged }))
}

function sweepStatement(db: Db) {
  const queue = sql.placeholder('queue')
  const silent = alias(workers, 'silent')
  const task = alias(jobs, 'task')
  const owner = db.$with('owner').as(
    db
      .selectDistinct({ lockBy: jobs.lockBy })
      .from(jobs)
      .where(and(eq(jobs.jobType, queue), owned())),
  )
  const dead = db.$with('dead').as(
    db
      .select({ id: silent.id })
      .from(silent)
      .innerJoin(owner, eq(silent.id, owner.lockBy))
      .where(and(eq(silent.workerType, queue), silentFor(silent)))
      .orderBy(silent.id)
      // Claims of other workers check the foreign key on these rows and must not wait, hence not FOR UPDATE.
      .for('no key update', { of: silent, skipLocked: true }),
  )
  const orphan = db.$with('orphan').as(
    db
      .select({
        id: task.id,
        from: task.lockBy,
        wasRunning: sql<boolean>`${task.status} = 'Running'`.as('was_running'),
      })
      .from(task)
      .innerJoin(dead, eq(task.lockBy, dead.id))
      .where(and(eq(task.jobType, queue), owned(task)))
      .limit(SWEEP_LIMIT)
      .for('update', { of: task, skipLocked: true }),
  )
  return db
    .with(owner, dead, orphan)
    .update(jobs)
    .set(orphanReturned())
    .from(orphan)
    .where(and(eq(jobs.id, orphan.id), guard(owned())))
    .returning({
      id: sql<TaskId>`${jobs.id}`,
      status: sql<string>`${jobs.status}`,
      attempts: jobs.attempts,
      // Of the row as it is now there is no owner left.
      from: sql<string>`${orphan.from}`,
      charged: sql<boolean>`${orphan.wasRunning}`,
      announced,
    })
}

/** After a restart of the server every heartbeat is old although the workers live: silence counts from the restart at the earliest. */
function silentFor(table: { lastSeen: SQLWrapper }) {
  return lte(
    sql`greatest(${table.lastSeen}, pg_postmaster_start_time())`,
    sql`now() - ${sql.placeholder('thresholdMs')}::float8 * interval '1 ms'`,
  )
}
