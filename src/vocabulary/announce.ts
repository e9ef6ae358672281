import { sql, type SQL, type SQLWrapper } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { CHANNEL } from './notification.js'

/**
 * For the RETURNING of an UPDATE that may make tasks claimable, which no trigger sees: announces those that become due
 * before an idle worker looks again. It names no ids, so that the announcements of one transaction are one.
 */
export const announced = sql<string | null>`case
  when ${jobs.status} in ('Pending', 'Failed') and ${jobs.runAt} <= clock_timestamp() + interval '5 seconds'
  then ${announcement(jobs.jobType)}
end`

/** Wakes the workers of a queue when the transaction commits. */
export function announcement(queue: SQLWrapper): SQL {
  return sql`pg_notify(${sql.raw(`'${CHANNEL}'`)}, pg_catalog.json_build_object('job_type', ${queue}, 'ids', array[]::text[])::text)::text`
}
