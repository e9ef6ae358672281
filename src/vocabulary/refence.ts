import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'

/**
 * The earliest time for which a waiting task may be scheduled anew. Claimed in the second of an earlier claim that came
 * back uncharged, it would look like that claim, and a late acknowledgement would hit it. The lock time of such a claim is
 * no longer stored, but it is not later than the present second. By the clock, because a transaction may have begun long ago.
 */
export const earliestRunAt = sql`coalesce(${jobs.lockAt}, date_trunc('second', clock_timestamp())) + interval '1 second'`
