import { and, eq, sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { arrayLiteral } from '../vocabulary/array-literal.js'
import { prepared } from '../vocabulary/db.js'
import type { Db } from '../vocabulary/db.js'
import type { Fence } from '../vocabulary/outcome.js'

/** Shows tasks that were claimed as Queued and have started as Running, so that the sweep charges them if their process dies. */
export async function markRunning(db: Db, queue: string, worker: string, started: readonly Fence[]): Promise<void> {
  await prepared(db, markStatement).execute({
    queue,
    worker,
    id: arrayLiteral(started.map(({ id }) => id)),
    attempts: arrayLiteral(started.map(({ attempts }) => attempts)),
    lockAt: arrayLiteral(started.map(({ lockAt }) => lockAt)),
  })
}

function markStatement(db: Db) {
  return db
    .update(jobs)
    .set({ status: sql`'Running'` })
    .from(
      sql`unnest(${sql.placeholder('id')}::text[], ${sql.placeholder('attempts')}::int[], ${sql.placeholder('lockAt')}::bigint[]) as claim(id, attempts, lock_at)`,
    )
    .where(
      and(
        sql`${jobs.id} = claim.id`,
        // Inside a CASE for the same reason as in the ack: the planner is to start from the primary key.
        sql`case when ${jobs.status} = 'Queued' and ${jobs.attempts} = claim.attempts and ${jobs.lockAt} = to_timestamp(claim.lock_at)
          and ${eq(jobs.lockBy, sql.placeholder('worker'))} and ${eq(jobs.jobType, sql.placeholder('queue'))} then true end`,
      ),
    )
    .returning({ id: jobs.id })
}
