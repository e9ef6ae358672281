import { and, eq, like, sql } from 'drizzle-orm'
import { jobs, workers } from '../schema.js'
import { owned } from '../vocabulary/claimable.js'
import { prepared } from '../vocabulary/db.js'
import type { Db } from '../vocabulary/db.js'
import { orphanReturned } from '../vocabulary/orphan.js'

export interface Registration {
  readonly queue: string
  readonly worker: string
  /** A secret of this process; never logged, never listed. */
  readonly leaseToken: string
  readonly storageName: string
  readonly layers: string
  readonly thresholdMs: number
}

/**
 * Takes a worker name in a queue, unless another live process holds it or is taking it this very moment. A row without a
 * token is one that an administrator registered: it too is taken over only once it is stale.
 *
 * @returns Whether the name is ours.
 */
export async function register(tx: Db, registration: Registration): Promise<boolean> {
  const rows = await prepared(tx, registerStatement).execute({ ...registration })
  return rows.length > 0
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
          storageName: sql<string>`${sql.placeholder('storageName')}::text`.as('storage_name'),
          layers: sql<string>`${sql.placeholder('layers')}::text`.as('layers'),
          lastSeen: sql<Date>`now()`.as('last_seen'),
          startedAt: sql<Date>`now()`.as('started_at'),
          leaseToken: sql<string>`${sql.placeholder('leaseToken')}::text`.as('lease_token'),
        })
        // The lock that Rust workers take for the same purpose, until the transaction ends.
        .from(sql`(select pg_try_advisory_xact_lock(hashtext(${name}), hashtext(${queue})) as free) as name`)
        .where(sql`name.free`),
    )
    .onConflictDoUpdate({
      target: [workers.id, workers.workerType],
      set: {
        storageName: sql`excluded.storage_name`,
        layers: sql`excluded.layers`,
        lastSeen: sql`excluded.last_seen`,
        leaseToken: sql`excluded.lease_token`,
      },
      setWhere: sql`${workers.leaseToken} = excluded.lease_token or ${stale()}`,
    })
    .returning({ id: workers.id })
}

export interface NameInUse {
  readonly name: string
  /** Whether `register` would take it over. */
  readonly stale: boolean
}

/** The workers of a queue whose name starts with a base and `#`. */
export async function namesInUse(tx: Db, queue: string, base: string, thresholdMs: number): Promise<NameInUse[]> {
  const pattern = `${base.replace(/[\\%_]/g, '\\$&')}#%`
  return prepared(tx, namesStatement).execute({ queue, pattern, thresholdMs })
}

const namesStatement = (db: Db) =>
  db
    .select({ name: workers.id, stale: stale() })
    .from(workers)
    .where(and(eq(workers.workerType, sql.placeholder('queue')), like(workers.id, sql.placeholder('pattern'))))
    .$withCache(false)

/** A released row counts as stale at once, because `release` sets its heartbeat back. */
function stale() {
  return sql<boolean>`greatest(${workers.lastSeen}, case when ${workers.leaseToken} is not null then pg_postmaster_start_time() end)
    <= now() - ${sql.placeholder('thresholdMs')}::float8 * interval '1 ms'`
}

/**
 * Returns all tasks that an earlier process of this worker name left behind, however many. Call it in the transaction
 * that registered the name.
 *
 * @returns The ids of the tasks taken back.
 */
export async function takeBackTasks(tx: Db, queue: string, worker: string): Promise<string[]> {
  const rows = await prepared(tx, takeBackStatement).execute({ queue, worker })
  return rows.map((row) => row.id)
}

function takeBackStatement(db: Db) {
  const mine = and(eq(jobs.jobType, sql.placeholder('queue')), eq(jobs.lockBy, sql.placeholder('worker')), owned())
  const left = db
    .$with('left_behind')
    .as(db.select({ id: jobs.id }).from(jobs).where(mine).for('update', { skipLocked: true }))
  return db
    .with(left)
    .update(jobs)
    .set(orphanReturned())
    .from(left)
    .where(and(eq(jobs.id, left.id), mine))
    .returning({ id: jobs.id })
}

/** Frees the name for the next process at once. Only the holder of the token can. */
export async function release(
  db: Db,
  registration: Pick<Registration, 'queue' | 'worker' | 'leaseToken' | 'thresholdMs'>,
): Promise<boolean> {
  const { queue, worker, leaseToken, thresholdMs } = registration
  const rows = await prepared(db, releaseStatement).execute({ queue, worker, leaseToken, thresholdMs })
  return rows.length > 0
}

const releaseStatement = (db: Db) =>
  db
    .update(workers)
    .set({
      leaseToken: sql`null`,
      // A Rust worker that wants the name, too, takes only rows whose heartbeat is old.
      lastSeen: sql`now() - ${sql.placeholder('thresholdMs')}::float8 * interval '1 ms'`,
    })
    .where(
      and(
        eq(workers.id, sql.placeholder('worker')),
        eq(workers.workerType, sql.placeholder('queue')),
        eq(workers.leaseToken, sql.placeholder('leaseToken')),
      ),
    )
    .returning({ id: workers.id })
