import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { CANCELLED, tellOwner } from '../vocabulary/cancellation.js'
import type { FoundTask } from '../vocabulary/change.js'
import { attemptsCharged } from '../vocabulary/charge.js'
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

export const CANCELLABLE: readonly Status[] = ['Pending', 'Queued', 'Running', 'Failed']

/**
 * Ends tasks that have not ended, also those that a worker holds: its acknowledgement will be stale, and it is told. Owner
 * and lock time stay, by which it recognises its claim.
 */
export function cancelTasks(db: Db, steering: Steering): Promise<FoundTask[]> {
  return prepared(db, statementFor(STATEMENTS, steering)).execute(steeringParameters(steering))
}

const UNFINISHED = sql`(${jobs.status} in ('Pending', 'Queued', 'Running')
  or (${jobs.status} = 'Failed' and ${jobs.attempts} < ${jobs.maxAttempts}))`

const STATEMENTS = steeringStatements({
  statuses: CANCELLABLE,
  accepts: UNFINISHED,
  change: (db) =>
    db
      .update(jobs)
      .set({
        status: sql`'Killed'`,
        attempts: sql`case when ${jobs.status} = 'Running' then ${attemptsCharged} else ${jobs.attempts} end`,
        lastResult: CANCELLED,
        // Not of the transaction, which may be one of the application that began long ago.
        doneAt: sql`statement_timestamp()`,
      })
      .where(ACCEPTED)
      .returning({ changedId }),
  tell: tellOwner,
})
