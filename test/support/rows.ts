/** Rows as any program may have left them, written and read without the library. */
import type { Row, Sql } from 'postgres'

/** Intervals such as `-1 minute` count from the server's now. */
export interface StoredTask {
  readonly id: string
  readonly queue: string
  readonly status?: string
  readonly attempts?: number
  readonly maxAttempts?: number
  readonly priority?: number
  readonly runAt?: string
  readonly lockBy?: string
  readonly lockAt?: string
  readonly doneAt?: string
  readonly result?: unknown
  readonly metadata?: unknown
  readonly idempotencyKey?: string
  readonly job?: string
}

/** A ULID whose order is that of its number. */
export function taskId(n: number): string {
  return `01TESTTASK${String(n).padStart(16, '0')}`
}

export async function storeTask(sql: Sql, task: StoredTask): Promise<void> {
  const { status = 'Pending', attempts = 0, maxAttempts = 5, priority = 0, runAt = '-1 minute', job = '{}' } = task
  const { lockBy = null, lockAt = lockBy === null ? null : '-1 minute', doneAt = null, idempotencyKey = null } = task
  const json = (value: unknown) => (value === undefined ? null : JSON.stringify(value))
  await sql`
    insert into apalis.jobs (job, id, job_type, status, attempts, max_attempts, priority, run_at, lock_by, lock_at,
      done_at, last_result, metadata, idempotency_key)
    values (convert_to(${job}, 'UTF8'), ${task.id}, ${task.queue}, ${status}, ${attempts}, ${maxAttempts}, ${priority},
      now() + ${runAt}::interval, ${lockBy}, date_trunc('second', now() + ${lockAt}::interval), now() + ${doneAt}::interval,
      ${json(task.result)}::text::jsonb, ${json(task.metadata)}::text::jsonb, ${idempotencyKey})`
}

/** `taskId(1)` to `taskId(count)`, the first one due for longest. */
export async function storeTasks(sql: Sql, count: number, task: Omit<StoredTask, 'id'>): Promise<void> {
  for (let n = 1; n <= count; n++) await storeTask(sql, { runAt: `${n - count - 1} seconds`, ...task, id: taskId(n) })
}

export interface StoredWorker {
  readonly id: string
  readonly queue: string
  /** Since the last heartbeat. */
  readonly silentFor?: string
  readonly leaseToken?: string | null
}

export async function storeWorker(sql: Sql, worker: StoredWorker): Promise<void> {
  const { id, queue, silentFor = '0 seconds', leaseToken = `token of ${id}` } = worker
  await sql`
    insert into apalis.workers (id, worker_type, storage_name, last_seen, lease_token)
    values (${id}, ${queue}, 'test', now() - ${silentFor}::interval, ${leaseToken})`
}

export async function rowOf(sql: Sql, id: string): Promise<Row | undefined> {
  const [row] = await sql`select * from apalis.jobs where id = ${id}`
  return row
}

export async function workerRow(sql: Sql, id: string, queue: string): Promise<Row | undefined> {
  const [row] = await sql`select * from apalis.workers where id = ${id} and worker_type = ${queue}`
  return row
}

export async function clearTasks(sql: Sql): Promise<void> {
  await sql.unsafe('delete from apalis.jobs; delete from apalis.workers')
}

/** The ids of a queue's tasks. */
export async function storedIn(sql: Sql, queue: string): Promise<string[]> {
  const rows = await sql<{ id: string }[]>`select id from apalis.jobs where job_type = ${queue}`
  return rows.map(({ id }) => id)
}
