import { and, sql, type SQL } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { claimable } from './claimable.js'

/** Beyond so many distinct priorities one plain pass is cheaper than as many steps. */
const LEVELS = 64

/** The tasks of a queue that wait, due or not. For statements with a parameter `queue`. */
export const waitingInQueue = and(sql`${jobs.jobType} = ${sql.placeholder('queue')}`, claimable())!

/**
 * The distinct priorities of the waiting tasks, highest first, as the recursive CTE `level(priority, step)`; its last row
 * may be null. One step through the index for each, a loose scan, however many tasks wait.
 *
 * The first step has a bound that always holds: where statistics say that next to nothing waits, the planner would
 * otherwise read and sort everything for it.
 */
export const priorityLevels: SQL = sql`level(priority, step) as (
      (select ${jobs.priority}, 1 from ${jobs} where ${waitingInQueue} and ${jobs.priority} >= 0
       order by ${jobs.priority} desc limit 1)
      union all
      select (select ${jobs.priority} from ${jobs} where ${waitingInQueue} and ${jobs.priority} < level.priority
              order by ${jobs.priority} desc limit 1), step + 1
      from level where level.priority is not null and step < ${sql.raw(String(LEVELS))}
    )`

/** The priority below which no level was looked for; null where there are fewer levels. */
export const lastLevel: SQL = sql`(select priority from level where step = ${sql.raw(String(LEVELS))})`
