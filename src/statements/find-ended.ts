import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { arrayLiteral } from '../vocabulary/array-literal.js'
import type { Db } from '../vocabulary/db.js'
import type { TaskId } from '../vocabulary/errors.js'
import { prepared } from '../vocabulary/prepared.js'
import type { EndedRow } from '../vocabulary/task-result.js'

/** Rows of one answer, because each result may have a megabyte. An answer of so many may not be all there is to say. */
export const ENDED_LIMIT = 100

export interface AbsentRow {
  readonly id: TaskId
  readonly queue: null
}

/** Which of the tasks have ended, whatever their queue, and which are not stored; up to `ENDED_LIMIT` of them. */
export async function findEnded(db: Db, ids: Iterable<TaskId>): Promise<(EndedRow | AbsentRow)[]> {
  const rows = await prepared(db, endedStatement).execute({ ids: arrayLiteral(ids) })
  return rows as (EndedRow | AbsentRow)[]
}

/** One look at the primary key for each id: without a limit of its own the subquery may be joined to a scan of the table. */
function endedStatement(db: Db) {
  const task = db
    .select({
      queue: jobs.jobType,
      status: sql<string>`${jobs.status}`.as('status'),
      // Of a retry it has a result already, and has not ended.
      ended: sql<boolean>`(${jobs.status} in ('Done', 'Killed')
        or (${jobs.status} = 'Failed' and ${jobs.attempts} >= ${jobs.maxAttempts}))`.as('ended'),
      lastResult: jobs.lastResult,
    })
    .from(jobs)
    .where(sql`${jobs.id} = wanted.id`)
    .limit(1)
    .as('task')
  return db
    .select({
      id: sql<string>`wanted.id`,
      queue: task.queue,
      status: task.status,
      // As text, because a driver would round large integers.
      result: sql<string | null>`${task.lastResult}::text`,
    })
    .from(sql`pg_catalog.unnest(${sql.placeholder('ids')}::text[]) as wanted(id)`)
    .leftJoinLateral(task, sql`true`)
    .where(sql`${task.ended} is not false`)
    .limit(ENDED_LIMIT)
    .$withCache(false)
}
