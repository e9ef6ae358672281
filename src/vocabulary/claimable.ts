import { and, eq, gt, isNotNull, lt, or, sql, type SQL, type SQLWrapper } from 'drizzle-orm'
import { jobs } from '../schema.js'

/** The table itself or an alias of it. */
type Jobs = Record<'status' | 'attempts' | 'maxAttempts' | 'lockBy', SQLWrapper>

/**
 * Whether a task may be claimed once it is due. Postgres proves from it the use of the partial index of this schema, and
 * equally that of the index which later Rust crates create. Two details serve the planner:
 *
 * - One condition, not the predicates of both indexes: their selectivities would multiply, and a planner that expects
 *   next to no tasks reads and sorts all of them instead of the first few of the index.
 * - The attempts are compared once from either side: written alike, Postgres would move the comparison out of the OR, and
 *   what remains proves nothing.
 *
 * Inlined, because a generic plan cannot prove anything of parameters.
 */
export function claimable(table: Jobs = jobs): SQL {
  return or(
    and(eq(table.status, 'Pending'), lt(table.attempts, table.maxAttempts)),
    and(eq(table.status, 'Failed'), gt(table.maxAttempts, table.attempts)),
  )!.inlineParams()
}

/** Whether a worker holds the task: claimed, and its outcome not recorded. Written as `jobs_locked_by_queue_idx` says it. */
export function owned(table: Jobs = jobs): SQL {
  return and(isNotNull(table.lockBy), sql`${table.status} in ('Running', 'Queued')`)!.inlineParams()
}

/**
 * A condition on tasks that are looked up by id. Inside a CASE the planner does not see through it and starts from the
 * primary key; otherwise it may start from the index of owned tasks, which collects dead entries, or from an index by
 * owner, which holds the worker's whole history.
 */
export function guard(...conditions: (SQL | undefined)[]): SQL {
  return sql`case when ${and(...conditions)} then true end`
}
