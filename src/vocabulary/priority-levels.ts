import { and, sql, type SQL } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { claimable } from './claimable.js'

/** Beyond so many distinct priorities one plain pass is cheaper than as many steps. */
const LEVELS = 64

/** The tasks of a queue that wait, due or not. For statements with a parameter `queue`. */
export const waitingInQueue = and(sql`${jobs.jobType} = ${sql.placeholder('queue')}`, claimable())!

/**
 * The distinct priorities of the waiting tasks, highest first, each with its first task, due or not, as the recursive CTE
 * `level(priority, run_at, id, step)`. One step through the index for each, a loose scan, however many tasks wait.
 *
 * The first task is there to go on from: while an old snapshot keeps the index entries of tasks that were worked, what
 * lies before it takes the longest of all, and would be walked again.
 *
 * The first step has a bound that always holds: where statistics say that next to nothing waits, the planner would
 * otherwise read and sort everything for it.
 */
export const priorityLevels: SQL = sql`level(priority, run_at, id, step) as (
      (select ${jobs.priority}, ${jobs.runAt}, ${jobs.id}, 1 from ${jobs}
       where ${waitingInQueue} and ${jobs.priority} >= 0
       order by ${jobs.priority} desc, ${jobs.runAt}, ${jobs.id} limit 1)
      union all
      select next.priority, next.run_at, next.id, step + 1 from level cross join lateral (
        select ${jobs.priority} as priority, ${jobs.runAt} as run_at, ${jobs.id} as id from ${jobs}
        where ${waitingInQueue} and ${jobs.priority} < level.priority
        order by ${jobs.priority} desc, ${jobs.runAt}, ${jobs.id} limit 1
      ) next where step < ${sql.raw(String(LEVELS))}
    )`

/** The priority below which no level was looked for; null where there are fewer levels. */
export const lastLevel: SQL = sql`(select priority from level where step = ${sql.raw(String(LEVELS))})`
