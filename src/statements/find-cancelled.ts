import { and, eq, sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { arrayLiteral } from '../vocabulary/array-literal.js'
import { CANCELLED } from '../vocabulary/cancellation.js'
import { guard } from '../vocabulary/claimable.js'
import type { Db } from '../vocabulary/db.js'
import type { Fence } from '../vocabulary/outcome.js'
import { prepared } from '../vocabulary/prepared.js'

/**
 * Which claims of a worker were cancelled: their tasks show the owner and lock time of the claim, and the result of a
 * cancellation.
 */
export async function findCancelled(
  db: Db,
  queue: string,
  worker: string,
  claims: readonly Fence[],
): Promise<ReadonlySet<string>> {
  const rows = await prepared(db, cancelledStatement).execute({
    queue,
    worker,
    id: arrayLiteral(claims.map(({ id }) => id)),
    lockAt: arrayLiteral(claims.map(({ lockAt }) => lockAt)),
  })
  return new Set(rows.map(({ id }) => id))
}

function cancelledStatement(db: Db) {
  const claims = sql`unnest(${sql.placeholder('id')}::text[], ${sql.placeholder('lockAt')}::bigint[]) as claim(id, lock_at)`
  return db
    .select({ id: jobs.id })
    .from(jobs)
    .innerJoin(
      claims,
      and(
        sql`${jobs.id} = claim.id`,
        guard(
          sql`${jobs.status} = 'Killed'`,
          eq(jobs.jobType, sql.placeholder('queue')),
          eq(jobs.lockBy, sql.placeholder('worker')),
          sql`${jobs.lockAt} = to_timestamp(claim.lock_at::float8)`,
          sql`${jobs.lastResult} = ${CANCELLED}`,
        ),
      ),
    )
    .$withCache(false)
}
