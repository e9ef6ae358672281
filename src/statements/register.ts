import { and, eq, exists, like, notExists, sql } from 'drizzle-orm'
import { jobs, workers } from '../schema.js'
import { guard, owned } from '../vocabulary/claimable.js'
import type { Db } from '../vocabulary/db.js'
import type { TaskId } from '../vocabulary/errors.js'
import { orphanReturned, type Orphan } from '../vocabulary/orphan.js'
import { prepared } from '../vocabulary/prepared.js'

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
 * Takes a worker name in a queue, unless another live process holds it or is taking it this very moment, and with it
 * returns all tasks that an earlier process of the name left behind, however many. A row without a token is one that an
 * administrator registered: it too is taken over only once it is stale.
 *
 * A process that still has the name, by its token, renews it and takes nothing back: what the database counts as its own
 * may well run.
 *
 * One statement and no transaction: postgres.js 3.4 throws where nobody can catch it when a connection breaks inside a
 * transaction, and workers register most often while a server comes back.
 *
 * @returns The tasks taken back; `undefined` when the name is not ours.
 */
export async function register(db: Db, registration: Registration): Promise<Orphan[] | undefined> {
  const rows = await prepared(db, registerStatement).execute({ ...registration })
  if (rows.length === 0) return undefined
  return rows.flatMap(({ taskId, status, attempts }) =>
    taskId === null || status === null || attempts === null ? [] : [{ id: taskId as TaskId, status, attempts }],
  )
}

function registerStatement(db: Db) {
  const name = sql.placeholder('worker')
  const queue = sql.placeholder('queue')
  const registered = db.$with('registered').as(
    db
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
          // The lock that Rust workers take for the same purpose.
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
      .returning({ worker: workers.id }),
  )
  // As the row was before this statement: it sees its own changes only through `registered`.
  const renewed = db
    .select({ worker: workers.id })
    .from(workers)
    .where(
      and(eq(workers.id, name), eq(workers.workerType, queue), eq(workers.leaseToken, sql.placeholder('leaseToken'))),
    )
  const mine = and(eq(jobs.jobType, queue), eq(jobs.lockBy, name), owned())
  const leftBehind = db.$with('left_behind').as(
    db
      .select({ id: jobs.id })
      .from(jobs)
      .where(and(exists(db.select({ worker: registered.worker }).from(registered)), notExists(renewed), mine))
      // A task whose acknowledgement is under way is not waited for: it ends as it says.
      .for('update', { skipLocked: true }),
  )
  const takenBack = db.$with('taken_back').as(
    db
      .update(jobs)
      .set(orphanReturned())
      .from(leftBehind)
      .where(and(eq(jobs.id, leftBehind.id), guard(mine)))
      .returning({ taskId: jobs.id, status: jobs.status, attempts: jobs.attempts }),
  )
  return db
    .with(registered, leftBehind, takenBack)
    .select({ taskId: takenBack.taskId, status: takenBack.status, attempts: takenBack.attempts })
    .from(registered)
    .leftJoin(takenBack, sql`true`)
    .$withCache(false)
}

export interface NameInUse {
  readonly name: string
  /** Whether `register` would take it over. */
  readonly stale: boolean
  /** Whether the process that asks has it already. */
  readonly own: boolean
}

/** The workers of a queue whose name starts with a base and `#`. @param leaseToken - Of the process that asks. */
export async function namesInUse(
  db: Db,
  queue: string,
  base: string,
  leaseToken: string,
  thresholdMs: number,
): Promise<NameInUse[]> {
  const pattern = `${base.replace(/[\\%_]/g, '\\$&')}#%`
  return prepared(db, namesStatement).execute({ queue, pattern, leaseToken, thresholdMs })
}

const namesStatement = (db: Db) =>
  db
    .select({
      name: workers.id,
      stale: stale(),
      own: sql<boolean>`${workers.leaseToken} is not distinct from ${sql.placeholder('leaseToken')}`,
    })
    .from(workers)
    .where(and(eq(workers.workerType, sql.placeholder('queue')), like(workers.id, sql.placeholder('pattern'))))
    .$withCache(false)

/** A released row is stale at once, whatever the threshold of whoever comes, because `release` sets its heartbeat back. */
function stale() {
  return sql<boolean>`greatest(${workers.lastSeen}, case when ${workers.leaseToken} is not null then pg_postmaster_start_time() end)
    <= now() - ${sql.placeholder('thresholdMs')}::float8 * interval '1 ms'`
}

/** Frees the name for the next process at once, whatever its threshold. Only the holder of the token can. */
export async function release(
  db: Db,
  registration: Pick<Registration, 'queue' | 'worker' | 'leaseToken'>,
): Promise<boolean> {
  const { queue, worker, leaseToken } = registration
  const rows = await prepared(db, releaseStatement).execute({ queue, worker, leaseToken })
  return rows.length > 0
}

const releaseStatement = (db: Db) =>
  db
    .update(workers)
    .set({
      leaseToken: sql`null`,
      // Thirty days, which is more than any threshold may be: the next process may have a longer one than this, and a
      // Rust worker that wants the name, too, takes only rows whose heartbeat is old.
      lastSeen: sql`now() - interval '720 hours'`,
    })
    .where(
      and(
        eq(workers.id, sql.placeholder('worker')),
        eq(workers.workerType, sql.placeholder('queue')),
        eq(workers.leaseToken, sql.placeholder('leaseToken')),
      ),
    )
    .returning({ id: workers.id })
