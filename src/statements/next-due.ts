import { and, sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { claimable } from '../vocabulary/claimable.js'
import { prepared, type Db } from '../vocabulary/db.js'

/**
 * How long until the next task of a queue is due, in milliseconds by the database's clock; 0 or less when one is due
 * now, `undefined` when none is waiting.
 */
export async function nextDueMs(db: Db, queue: string): Promise<number | undefined> {
  const [row] = await prepared(db, nextDueStatement).execute({ queue })
  return row?.dueMs ?? undefined
}

/**
 * The first task of each priority, found by the same loose scan of the index as in the claim; a plain minimum would read
 * every waiting task. Beyond 64 priorities the minimum over the rest is cheaper than the steps.
 */
function nextDueStatement(db: Db) {
  const inQueue = and(sql`${jobs.jobType} = ${sql.placeholder('queue')}`, claimable())
  const first = sql`
    with recursive level(priority, step) as (
      (select ${jobs.priority}, 1 from ${jobs} where ${inQueue} order by ${jobs.priority} desc limit 1)
      union all
      select (select ${jobs.priority} from ${jobs} where ${inQueue} and ${jobs.priority} < level.priority
              order by ${jobs.priority} desc limit 1), step + 1
      from level where level.priority is not null and step < 64
    )
    select min(run_at) as run_at from (
      select (select ${jobs.runAt} from ${jobs} where ${inQueue} and ${jobs.priority} = level.priority
              order by ${jobs.runAt} limit 1) as run_at from level
      union all
      (select min(${jobs.runAt}) from ${jobs} where ${inQueue} and ${jobs.priority} < (select priority from level where step = 64)
       -- Known before the first row is read, so that the minimum costs nothing where there are fewer priorities.
       and exists (select from level where step = 64))
    ) task`
  return db
    .select({ dueMs: sql<number | null>`(extract(epoch from run_at - clock_timestamp()) * 1000)::float8` })
    .from(sql`(${first}) next`)
    .$withCache(false)
}
