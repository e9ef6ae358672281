import { sql, type SQL } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { microseconds } from './cursor.js'

/**
 * What is selected of a task, from the table or in a subquery. In a file of its own: the types of Drizzle's columns differ
 * between its lines, and what stands beside public types gets into the published declarations.
 */
export const STORED_COLUMNS = {
  id: jobs.id,
  queue: jobs.jobType,
  status: sql<string>`${jobs.status}`.as('status'),
  job: jobs.job,
  attempts: jobs.attempts,
  maxAttempts: jobs.maxAttempts,
  priority: jobs.priority,
  runAt: jobs.runAt,
  metadata: sql<string | null>`${jobs.metadata}::text`.as('metadata_text'),
  idempotencyKey: jobs.idempotencyKey,
  lockBy: jobs.lockBy,
  lockAt: jobs.lockAt,
  doneAt: jobs.doneAt,
  error: sql<string | null>`${lastError()}`.as('error'),
  runAtUs: microseconds(jobs.runAt).as('run_at_us'),
  doneAtUs: sql<string | null>`${microseconds(jobs.doneAt)}`.as('done_at_us'),
}

/** Of a Done task it is none, and its result, which may be large, is not looked at. */
function lastError(): SQL {
  return sql`case when ${jobs.status} <> 'Done' then pg_catalog.jsonb_extract_path_text(${jobs.lastResult}, 'Err') end`
}
