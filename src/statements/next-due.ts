import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import type { Db } from '../vocabulary/db.js'
import { isPaused } from '../vocabulary/paused-queues.js'
import { prepared } from '../vocabulary/prepared.js'
import { lastLevel, priorityLevels, waitingInQueue } from '../vocabulary/priority-levels.js'

/**
 * How long until the next task of a queue is due, in milliseconds by the database's clock; 0 or less when one is due
 * now, `undefined` when none is waiting. In a paused queue none is: the resumption announces itself.
 */
export async function nextDueMs(db: Db, queue: string): Promise<number | undefined> {
  const [row] = await prepared(db, nextDueStatement).execute({ queue })
  return row?.dueMs ?? undefined
}

/** The first task of each priority, found as in the claim; a plain minimum would read every waiting task. */
function nextDueStatement(db: Db) {
  const first = sql`
    with recursive ${priorityLevels}
    select min(run_at) as run_at from (
      select run_at from level
      union all
      (select min(${jobs.runAt}) from ${jobs} where ${waitingInQueue} and ${jobs.priority} < ${lastLevel}
       -- Known before the first row is read, so that the minimum costs nothing where there are fewer priorities.
       and ${lastLevel} is not null)
    ) task`
  return db
    .select({ dueMs: sql<number | null>`(extract(epoch from run_at - clock_timestamp()) * 1000.0)::float8` })
    .from(sql`(${first}) next`)
    .where(sql`not ${isPaused(sql.placeholder('queue'))}`)
    .$withCache(false)
}
