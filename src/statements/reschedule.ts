import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { announced } from '../vocabulary/announce.js'
import type { FoundTask } from '../vocabulary/change.js'
import { claimable } from '../vocabulary/claimable.js'
import type { Db } from '../vocabulary/db.js'
import { WAITING } from '../vocabulary/index-conditions.js'
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

export const RESCHEDULABLE: readonly Status[] = ['Pending', 'Failed']

/** Makes waiting tasks due at another time. @param atMs - Milliseconds since 1970. */
export function rescheduleTasks(db: Db, steering: Steering, atMs: number): Promise<FoundTask[]> {
  return prepared(db, statementFor(STATEMENTS, steering)).execute({ ...steeringParameters(steering), atMs })
}

const at = sql`('epoch'::timestamptz + ${sql.placeholder('atMs')}::float8 * interval '1 ms')`

const STATEMENTS = steeringStatements({
  statuses: RESCHEDULABLE,
  accepts: WAITING,
  change: (db) =>
    db
      .update(jobs)
      .set({
        // One that may be claimed already keeps its new place in the queue, also in the past.
        runAt: sql`case when ${claimable()} and ${jobs.runAt} <= clock_timestamp() then ${at} else greatest(${at}, ${earliestRunAt}) end`,
      })
      .where(ACCEPTED)
      .returning({ changedId, announced: sql`${announced}`.as('announced') }),
})
