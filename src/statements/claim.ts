import { sql, type SQL } from 'drizzle-orm'
import { jobs, workers } from '../schema.js'
import { CLAIMED_COLUMNS, claimedRows, type ClaimedRow } from '../vocabulary/claimed-row.js'
import type { Db } from '../vocabulary/db.js'
import { isPaused } from '../vocabulary/paused-queues.js'
import { prepared } from '../vocabulary/prepared.js'
import { lastLevel, priorityLevels, waitingInQueue } from '../vocabulary/priority-levels.js'
import { rowArrays } from '../vocabulary/row-arrays.js'

export interface ClaimRequest {
  readonly queue: string
  readonly worker: string
  readonly leaseToken: string
  /** The registration counts while its heartbeat is younger than this. */
  readonly thresholdMs: number
  /** So many tasks as Running, because a slot is free for them, and the rest as Queued. */
  readonly running: number
  /** At most so many tasks. */
  readonly limit: number
}

/**
 * Takes due tasks of a queue, highest priority first, then the oldest, skipping those that other transactions lock. A
 * worker whose registration was lost or is stale gets none, and nobody gets one of a paused queue.
 *
 * Tasks for which no slot is free become Queued and not Running, so that the sweep does not charge them an attempt when
 * the process dies before they start.
 */
export async function claim(db: Db, request: ClaimRequest): Promise<ClaimedRow[]> {
  return claimedRows(await prepared(db, claimStatement).execute({ ...request }))
}

/** Where to go on in a priority: behind this task, whether it is still there or not. */
export type Floor = Pick<ClaimedRow, 'priority' | 'runAtUs' | 'id'>

/**
 * As `claim`, but takes only tasks of these priorities, and of each only those behind the floor. What may wait elsewhere is
 * not looked for: this is for a worker that has just looked everywhere, and to which that took long.
 */
export async function claimAbove(db: Db, request: ClaimRequest, floors: readonly Floor[]): Promise<ClaimedRow[]> {
  const known = knownLevels.parameters({
    id: floors.map(({ id }) => id),
    priority: floors.map(({ priority }) => priority),
    run_at_us: floors.map(({ runAtUs }) => runAtUs),
  })
  return claimedRows(await prepared(db, claimAboveStatement).execute({ ...request, ...known }))
}

const knownLevels = rowArrays('known', { id: 'text', priority: 'int', run_at_us: 'float8' })

function claimStatement(db: Db) {
  return taking(db, tasksOfAllLevels())
}

function claimAboveStatement(db: Db) {
  return taking(db, tasksAboveFloors())
}

function taking(db: Db, tasks: SQL) {
  return (
    db
      .update(jobs)
      .set({
        status: sql`case when next.place <= ${sql.placeholder('running')}::int then 'Running' else 'Queued' end`,
        lockBy: sql`${sql.placeholder('worker')}::text`,
        lockAt: sql`date_trunc('second', now())`,
        doneAt: sql`null`,
      })
      // As an array, so that the planner expects few and looks each up where the lock, which keeps it there, has found it.
      .from(sql`pg_catalog.unnest(array(${tasks})) with ordinality as next(row, place)`)
      .where(sql`${jobs}.ctid = next.row`)
      .returning(CLAIMED_COLUMNS)
  )
}

const limit = sql`(select ${sql.placeholder('limit')}::int)`
const columns = sql`${jobs}.ctid as row, ${jobs.id} as id, ${jobs.priority} as priority, ${jobs.runAt} as run_at`
const inOrder = sql`select due.row from due order by priority desc, run_at, id`

/**
 * The tasks to take, in order, and locked. The builders have no WITH RECURSIVE and no lateral join with a lock, hence raw
 * SQL.
 *
 * The index is ordered by priority first, so one pass over it would walk every delayed task of a high priority before it
 * meets the first due one of a lower priority. So the due tasks are read priority by priority, each in order, and those
 * beyond the levels in one pass.
 */
function tasksOfAllLevels(): SQL {
  return sql`
    with recursive ${priorityLevels},
    due as materialized (
      (${dueInLevels(sql`level`, sql`>=`)})
      union all
      select task.* from (
         select ${columns} from ${jobs}
         where ${waitingInQueue} and ${jobs.priority} < ${lastLevel} and ${jobs.runAt} <= now() and ${mayClaim()}
         order by ${jobs.priority} desc, ${jobs.runAt}, ${jobs.id} limit ${limit} for update skip locked
       ) task
      limit ${limit}
    )
    ${inOrder}`
}

function tasksAboveFloors(): SQL {
  const level = sql`(
      select priority, 'epoch'::timestamptz + run_at_us * interval '1 us' as run_at, id
      from ${knownLevels.source} order by priority desc
    ) level`
  return sql`with due as materialized (${dueInLevels(level, sql`>`)}) ${inOrder}`
}

/**
 * The due tasks of each `level(priority, run_at, id)`, from the place that it names.
 *
 * The planner is not told the limit: when it expects fewer tasks than that, because its statistics are of a time when
 * next to nothing was waiting, it reads and sorts all of them.
 */
function dueInLevels(levels: SQL, isInLevel: SQL): SQL {
  return sql`select task.* from ${levels} cross join lateral (
         select ${columns} from ${jobs}
         where ${waitingInQueue} and ${jobs.priority} = level.priority and ${jobs.runAt} <= now()
           and (${jobs.runAt}, ${jobs.id}) ${isInLevel} (level.run_at, level.id)
         order by ${jobs.runAt}, ${jobs.id} limit ${limit} for update skip locked
       ) task where ${mayClaim()} limit ${limit}`
}

/**
 * Whether the worker is registered and its queue is not paused. Asked of the primary keys, once per statement; without a
 * lock, which would make the owner's heartbeat wait. So a claim that is under way while a pause commits may still take tasks.
 */
function mayClaim(): SQL {
  return sql`(select true from ${workers}
    where ${workers.id} = ${sql.placeholder('worker')} and ${workers.workerType} = ${sql.placeholder('queue')}
      and ${workers.leaseToken} = ${sql.placeholder('leaseToken')}
      and ${workers.lastSeen} > now() - ${sql.placeholder('thresholdMs')}::float8 * interval '1 ms'
      and not ${isPaused(sql.placeholder('queue'))})`
}
