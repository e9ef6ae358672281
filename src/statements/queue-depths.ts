import { asc, sql } from 'drizzle-orm'
import { jobs, workers } from '../schema.js'
import type { Db } from '../vocabulary/db.js'
import { ENDED, OWNED, UNSUCCESSFUL, WAITING } from '../vocabulary/index-conditions.js'
import { queuesIn } from '../vocabulary/loose-scan.js'
import { isPaused, pausedQueues } from '../vocabulary/paused-queues.js'
import { prepared } from '../vocabulary/prepared.js'
import type { QueueDepth } from '../vocabulary/queue-info.js'

/**
 * Every queue that has a task or a worker, or is paused, by name; a drained one with zeros. Answered by the partial
 * indexes alone, so it costs what waits and runs, however much has finished: hence `WAITING` and not `claimable`, and no
 * look at how much of the running is Queued, for both of which Postgres would have to read the rows.
 */
export async function queueDepths(db: Db): Promise<QueueDepth[]> {
  return prepared(db, depthsStatement).execute()
}

function depthsStatement(db: Db) {
  const due = sql`(${jobs.runAt} <= now())`
  const waiting = db
    .select({
      queue: jobs.jobType,
      due: sql<number>`count(*) filter (where ${due})`.as('due'),
      delayed: sql<number>`count(*) filter (where not ${due})`.as('delayed'),
      // No subtraction of times, which fails for an infinite one.
      oldest: sql<number>`extract(epoch from min(${jobs.runAt}) filter (where ${due}))`.as('oldest'),
    })
    .from(jobs)
    .where(WAITING)
    .groupBy(jobs.jobType)
    .as('waiting')
  const owned = db
    .select({ queue: jobs.jobType, running: sql<number>`count(*)`.as('running') })
    .from(jobs)
    .where(OWNED)
    .groupBy(jobs.jobType)
    .as('owned')
  const queue = sql<string>`queue.name`
  const number = (value: typeof waiting.due) => sql<number>`coalesce(${value}, 0)`.mapWith(Number)
  return db
    .select({
      queue,
      paused: isPaused(queue),
      due: number(waiting.due),
      delayed: number(waiting.delayed),
      running: number(owned.running),
      oldestDueAgeMs: sql<number>`coalesce(round((extract(epoch from now()) - ${waiting.oldest}) * 1000.0), 0)`.mapWith(
        Number,
      ),
    })
    .from(
      sql`(select worker_type as name from ${workers}
        union select name from ${queuesIn(WAITING)} union select name from ${queuesIn(OWNED)}
        union select name from ${queuesIn(ENDED)} union select name from ${queuesIn(UNSUCCESSFUL)}
        union select queue from ${pausedQueues}) queue`,
    )
    .leftJoin(waiting, sql`${waiting.queue} = ${queue}`)
    .leftJoin(owned, sql`${owned.queue} = ${queue}`)
    .orderBy(asc(queue))
    .$withCache(false)
}
