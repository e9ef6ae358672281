import { and, eq, sql } from 'drizzle-orm'
import { alias } from 'drizzle-orm/pg-core'
import { jobs } from '../schema.js'
import { arrayLiteral } from '../vocabulary/array-literal.js'
import { guard } from '../vocabulary/claimable.js'
import type { Db } from '../vocabulary/db.js'
import type { Fence } from '../vocabulary/outcome.js'
import { prepared } from '../vocabulary/prepared.js'

/**
 * Shows tasks that were claimed as Queued and have started as Running, so that the sweep charges them if their process
 * dies. A task that another transaction has locked stays as it is: mostly it is being acknowledged, and nobody waits here
 * for a user's transaction.
 *
 * @returns the ids of those that are shown as Running now, also by an earlier mark whose answer was lost.
 */
export async function markRunning(
  db: Db,
  queue: string,
  worker: string,
  started: readonly Fence[],
): Promise<ReadonlySet<string>> {
  const marked = await prepared(db, markStatement).execute({
    queue,
    worker,
    id: arrayLiteral(started.map(({ id }) => id)),
    attempts: arrayLiteral(started.map(({ attempts }) => attempts)),
    lockAt: arrayLiteral(started.map(({ lockAt }) => lockAt)),
  })
  return new Set(marked.map(({ id }) => id))
}

function markStatement(db: Db) {
  const claims = sql`unnest(
      ${sql.placeholder('id')}::text[], ${sql.placeholder('attempts')}::int[], ${sql.placeholder('lockAt')}::bigint[]
    ) as claim(id, attempts, lock_at)`
  const task = alias(jobs, 'task')
  const queued = db.$with('queued').as(
    db
      .select({ id: task.id })
      .from(task)
      .innerJoin(
        claims,
        and(
          sql`${task.id} = claim.id`,
          guard(
            sql`${task.status} in ('Queued', 'Running')`,
            eq(task.jobType, sql.placeholder('queue')),
            eq(task.lockBy, sql.placeholder('worker')),
            sql`${task.attempts} = claim.attempts`,
            sql`${task.lockAt} = to_timestamp(claim.lock_at::float8)`,
          ),
        ),
      )
      .for('no key update', { of: task, skipLocked: true }),
  )
  return db
    .with(queued)
    .update(jobs)
    .set({ status: sql`'Running'` })
    .from(queued)
    .where(and(eq(jobs.id, queued.id), guard(sql`${jobs.status} in ('Queued', 'Running')`)))
    .returning({ id: jobs.id })
}
