import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'

/** The row of a claimed task, as the database holds it. */
export interface ClaimedRow {
  readonly id: string
  readonly queue: string
  readonly job: Uint8Array
  readonly status: string
  /** Executions charged before this claim. */
  readonly attempts: number
  readonly maxAttempts: number
  readonly priority: number
  readonly runAt: Date
  /** The same in microseconds since 1970, as exact as the column is; infinite where that is. */
  readonly runAtUs: number
  /** Whole seconds since 1970. A number, because a `Date` would be compared with less precision than the column has. */
  readonly lockAt: number
  /** JSON text: drivers may rename the keys of parsed JSON. */
  readonly metadata: string | null
  readonly idempotencyKey: string | null
  /** How long the server took to find and lock the tasks of the statement; with the first of them. */
  readonly foundInMs: number | null
}

/**
 * For the RETURNING of a claim whose source names each task's `place` in the order of the claim, from 1.
 *
 * All but the payload as one JSON text: driver and Drizzle take longer for each column of a row than `JSON.parse` for all.
 */
export const CLAIMED_COLUMNS = {
  job: jobs.job,
  fields: sql<string>`pg_catalog.json_build_array(next.place, ${jobs.id}, ${jobs.jobType}, ${jobs.status},
    ${jobs.attempts}, ${jobs.maxAttempts}, ${jobs.priority}, extract(epoch from ${jobs.runAt}),
    extract(epoch from ${jobs.lockAt}), ${jobs.metadata}::text, ${jobs.idempotencyKey},
    case when next.place = 1 then (extract(epoch from clock_timestamp() - statement_timestamp()) * 1000.0)::float8 end
    )::text`,
}

export interface ClaimedColumns {
  readonly job: Uint8Array
  readonly fields: string
}

type Fields = [
  place: number,
  id: string,
  queue: string,
  status: string,
  attempts: number,
  maxAttempts: number,
  priority: number,
  /** Seconds since 1970. Infinite ones are texts, because JSON has none. */
  runAt: number | string,
  lockAt: number,
  metadata: string | null,
  idempotencyKey: string | null,
  foundInMs: number | null,
]

/**
 * The rows in the order of the claim; an UPDATE returns them in none. Sorted by their columns, two tasks of the same
 * millisecond could change places, and the one that starts first would be the one that is Queued.
 */
export function claimedRows(returned: readonly ClaimedColumns[]): ClaimedRow[] {
  return returned
    .map(({ job, fields }) => ({ job, fields: JSON.parse(fields) as Fields }))
    .sort((a, b) => a.fields[0] - b.fields[0])
    .map(({ job, fields }) => claimedRow(job, fields))
}

/** Field by field, because rest and spread are slow, and each task passes through here. */
function claimedRow(job: Uint8Array, fields: Fields): ClaimedRow {
  const [, id, queue, status, attempts, maxAttempts, priority, runAtS, lockAt] = fields
  // The column has microseconds, which a number of seconds does not hold exactly.
  const runAtUs = Math.round(Number(runAtS) * 1e6)
  return {
    id,
    queue,
    job,
    status,
    attempts,
    maxAttempts,
    priority,
    runAt: new Date(Math.floor(runAtUs / 1e3)),
    runAtUs,
    lockAt,
    metadata: fields[9],
    idempotencyKey: fields[10],
    foundInMs: fields[11],
  }
}
