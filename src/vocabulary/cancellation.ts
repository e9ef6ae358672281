import { sql, type SQL, type SQLWrapper } from 'drizzle-orm'
import { CANCEL_CHANNEL } from './notification.js'

/** The result of a cancelled task. No handler says just this by chance, so a worker recognises it. */
export const CANCELLED = sql`'{"Err": "Cancelled by an administrator."}'::jsonb`

/**
 * Tells the worker that held a task before it was cancelled. It names no task, so that one transaction tells a worker once,
 * however many of its tasks are cancelled.
 */
export function tellOwner(before: Record<'queue' | 'status' | 'lockBy', SQLWrapper>): SQL {
  return sql`case when ${before.status} in ('Running', 'Queued') then
    pg_notify(${sql.raw(`'${CANCEL_CHANNEL}'`)}, pg_catalog.json_build_object('job_type', ${before.queue}, 'worker', ${before.lockBy})::text)::text end`
}
