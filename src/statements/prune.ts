import { and, asc, eq, gte, inArray, lt, sql, type SQL, type SQLWrapper } from 'drizzle-orm'
import { alias } from 'drizzle-orm/pg-core'
import { jobs, workers } from '../schema.js'
import { instant, microseconds } from '../vocabulary/cursor.js'
import type { Db } from '../vocabulary/db.js'
import { ENDED } from '../vocabulary/index-conditions.js'
import { queuesIn } from '../vocabulary/loose-scan.js'
import { prepared } from '../vocabulary/prepared.js'
import type { PrunableStatus } from '../vocabulary/prune-options.js'

/** At most so many workers a call. */
export const WORKER_BATCH = 10

export interface PruneRequest {
  readonly queue: string
  /** Of Failed tasks only those without an attempt left: the others are still to run, however long ago they failed. */
  readonly status: PrunableStatus
  readonly olderThanMs: number
  /** At most so many tasks. */
  readonly limit: number
  /** Where the batch before ended, so that tasks of other statuses that stay are passed over once and not in each batch. */
  readonly fromUs?: string | undefined
  /** Passes over what has been older than that for longer than this already. */
  readonly newlyOldMs?: number | undefined
  /** Deletes nothing while another session deletes from the queue with this option, too. */
  readonly alone?: boolean | undefined
}

export interface PrunedBatch {
  readonly tasks: number
  /** The latest `done_at` of the batch, for the next one; `undefined` for an empty batch. */
  readonly endedAtUs: string | undefined
}

/** The queues that may have something to prune. */
export async function endedQueues(db: Db): Promise<string[]> {
  const rows = await prepared(db, endedQueuesStatement).execute()
  return rows.map((row) => row.queue)
}

const endedQueuesStatement = (db: Db) =>
  db
    .select({ queue: sql<string>`name` })
    .from(queuesIn(ENDED))
    .$withCache(false)

/**
 * Deletes the tasks of a queue that ended longest ago, one batch. Skips tasks that other transactions lock: they wait for
 * nobody, and the next call finds them. With a task its idempotency key becomes free.
 *
 * Not prepared: the planner chooses between the index of everything that ended and that of failures by status and age.
 */
export async function pruneTasks(db: Db, request: PruneRequest): Promise<PrunedBatch> {
  const { queue, olderThanMs, newlyOldMs, limit, fromUs, alone } = request
  const task = alias(jobs, 'task')
  // In a WITH, which runs once: joined to the deletion, it might run again and find further tasks each time.
  const old = db.$with('old').as(
    db
      .select({ id: task.id })
      .from(task)
      .where(
        and(
          over(task, request),
          lt(task.doneAt, ago(olderThanMs)),
          newlyOldMs === undefined ? undefined : gte(task.doneAt, ago(olderThanMs + newlyOldMs)),
          fromUs === undefined ? undefined : gte(task.doneAt, instant(fromUs)),
          // A scalar subquery, because that runs once and before a row is read.
          alone === true
            ? sql`(select pg_try_advisory_xact_lock(hashtext('apalis_drizzle prune'), hashtext(${queue})))`
            : undefined,
        ),
      )
      .orderBy(asc(task.doneAt))
      .limit(limit)
      .for('update', { skipLocked: true }),
  )
  const rows = await db
    .with(old)
    .delete(jobs)
    .where(and(inArray(jobs.id, db.select({ id: old.id }).from(old)), over(jobs, request)))
    .returning({ endedAtUs: microseconds(jobs.doneAt) })
  // They come in no particular order.
  const [endedAtUs] = rows.map((row) => row.endedAtUs).sort((a, b) => Number(b) - Number(a))
  return { tasks: rows.length, endedAtUs }
}

function ago(ms: number): SQL {
  return sql`now() - ${ms}::float8 * interval '1 ms'`
}

type Jobs = Record<'jobType' | 'status' | 'attempts' | 'maxAttempts', SQLWrapper>

function over(table: Jobs, { queue, status }: PruneRequest): SQL | undefined {
  return and(
    eq(table.jobType, queue),
    sql`${table.status} = ${status}`.inlineParams(),
    status === 'Failed' ? sql`${table.attempts} >= ${table.maxAttempts}` : undefined,
  )
}

/**
 * Deletes the rows of workers that were silent for so long and that no task names, also no finished one, at most `WORKER_BATCH`.
 * Names are used again, so these rows do not grow in number. Only in databases with the index that Rust 0.6 creates:
 * without it the foreign key makes Postgres read all tasks for each row.
 *
 * @param staleForMs - At least what makes a worker's tasks orphans, or rows of live workers are deleted.
 * @returns How many rows were deleted.
 */
export async function pruneWorkers(db: Db, staleForMs: number): Promise<number> {
  const rows = await prepared(db, pruneWorkersStatement).execute({ staleForMs })
  return rows.length
}

function pruneWorkersStatement(db: Db) {
  const silent = alias(workers, 'silent')
  const stale = (table: { lastSeen: SQLWrapper }) =>
    sql`${table.lastSeen} < now() - ${sql.placeholder('staleForMs')}::float8 * interval '1 ms'`
  const unused = db.$with('unused').as(
    db
      .select({ id: silent.id, workerType: silent.workerType })
      .from(silent)
      .where(
        and(
          stale(silent),
          sql`exists (select from pg_index where indexrelid = to_regclass('apalis.jobs_job_type_lock_by_idx') and indisvalid)`,
          sql`not exists (select from ${jobs} where ${jobs.jobType} = ${silent.workerType} and ${jobs.lockBy} = ${silent.id})`,
        ),
      )
      .orderBy(asc(silent.lastSeen))
      .limit(WORKER_BATCH)
      .for('update', { skipLocked: true }),
  )
  return db
    .with(unused)
    .delete(workers)
    .where(and(sql`(${workers.id}, ${workers.workerType}) in (select id, worker_type from ${unused})`, stale(workers)))
    .returning({ id: workers.id })
}
