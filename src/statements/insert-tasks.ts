import { and, notExists, sql, type SQL } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { isKeyed } from '../vocabulary/batch.js'
import { announcesOutsideTx } from '../vocabulary/notify-limit.js'
import type { Db } from '../vocabulary/db.js'
import { insertingAll, insertInto, leavingOutTakenKeys, switched, SWITCHED } from '../vocabulary/new-jobs.js'
import { prepared } from '../vocabulary/prepared.js'
import { rowArrays } from '../vocabulary/row-arrays.js'
import { keyParameters, tasksWithTakenKey } from '../vocabulary/taken-keys.js'
import type { EncodedTask } from '../vocabulary/task.js'

/**
 * Inserts tasks in the caller's transaction, one statement and one round trip. A task whose key is taken is left out,
 * without an error, which would abort the transaction.
 *
 * @param tasks - In the order of their keys, in which they are inserted: two batches with keys in opposite order would deadlock.
 * @param announce - Whether idle workers are notified at commit.
 * @returns The ids that were stored.
 */
export async function insertTasks(tx: Db, tasks: readonly EncodedTask[], announce: boolean): Promise<Set<string>> {
  const values = { ...parameters(tasks), ...switched(announce) }
  if (tasks.some(isKeyed)) {
    const stored = await prepared(tx, insertUnlessKeyTaken).execute(values)
    return new Set(stored.map(({ id }) => id))
  }
  await prepared(tx, insert).execute(values)
  return new Set(tasks.map(({ id }) => id))
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
  const values = { ...parameters(tasks), ...switched(announcesOutsideTx(tasks)) }
  if (tasks.some(isKeyed)) {
    return (await prepared(db, insertIfKeysAreFree).execute({ ...values, ...keyParameters(tasks) })).length > 0
  }
  await prepared(db, insertAll).execute(values)
  return true
}

const rows = rowArrays('task', {
  job: 'bytea',
  id: 'text',
  job_type: 'text',
  max_attempts: 'int',
  run_at_ms: 'float8',
  delay_ms: 'float8',
  priority: 'int',
  metadata: 'text',
  idempotency_key: 'text',
})

function parameters(tasks: readonly EncodedTask[]): Record<string, string | null> {
  return rows.parameters({
    job: tasks.map((task) => task.job),
    id: tasks.map((task) => task.id),
    job_type: tasks.map((task) => task.queue),
    max_attempts: tasks.map((task) => task.maxAttempts),
    run_at_ms: tasks.map((task) => task.runAtMs ?? null),
    delay_ms: tasks.map((task) => task.delayMs),
    priority: tasks.map((task) => task.priority),
    metadata: tasks.map((task) => task.metadata),
    idempotency_key: tasks.map((task) => task.idempotencyKey),
  })
}

/** As `SWITCHED`, and with a limit to how long it waits for other sessions. */
const OWN_SETTINGS = sql`(select set_config('lock_timeout', '2s', true)) is not null and ${SWITCHED}`

function tasksIf(condition: SQL): SQL {
  // The server's clock, unless the caller named an instant: clocks of app and database differ.
  return sql`
    select task.job, task.id, task.job_type, task.max_attempts,
      coalesce('epoch'::timestamptz + task.run_at_ms * interval '1 ms', now()) + task.delay_ms * interval '1 ms',
      task.priority, task.metadata::jsonb, task.idempotency_key
    from ${rows.source} where ${condition}`
}

const TASKS = tasksIf(SWITCHED)
const TASKS_WITH_OWN_SETTINGS = tasksIf(OWN_SETTINGS)

const insert = (db: Db) => insertingAll(db, TASKS)
const insertUnlessKeyTaken = (db: Db) => leavingOutTakenKeys(db, TASKS)
const insertAll = (db: Db) => insertingAll(db, TASKS_WITH_OWN_SETTINGS)

/** Looks before it inserts, because an error stands in the server's log; the unique index still decides. */
const insertIfKeysAreFree = (db: Db) =>
  insertInto(db, tasksIf(and(OWN_SETTINGS, notExists(tasksWithTakenKey(db)))!)).returning({ id: jobs.id })
