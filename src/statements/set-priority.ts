import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import type { FoundTask } from '../vocabulary/change.js'
import type { Db } from '../vocabulary/db.js'
import { WAITING } from '../vocabulary/index-conditions.js'
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

export const PRIORITIZABLE: readonly Status[] = ['Pending', 'Failed']

/** Gives waiting tasks another priority. */
export function setTaskPriority(db: Db, steering: Steering, priority: number): Promise<FoundTask[]> {
  return prepared(db, statementFor(STATEMENTS, steering)).execute({ ...steeringParameters(steering), priority })
}

const STATEMENTS = steeringStatements({
  statuses: PRIORITIZABLE,
  accepts: WAITING,
  change: (db) =>
    db
      .update(jobs)
      .set({ priority: sql`${sql.placeholder('priority')}::int` })
      .where(ACCEPTED)
      .returning({ changedId }),
})
