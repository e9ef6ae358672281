import { and, eq, isNotNull, lt, or, sql } from 'drizzle-orm'
import type { SQL, SQLWrapper } from 'drizzle-orm'
import { jobs } from '../schema.js'

/** The table itself or an alias of it. */
type Jobs = Record<'status' | 'attempts' | 'maxAttempts' | 'lockBy', SQLWrapper>

/**
 * Whether a task may be claimed once it is due. It says the same twice, because Postgres proves the use of a partial
 * index from its own form only: the first form fits the index of this schema, the second the one that later Rust crates
 * create, and together they use whichever is there. Inlined, because a generic plan cannot prove anything of parameters.
 */
export function claimable(table: Jobs = jobs): SQL {
  const attemptsLeft = lt(table.attempts, table.maxAttempts)
  return and(
    or(eq(table.status, 'Pending'), and(eq(table.status, 'Failed'), attemptsLeft)),
    and(sql`${table.status} in ('Pending', 'Failed')`, attemptsLeft),
  )!.inlineParams()
}

/** Whether a worker holds the task: claimed, and its outcome not recorded. Written as `jobs_locked_by_queue_idx` says it. */
export function owned(table: Jobs = jobs): SQL {
  return and(isNotNull(table.lockBy), sql`${table.status} in ('Running', 'Queued')`)!.inlineParams()
}
