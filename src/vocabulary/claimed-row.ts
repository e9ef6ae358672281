import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'

/** The row of a claimed task, as the database holds it. */
export interface ClaimedRow {
  readonly id: string
  readonly job: Uint8Array
  readonly status: string
  /** Executions charged before this claim. */
  readonly attempts: number
  readonly maxAttempts: number
  readonly priority: number
  readonly runAt: Date
  /** Whole seconds since 1970. A number, because a `Date` would be compared with less precision than the column has. */
  readonly lockAt: number
  /** JSON text: drivers may rename the keys of parsed JSON. */
  readonly metadata: string | null
  readonly idempotencyKey: string | null
  /** In the order of the claim, from 1. */
  readonly place: number
}

/** For the RETURNING of a claim whose source names each task's `place` in the order of the claim. */
export const CLAIMED_COLUMNS = {
  id: jobs.id,
  job: jobs.job,
  status: sql<string>`${jobs.status}`,
  attempts: jobs.attempts,
  maxAttempts: jobs.maxAttempts,
  priority: jobs.priority,
  runAt: jobs.runAt,
  lockAt: sql`extract(epoch from ${jobs.lockAt})::float8`.mapWith(Number),
  metadata: sql<string | null>`${jobs.metadata}::text`,
  idempotencyKey: jobs.idempotencyKey,
  place: sql<number>`next.place::int`,
}

/**
 * An UPDATE returns its rows in no particular order. Sorted by their columns, two tasks of the same millisecond could
 * change places, and the one that starts first would be the one that is Queued.
 */
export function inOrder<Row extends ClaimedRow>(rows: Row[]): Row[] {
  return rows.sort((a, b) => a.place - b.place)
}
