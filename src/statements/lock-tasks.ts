import { sql, type SQL } from 'drizzle-orm'
import { jobs, workers } from '../schema.js'
import { arrayLiteral } from '../vocabulary/array-literal.js'
import { claimable, guard, owned } from '../vocabulary/claimable.js'
import { CLAIMED_COLUMNS, claimedRows, type ClaimedRow } from '../vocabulary/claimed-row.js'
import type { Db } from '../vocabulary/db.js'
import { isPaused } from '../vocabulary/paused-queues.js'
import { prepared } from '../vocabulary/prepared.js'

export interface LockRequest {
  /** `undefined`: of any queue in which the worker is registered. */
  readonly queue: string | undefined
  readonly worker: string
  /** The registration counts while it was renewed within this time. */
  readonly thresholdMs: number
  readonly ids: readonly string[]
  /** Also tasks that the worker holds already; they keep their lock time. */
  readonly again: boolean
}

/** Of the statement and not of the transaction, which may be one of the application that began long ago. */
const now = sql`statement_timestamp()`

/**
 * Takes those of the given tasks that may be claimed, as Running, for a worker that an administrator registered. Others,
 * and those that another transaction has locked, are left out: in a user's transaction a wait could become a deadlock.
 *
 * Nothing for a name with a token. Its process hands back what it does not know of, or claims the task once more.
 */
export async function lockTasks(db: Db, request: LockRequest): Promise<ClaimedRow[]> {
  const { queue = null, ids } = request
  return claimedRows(await prepared(db, lockStatement).execute({ ...request, queue, ids: arrayLiteral(ids) }))
}

function lockStatement(db: Db) {
  const lockAt = sql`date_trunc('second', ${now})`
  return (
    db
      .update(jobs)
      .set({
        status: sql`'Running'`,
        lockBy: sql`${sql.placeholder('worker')}::text`,
        lockAt: sql`coalesce(case when ${own()} then ${jobs.lockAt} end, ${lockAt})`,
        doneAt: sql`null`,
      })
      // As an array, so that the planner expects few and looks each up by its primary key.
      .from(sql`pg_catalog.unnest(array(${listedTasks()})) with ordinality as next(id, place)`)
      .where(sql`${jobs.id} = next.id`)
      .returning(CLAIMED_COLUMNS)
  )
}

/** The ids of the tasks to take, in order, and locked. Postgres checks again what was changed meanwhile. */
function listedTasks(): SQL {
  const queue = sql.placeholder('queue')
  const inQueue = sql`coalesce(${queue}::text, ${jobs.jobType}) = ${jobs.jobType}`
  const free = sql`((${claimable()} and not ${isPaused(jobs.jobType)}) or (${sql.placeholder('again')}::boolean and ${own()}))`
  return sql`
    select ${jobs.id} from ${jobs}
    join ${workers} on ${workers.id} = ${sql.placeholder('worker')} and ${workers.workerType} = ${jobs.jobType}
    where ${jobs.id} = any (${sql.placeholder('ids')}::text[])
      and ${guard(inQueue, free, sql`${jobs.runAt} <= ${now}`)} and ${registered()}
    order by ${jobs.priority} desc, ${jobs.runAt}, ${jobs.id} for update of ${sql.raw('jobs')} skip locked`
}

function own(): SQL {
  return sql`(${owned()} and ${jobs.lockBy} = ${sql.placeholder('worker')})`
}

function registered(): SQL {
  return sql`${workers.leaseToken} is null
      and ${workers.lastSeen} > ${now} - ${sql.placeholder('thresholdMs')}::float8 * interval '1 ms'`
}
