/** The locks that keep two setups apart. They are advisory: nothing but a setup ever waits for them. */
import { sql } from 'drizzle-orm'
import type { Db } from '../vocabulary/db.js'

/** Until the end of the transaction. The key is shared with the Rust crates, so a Rust setup waits too. */
export async function lockSetup(tx: Db): Promise<void> {
  await tx.execute(sql`select pg_advisory_xact_lock(hashtext('apalis_diesel_postgres'), hashtext('migrations'))`)
}

/**
 * Until the session ends. Tried, not waited for: a session that waits holds a snapshot, CREATE INDEX CONCURRENTLY waits for
 * snapshots, and neither would ever end. That is why it is not the key of `lockSetup`, for which the Rust crates wait.
 */
export async function tryLockIndexBuild(session: Db): Promise<boolean> {
  return one(session, sql<boolean>`pg_try_advisory_lock(hashtext('apalis_drizzle'), hashtext('indexes'))`)
}

/** Whether the holder of that lock is at work, as opposed to a process that hangs. */
export async function indexBuildUnderWay(db: Db): Promise<boolean> {
  return one(
    db,
    sql<boolean>`exists (
      select 1 from pg_locks l join pg_stat_progress_create_index p on p.pid = l.pid
      where l.locktype = 'advisory' and l.granted and l.objsubid = 2
        and (l.classid, l.objid) = (hashtext('apalis_drizzle')::oid, hashtext('indexes')::oid)
        and l.database = (select oid from pg_database where datname = current_database())
    )`,
  )
}

async function one(db: Db, value: ReturnType<typeof sql<boolean>>): Promise<boolean> {
  const [row] = await db
    .select({ value })
    .from(sql`(values (1)) as one (row)`)
    .$withCache(false)
  return row?.value === true
}
