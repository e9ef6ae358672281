import { and, desc, isNotNull, sql, type SQL } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { instant, type Position } from '../vocabulary/cursor.js'
import type { Db } from '../vocabulary/db.js'
import { ENDED, OWNED, UNSUCCESSFUL } from '../vocabulary/index-conditions.js'
import { queuesIn, theQueue } from '../vocabulary/loose-scan.js'
import type { Status } from '../vocabulary/row.js'
import { STORED_COLUMNS } from '../vocabulary/stored-columns.js'
import type { StoredRow } from '../vocabulary/stored-task.js'
import type { TaskPage } from '../vocabulary/task-filter.js'

type NotPending = Exclude<Status, 'Pending'>

/**
 * A page of the tasks of one status other than Pending, of one queue or all: what ended last comes first, what has not
 * ended before everything, then by `run_at` and id, each descending. That is the contract's order and a total one.
 *
 * No index spans all queues. So each queue gives its own page from an index that begins with the queue, and the page of
 * all is made of those. Done tasks are found among everything that ended, so each Failed or Killed task that ended later
 * than the page is read and passed over; of Running and Queued ones, which have no order in the index, all are read.
 *
 * Not prepared: for an unknown limit or cursor the planner would guess at a tenth of the table.
 */
export async function listTasks(db: Db, page: TaskPage & { readonly status: NotPending }): Promise<StoredRow[]> {
  const { queue, status, limit, offset, after } = page
  const task = db
    .select(STORED_COLUMNS)
    .from(jobs)
    .where(
      and(
        sql`${jobs.jobType} = queue.name`,
        sql`${jobs.status} = ${status}`.inlineParams(),
        AS_INDEXED[status].row,
        after === undefined ? undefined : behind(after),
      ),
    )
    .orderBy(desc(jobs.doneAt), desc(jobs.runAt), desc(jobs.id))
    .limit(limit + offset)
    .as('task')
  return db
    .select(task._.selectedFields)
    .from(queue === undefined ? queuesIn(AS_INDEXED[status].queue) : theQueue(queue))
    .crossJoinLateral(task)
    .orderBy(desc(task.doneAt), desc(task.runAt), desc(task.id))
    .limit(limit)
    .offset(offset)
    .$withCache(false)
}

/**
 * Where the tasks of a status are indexed: the condition of that index, to find the queues in it, and what a row has to
 * fulfil beside the status. No more than that: the planner takes each condition for a further choice among the rows, and
 * for a page from few rows it would rather sort them than follow the index.
 */
const AS_INDEXED: Record<NotPending, { queue: SQL; row?: SQL }> = {
  Queued: { queue: OWNED, row: isNotNull(jobs.lockBy) },
  Running: { queue: OWNED, row: isNotNull(jobs.lockBy) },
  Done: { queue: ENDED, row: ENDED },
  Failed: { queue: UNSUCCESSFUL },
  Killed: { queue: UNSUCCESSFUL },
}

/** Descending order has rows without `done_at` first, so the comparison of rows, which is null for them, leaves them out. */
function behind({ doneAtUs, runAtUs, id }: Position): SQL {
  const place = sql`(${instant(runAtUs)}, ${id})`
  return doneAtUs === null
    ? sql`(${jobs.doneAt} is not null or (${jobs.runAt}, ${jobs.id}) < ${place})`
    : sql`(${jobs.doneAt}, ${jobs.runAt}, ${jobs.id}) < (${instant(doneAtUs)}, ${instant(runAtUs)}, ${id})`
}
