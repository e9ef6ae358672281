import { isNotNull, sql, type SQL } from 'drizzle-orm'
import { integer, text, timestamp } from 'drizzle-orm/pg-core'
import { apalis, bytea, jsonb } from '../schema.js'
import type { Db } from './db.js'
import type { Preparable } from './prepared.js'

/**
 * The columns a producer writes. An INSERT through the whole table would name status, attempts and the lock columns too,
 * which a role with grants on these eight alone may not do.
 */
const newJobs = apalis.table('jobs', {
  job: bytea('job').notNull(),
  id: text('id').notNull(),
  jobType: text('job_type').notNull(),
  maxAttempts: integer('max_attempts').notNull(),
  runAt: timestamp('run_at', { withTimezone: true }).notNull(),
  priority: integer('priority').notNull(),
  metadata: jsonb('metadata'),
  idempotencyKey: text('idempotency_key'),
})

/**
 * A condition that sets something for the one statement it stands in: whether the trigger keeps silent. An uncorrelated
 * subquery runs once, before the first row is inserted; an unreferenced CTE would never run. What it sets is undone at the
 * end of the transaction, and the trigger takes the switch back as soon as it has read it, so that no later INSERT of a
 * transaction is silent.
 */
export const SWITCHED = sql`(select set_config('apalis.notify_once', ${sql.placeholder('notifyOnce')}, true)) is not null`

/** The parameter of `SWITCHED`. @param announce - Whether idle workers are notified at commit. */
export function switched(announce: boolean): { readonly notifyOnce: string } {
  return { notifyOnce: announce ? '' : 'off' }
}

/**
 * @param tasks - A select of the columns above, as SQL that was made once: a transaction of the application has to build its
 * statement anew, and Drizzle takes three times as long for a select that it writes itself.
 */
export function insertInto(db: Db, tasks: SQL) {
  return db.insert(newJobs).select(tasks)
}

/** All are stored, or the statement fails. Drizzle 1.0 forgets in its types that an insert of a select can be prepared. */
export function insertingAll(db: Db, tasks: SQL) {
  return insertInto(db, tasks) as object as Preparable<{ execute(values: Record<string, unknown>): Promise<unknown> }>
}

/** Leaves out tasks whose key is taken. An error would abort the transaction of the application. */
export function leavingOutTakenKeys(db: Db, tasks: SQL) {
  return insertInto(db, tasks)
    .onConflictDoNothing({
      target: [newJobs.jobType, newJobs.idempotencyKey],
      where: isNotNull(newJobs.idempotencyKey),
    })
    .returning({ id: newJobs.id })
}
