import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import type { FoundTask } from '../vocabulary/change.js'
import type { Db } from '../vocabulary/db.js'
import { prepared } from '../vocabulary/prepared.js'
import type { Status } from '../vocabulary/row.js'
import {
  ACCEPTED,
  changedId,
  statementFor,
  steeringParameters,
  steeringStatements,
  type Steering,
} from '../vocabulary/steering.js'

export const REMOVABLE: readonly Status[] = ['Done', 'Killed', 'Failed']

/** Deletes tasks that have ended, of Failed ones those without an attempt left. Their idempotency keys become free. */
export function removeTasks(db: Db, steering: Steering): Promise<FoundTask[]> {
  return prepared(db, statementFor(STATEMENTS, steering)).execute(steeringParameters(steering))
}

const FINISHED = sql`(${jobs.status} in ('Done', 'Killed')
  or (${jobs.status} = 'Failed' and ${jobs.attempts} >= ${jobs.maxAttempts}))`

const STATEMENTS = steeringStatements({
  statuses: REMOVABLE,
  accepts: FINISHED,
  change: (db) => db.delete(jobs).where(ACCEPTED).returning({ changedId }),
})
