import { isNull, sql } from 'drizzle-orm'
import { workers } from '../schema.js'
import type { Db } from '../vocabulary/db.js'
import { prepared } from '../vocabulary/prepared.js'

/**
 * Registers a worker name without a token, for consumers in other programs that only need the row. It waits for the lock
 * that registering workers try, so that two of them at the same time both succeed. A live worker's row is left alone.
 */
export async function registerByAdmin(db: Db, queue: string, worker: string): Promise<void> {
  await prepared(db, registerStatement).execute({ queue, worker })
}

function registerStatement(db: Db) {
  const name = sql.placeholder('worker')
  const queue = sql.placeholder('queue')
  return db
    .insert(workers)
    .select(
      db
        .select({
          id: sql<string>`${name}::text`.as('id'),
          workerType: sql<string>`${queue}::text`.as('worker_type'),
          storageName: sql<string>`'DrizzleStorage'`.as('storage_name'),
          layers: sql<string>`''`.as('layers'),
          // Not of the transaction, which may be one of the application that began long ago.
          lastSeen: sql<Date>`statement_timestamp()`.as('last_seen'),
          startedAt: sql<Date>`statement_timestamp()`.as('started_at'),
          leaseToken: sql<string | null>`null::text`.as('lease_token'),
        })
        .from(sql`(select pg_advisory_xact_lock(hashtext(${name}), hashtext(${queue}))) as locked`),
    )
    .onConflictDoUpdate({
      target: [workers.id, workers.workerType],
      // As the row of a worker that a human vouches for, it counts as alive from now on.
      set: { storageName: sql`excluded.storage_name`, lastSeen: sql`excluded.last_seen` },
      setWhere: isNull(workers.leaseToken),
    })
    .returning({ id: workers.id })
}
