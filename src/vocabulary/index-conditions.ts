/**
 * The conditions of the partial indexes, in the words of each index: Postgres uses an index only where it can prove the
 * condition, and answers from the index alone, without the rows, only where a query asks for nothing beside it.
 */
import { isNotNull, sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { owned } from './claimable.js'

/** `jobs_dequeue_idx`: Pending, or Failed and to be retried. `claimable` says more, and what it adds needs the row. */
export const WAITING = sql`(${jobs.status} = 'Pending' or (${jobs.status} = 'Failed' and ${jobs.attempts} < ${jobs.maxAttempts}))`

/** `jobs_locked_by_queue_idx`: Running or Queued, with an owner as the contract demands. */
export const OWNED = owned()

/** `jobs_job_type_done_at_idx`: everything that has ended at least once and was not claimed since. */
export const ENDED = isNotNull(jobs.doneAt)

/** `jobs_failed_idx`. */
export const UNSUCCESSFUL = sql`${jobs.status} in ('Failed', 'Killed')`
