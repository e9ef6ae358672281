import { and, sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { announced } from '../vocabulary/announce.js'
import type { FoundTask } from '../vocabulary/change.js'
import { claimable } from '../vocabulary/claimable.js'
import type { Db } from '../vocabulary/db.js'
import { MAX_INT4 } from '../vocabulary/limits.js'
import { prepared } from '../vocabulary/prepared.js'
import { earliestRunAt } from '../vocabulary/refence.js'
import type { Status } from '../vocabulary/row.js'
import {
  ACCEPTED,
  changedId,
  statementFor,
  steeringParameters,
  steeringStatements,
  type Steering,
} from '../vocabulary/steering.js'

export const RETRYABLE: readonly Status[] = ['Pending', 'Failed', 'Killed']

/**
 * Makes tasks claimable that are not: Killed and Failed ones, and those that are due later. One whose attempts are used up
 * gets one more. A Failed task stays Failed, which is claimed like a Pending one, and so keeps the history of its last run.
 */
export function retryTasksNow(db: Db, steering: Steering): Promise<FoundTask[]> {
  return prepared(db, statementFor(STATEMENTS, steering)).execute(steeringParameters(steering))
}

const isDue = sql`(${claimable()} and ${jobs.runAt} <= clock_timestamp())`

const NOT_DUE = and(
  sql`${jobs.status} in ('Pending', 'Failed', 'Killed')`,
  sql`not ${isDue}`,
  sql`${jobs.attempts} < ${sql.raw(String(MAX_INT4))}`,
)!

const history = (column: typeof jobs.lockBy | typeof jobs.lockAt | typeof jobs.doneAt) =>
  sql`case when ${jobs.status} = 'Failed' then ${column} end`

const STATEMENTS = steeringStatements({
  statuses: RETRYABLE,
  // A task that somebody has scheduled for next week did not fail: it is meant only where it is asked for.
  unlessSaid: ['Failed', 'Killed'],
  accepts: NOT_DUE,
  change: (db) =>
    db
      .update(jobs)
      .set({
        status: sql`case when ${jobs.status} = 'Failed' then 'Failed' else 'Pending' end`,
        maxAttempts: sql`greatest(${jobs.maxAttempts}, ${jobs.attempts} + 1)`,
        runAt: sql`greatest(clock_timestamp(), ${earliestRunAt})`,
        lockBy: history(jobs.lockBy),
        lockAt: history(jobs.lockAt),
        doneAt: history(jobs.doneAt),
      })
      .where(ACCEPTED)
      .returning({ changedId, announced: sql`${announced}`.as('announced') }),
})
