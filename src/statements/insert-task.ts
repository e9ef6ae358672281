import { sql } from 'drizzle-orm'
import { isKeyed } from '../vocabulary/batch.js'
import type { Db } from '../vocabulary/db.js'
import { insertingAll, leavingOutTakenKeys, switched, SWITCHED } from '../vocabulary/new-jobs.js'
import { prepared } from '../vocabulary/prepared.js'
import type { EncodedTask } from '../vocabulary/task.js'

/**
 * Inserts one task in the caller's transaction: the most frequent push, so its statement has no arrays and hardly any
 * pieces.
 *
 * @param announce - Whether idle workers are notified at commit.
 * @returns Whether it was stored; `false` when its key is taken.
 */
export async function insertTask(tx: Db, task: EncodedTask, announce: boolean): Promise<boolean> {
  const values = { ...parameters(task), ...switched(announce) }
  if (isKeyed(task)) return (await prepared(tx, insertUnlessKeyTaken).execute(values)).length > 0
  await prepared(tx, insert).execute(values)
  return true
}

// The server's clock, unless the caller named an instant: clocks of app and database differ.
const TASK = sql`
  select ${sql.placeholder('job')}::bytea, ${sql.placeholder('id')}::text, ${sql.placeholder('jobType')}::text,
    ${sql.placeholder('maxAttempts')}::int,
    coalesce('epoch'::timestamptz + ${sql.placeholder('runAtMs')}::float8 * interval '1 ms', now())
      + ${sql.placeholder('delayMs')}::float8 * interval '1 ms',
    ${sql.placeholder('priority')}::int, ${sql.placeholder('metadata')}::text::jsonb, ${sql.placeholder('idempotencyKey')}::text
  where ${SWITCHED}`

const insert = (db: Db) => insertingAll(db, TASK)
const insertUnlessKeyTaken = (db: Db) => leavingOutTakenKeys(db, TASK)

function parameters(task: EncodedTask): Record<string, string | Uint8Array | null> {
  return {
    job: task.job,
    id: task.id,
    jobType: task.queue,
    // As text: drivers send numbers in ways of their own.
    maxAttempts: String(task.maxAttempts),
    runAtMs: task.runAtMs === undefined ? null : String(task.runAtMs),
    delayMs: String(task.delayMs),
    priority: String(task.priority),
    metadata: task.metadata,
    idempotencyKey: task.idempotencyKey,
  }
}
