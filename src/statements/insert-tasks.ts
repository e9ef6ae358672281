import { and, isNotNull, notExists, sql, type SQL } from 'drizzle-orm'
import { integer, text, timestamp } from 'drizzle-orm/pg-core'
import { apalis, bytea, jsonb } from '../schema.js'
import { arrayLiteral, bytesArrayLiteral } from '../vocabulary/array-literal.js'
import { isKeyed } from '../vocabulary/batch.js'
import { announcesOutsideTx } from '../vocabulary/notify-limit.js'
import { prepared, type Db } from '../vocabulary/db.js'
import { keyParameters, tasksWithTakenKey } from '../vocabulary/taken-keys.js'
import type { EncodedTask } from '../vocabulary/task.js'

/**
 * The columns a producer writes. An INSERT through the whole table would name status, attempts and the lock columns too,
 * which a role with grants on these eight alone may not do.
 */
const newJobs = apalis.table('jobs', {
  job: bytea('job').notNull(),
  id: text('id').notNull(),
  jobType: text('job_type').notNull(),
  maxAttempts: integer('max_attempts').notNull(),
  runAt: timestamp('run_at', { withTimezone: true }).notNull(),
  priority: integer('priority').notNull(),
  metadata: jsonb('metadata'),
  idempotencyKey: text('idempotency_key'),
})

/**
 * Inserts tasks in the caller's transaction, one statement and one round trip. A task whose key is taken is left out,
 * without an error, which would abort the transaction.
 *
 * @param tasks - In the order of their keys, in which they are inserted: two batches with keys in opposite order would deadlock.
 * @param announce - Whether idle workers are notified at commit.
 * @returns The ids that were stored.
 */
export async function insertTasks(tx: Db, tasks: readonly EncodedTask[], announce: boolean): Promise<Set<string>> {
  const statement = announce ? insertUnlessKeyTaken : insertUnlessKeyTakenQuietly
  const rows = await prepared(tx, statement).execute(parameters(tasks))
  return new Set(rows.map((row) => row.id))
}

/**
 * Inserts all tasks or none, on a connection of the library's own choice. It gives up after two seconds (55P03) when it
 * meets another session's uncommitted key, instead of waiting for as long as that session likes.
 *
 * @param tasks - In the order of their keys.
 * @returns Whether they were stored; `false` when a key is taken.
 * @throws 23505 when a key was taken just now, or stands twice among the tasks, and when an id is stored already.
 */
export async function insertAllTasks(db: Db, tasks: readonly EncodedTask[]): Promise<boolean> {
  const notifyOnce = announcesOutsideTx(tasks) ? '' : 'off'
  const rows = tasks.some(isKeyed)
    ? await prepared(db, insertIfKeysAreFree).execute({ ...parameters(tasks), ...keyParameters(tasks), notifyOnce })
    : await prepared(db, insertAll).execute({ ...parameters(tasks), notifyOnce })
  return rows.length > 0
}

const insertUnlessKeyTaken = (db: Db) => leavingOutTakenKeys(insertFrom(db, undefined))
const insertUnlessKeyTakenQuietly = (db: Db) => leavingOutTakenKeys(insertFrom(db, QUIETLY))

const leavingOutTakenKeys = (insert: ReturnType<typeof insertFrom>) =>
  insert
    .onConflictDoNothing({
      target: [newJobs.jobType, newJobs.idempotencyKey],
      where: isNotNull(newJobs.idempotencyKey),
    })
    .returning({ id: newJobs.id })

const insertAll = (db: Db) => insertFrom(db, OWN_SETTINGS).returning({ id: newJobs.id })

/** Looks before it inserts, because an error stands in the server's log; the unique index still decides. */
const insertIfKeysAreFree = (db: Db) =>
  insertFrom(db, and(OWN_SETTINGS, notExists(tasksWithTakenKey(db)))).returning({ id: newJobs.id })

/** Arrays and not a list of rows: one constant text for any number of tasks, and few parameters. */
function insertFrom(db: Db, condition: SQL | undefined) {
  const source = sql`unnest(
    ${sql.placeholder('job')}::bytea[], ${sql.placeholder('id')}::text[], ${sql.placeholder('jobType')}::text[],
    ${sql.placeholder('maxAttempts')}::int[], ${sql.placeholder('runAtMs')}::float8[], ${sql.placeholder('delayMs')}::float8[],
    ${sql.placeholder('priority')}::int[], ${sql.placeholder('metadata')}::text[], ${sql.placeholder('idempotencyKey')}::text[]
  ) as u(job, id, job_type, max_attempts, run_at_ms, delay_ms, priority, metadata, idempotency_key)`
  return db.insert(newJobs).select(
    db
      .select({
        job: sql<Uint8Array>`u.job`.as('job'),
        id: sql<string>`u.id`.as('id'),
        jobType: sql<string>`u.job_type`.as('job_type'),
        maxAttempts: sql<number>`u.max_attempts`.as('max_attempts'),
        runAt: RUN_AT.as('run_at'),
        priority: sql<number>`u.priority`.as('priority'),
        metadata: sql<unknown>`u.metadata::jsonb`.as('metadata'),
        idempotencyKey: sql<string | null>`u.idempotency_key`.as('idempotency_key'),
      })
      .from(source)
      .where(condition),
  )
}

/** The server's clock, unless the caller named an instant: clocks of app and database differ. */
const RUN_AT = sql<Date>`coalesce('epoch'::timestamptz + u.run_at_ms * interval '1 ms', now()) + u.delay_ms * interval '1 ms'`

/**
 * Conditions that set something for the one statement they stand in. An uncorrelated subquery runs once, before the first
 * row is inserted; an unreferenced CTE would never run. What it sets is undone at the end of the transaction, and the
 * trigger on the table takes the switch back as soon as it has read it, so that no later INSERT of a transaction is silent.
 */
const QUIETLY = sql`(select set_config('apalis.notify_once', 'off', true)) is not null`
const OWN_SETTINGS = sql`(select set_config('lock_timeout', '2s', true)
  || set_config('apalis.notify_once', ${sql.placeholder('notifyOnce')}, true)) is not null`

function parameters(tasks: readonly EncodedTask[]): Record<string, string> {
  return {
    job: bytesArrayLiteral(tasks.map((task) => task.job)),
    id: arrayLiteral(tasks.map((task) => task.id)),
    jobType: arrayLiteral(tasks.map((task) => task.queue)),
    maxAttempts: arrayLiteral(tasks.map((task) => task.maxAttempts)),
    runAtMs: arrayLiteral(tasks.map((task) => task.runAtMs ?? null)),
    delayMs: arrayLiteral(tasks.map((task) => task.delayMs)),
    priority: arrayLiteral(tasks.map((task) => task.priority)),
    metadata: arrayLiteral(tasks.map((task) => task.metadata)),
    idempotencyKey: arrayLiteral(tasks.map((task) => task.idempotencyKey)),
  }
}
