import { and, desc, sql, type SQL } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { instant } from '../vocabulary/cursor.js'
import type { Db } from '../vocabulary/db.js'
import { WAITING } from '../vocabulary/index-conditions.js'
import { distinct, queuesIn, theQueue } from '../vocabulary/loose-scan.js'
import { STORED_COLUMNS } from '../vocabulary/stored-columns.js'
import type { StoredRow } from '../vocabulary/stored-task.js'
import type { TaskPage } from '../vocabulary/task-filter.js'

/** Tasks waiting for a retry in one queue, up to which a page looks them up instead of reading their rows. */
const KNOWN_FAILURES = 1_000

/**
 * A page of the Pending tasks of one queue or all, the latest `run_at` first, then by id, descending. In the contract's
 * order `done_at` comes first, but it says of Pending tasks that they have none; whatever a row holds there is ignored.
 *
 * The index for it is that of the claims, ordered by priority before `run_at`. It holds the tasks that wait for a retry as
 * well, often with a later `run_at` than any Pending task, and does not tell which is which. Therefore the page is found
 * in two passes. The first takes the last entries of each priority from the index alone, leaves out the ids that the index
 * of failures knows, and so finds where the page begins and ends. The second reads the rows in between. Where very many
 * wait for a retry, the first pass looks at the rows too.
 *
 * Not prepared: for an unknown limit or cursor the planner would guess at a tenth of the table.
 */
export async function listPendingTasks(db: Db, page: TaskPage): Promise<StoredRow[]> {
  const task = db
    .select(STORED_COLUMNS)
    .from(jobs)
    .where(
      and(
        sql`${jobs.jobType} = part.queue and ${jobs.priority} = part.priority and ${jobs.status} = 'Pending'`,
        sql`(${jobs.runAt}, ${jobs.id}) between (part.first_at, part.first_id) and (part.last_at, part.last_id)`,
      ),
    )
    .orderBy(desc(jobs.runAt), desc(jobs.id))
    // Without a limit of its own the planner may turn the lateral join into a scan of the table.
    .limit(page.limit)
    .as('task')
  return db
    .select(task._.selectedFields)
    .from(sql`(${parts(page)}) part`)
    .crossJoinLateral(task)
    .orderBy(desc(task.runAt), desc(task.id))
    .$withCache(false)
}

/** Where the page begins and ends in each queue and priority that is part of it. The builders have no WITH RECURSIVE. */
function parts({ queue, limit, offset, after }: TaskPage): SQL {
  const queues = queue === undefined ? queuesIn(WAITING) : theQueue(queue)
  const last = (condition: SQL) => sql`
    select ${jobs.runAt} as run_at, ${jobs.id} as id from ${jobs}
    where ${jobs.jobType} = queue.name and ${jobs.priority} = level.priority and ${condition} and ${behind(after)}
    order by ${jobs.runAt} desc, ${jobs.id} desc limit ${limit + offset}`
  return sql`
    with entry as (
      select queue.name as queue, level.priority, entry.run_at, entry.id
      from ${queues}
      cross join lateral (
        -- An object, because looking up one of its keys costs little and is not for the planner to decide.
        select coalesce(pg_catalog.jsonb_object_agg(id, null), '{}') as ids, count(*) > ${KNOWN_FAILURES} as too_many from (
          select ${jobs.id} as id from ${jobs} where ${jobs.jobType} = queue.name and ${jobs.status} = 'Failed'
          limit ${KNOWN_FAILURES + 1}
        ) failure
      ) failed
      cross join lateral pg_catalog.unnest(${distinct(jobs.priority, sql`${jobs.jobType} = queue.name and ${WAITING}`)}) as level(priority)
      cross join lateral (
        (${last(sql`not failed.too_many and ${WAITING} and not (failed.ids ? ${jobs.id})`)})
        union all
        (${last(sql`failed.too_many and ${jobs.status} = 'Pending'`)})
      ) entry
      order by run_at desc, id desc limit ${limit} offset ${offset}
    )
    select queue, priority, min(run_at) as first_at, (pg_catalog.array_agg(id order by run_at, id))[1] as first_id,
      max(run_at) as last_at, (pg_catalog.array_agg(id order by run_at desc, id desc))[1] as last_id
    from entry group by queue, priority`
}

function behind(after: TaskPage['after']): SQL {
  return after === undefined ? sql`true` : sql`(${jobs.runAt}, ${jobs.id}) < (${instant(after.runAtUs)}, ${after.id})`
}
