import { and, eq, sql } from 'drizzle-orm'
import { jobs, workers } from '../schema.js'
import { owned } from '../vocabulary/claimable.js'
import type { Db } from '../vocabulary/db.js'
import type { Fence } from '../vocabulary/outcome.js'
import { prepared } from '../vocabulary/prepared.js'

export interface Heartbeat {
  /** Whether the registration is still this process's. */
  readonly registered: boolean
  /** The tasks that the database counts as claimed by this worker. */
  readonly owned: readonly Fence[]
}

/** Proves that the worker lives, and asks in the same statement which tasks it holds in the database's view. */
export async function heartbeat(db: Db, queue: string, worker: string, leaseToken: string): Promise<Heartbeat> {
  const rows = await prepared(db, heartbeatStatement).execute({ queue, worker, leaseToken })
  return {
    registered: rows.length > 0,
    owned: rows.flatMap(({ id, attempts, lockAt }) =>
      id === null || attempts === null || lockAt === null ? [] : [{ id, attempts, lockAt }],
    ),
  }
}

function heartbeatStatement(db: Db) {
  const beat = db.$with('beat').as(
    db
      .update(workers)
      .set({ lastSeen: sql`now()` })
      .where(
        and(
          eq(workers.id, sql.placeholder('worker')),
          eq(workers.workerType, sql.placeholder('queue')),
          eq(workers.leaseToken, sql.placeholder('leaseToken')),
        ),
      )
      .returning({ id: workers.id }),
  )
  return db
    .with(beat)
    .select({
      id: jobs.id,
      attempts: jobs.attempts,
      lockAt: sql<number | null>`extract(epoch from ${jobs.lockAt})::float8`,
    })
    .from(beat)
    .leftJoin(
      jobs,
      and(eq(jobs.jobType, sql.placeholder('queue')), eq(jobs.lockBy, sql.placeholder('worker')), owned()),
    )
    .$withCache(false)
}
