import { and, eq, ne, sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { arrayLiteral } from './array-literal.js'
import type { Db } from './db.js'
import type { EncodedTask } from './task.js'

/** Those of the tasks to be inserted whose key a stored task has; one that is stored itself does not stand in its own way. */
export function tasksWithTakenKey(db: Db) {
  const pushed = sql`unnest(
    ${sql.placeholder('keyId')}::text[], ${sql.placeholder('keyQueue')}::text[], ${sql.placeholder('key')}::text[]
  ) as pushed(id, job_type, idempotency_key)`
  return db
    .select({ id: sql<string>`pushed.id`.as('pushed_id') })
    .from(jobs)
    .innerJoin(
      pushed,
      and(
        eq(jobs.jobType, sql`pushed.job_type`),
        eq(jobs.idempotencyKey, sql`pushed.idempotency_key`),
        ne(jobs.id, sql`pushed.id`),
      ),
    )
    .$withCache(false)
}

export function keyParameters(tasks: readonly EncodedTask[]): Record<'keyId' | 'keyQueue' | 'key', string> {
  return {
    keyId: arrayLiteral(tasks.map(({ id }) => id)),
    keyQueue: arrayLiteral(tasks.map(({ queue }) => queue)),
    key: arrayLiteral(tasks.map(({ idempotencyKey }) => idempotencyKey)),
  }
}
