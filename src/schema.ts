/**
 * The tables of the `apalis` schema, defined once. drizzle-kit generates `drizzle/` from this file, the statements of
 * the library are built on it, and applications import it to join and report on tasks in typed queries.
 *
 * This file is published as TypeScript source, because the types of a Drizzle table differ between Drizzle 0.45 and 1.0.
 * So it imports nothing but Drizzle. Names, types, order of columns and the text of constraints are shared with the Rust
 * crates (apalis-diesel-postgres) and must not change.
 */
import { sql } from 'drizzle-orm'
import {
  bigint,
  check,
  customType,
  foreignKey,
  index,
  integer,
  pgSchema,
  primaryKey,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'

/** The states of a task. `Failed` is retried while attempts are left; `Done` and `Killed` are final. */
export const STATUSES = ['Pending', 'Queued', 'Running', 'Done', 'Failed', 'Killed'] as const

/** Raw bytes. Drivers return a Buffer, a Uint8Array or hex text; the value read is always a Uint8Array. */
export const bytea = customType<{ data: Uint8Array; driverData: Uint8Array | string }>({
  dataType: () => 'bytea',
  toDriver: (bytes) => bytes,
  fromDriver: (value) =>
    typeof value === 'string'
      ? Uint8Array.from(value.slice(2).match(/../g) ?? [], (hex) => Number.parseInt(hex, 16))
      : value,
})

/** JSON that reads and writes alike on every driver and Drizzle version: the cast through text keeps drivers from encoding it twice. */
export const jsonb = customType<{ data: unknown; driverData: unknown }>({
  dataType: () => 'jsonb',
  toDriver: (value) => sql`${JSON.stringify(value)}::text::jsonb`,
  fromDriver: (value) => value,
})

export const apalis = pgSchema('apalis')

/** One row per worker name and queue: proof of life and the owner side of a lease. */
export const workers = apalis.table(
  'workers',
  {
    id: text('id').notNull(),
    workerType: text('worker_type').notNull(),
    storageName: text('storage_name').notNull(),
    layers: text('layers').notNull().default(''),
    lastSeen: timestamp('last_seen', { withTimezone: true }).notNull().defaultNow(),
    startedAt: timestamp('started_at', { withTimezone: true }),
    leaseToken: text('lease_token'),
  },
  (table) => [primaryKey({ name: 'workers_pkey', columns: [table.id, table.workerType] })],
)

/** One row per task. */
export const jobs = apalis.table(
  'jobs',
  {
    job: bytea('job').notNull(),
    id: text('id').primaryKey(),
    jobType: text('job_type').notNull(),
    status: text('status', { enum: STATUSES }).notNull().default('Pending'),
    attempts: integer('attempts').notNull().default(0),
    maxAttempts: integer('max_attempts').notNull().default(25),
    runAt: timestamp('run_at', { withTimezone: true }).notNull().defaultNow(),
    lastResult: jsonb('last_result'),
    lockAt: timestamp('lock_at', { withTimezone: true }),
    lockBy: text('lock_by'),
    doneAt: timestamp('done_at', { withTimezone: true }),
    priority: integer('priority').notNull().default(0),
    metadata: jsonb('metadata'),
    idempotencyKey: text('idempotency_key'),
  },
  (table) => [
    check('jobs_status_check', sql`${table.status} IN ('Pending', 'Queued', 'Running', 'Done', 'Failed', 'Killed')`),
    check('jobs_attempts_check', sql`${table.attempts} >= 0`),
    check('jobs_max_attempts_check', sql`${table.maxAttempts} > 0`),
    check('jobs_attempts_lte_max_attempts_check', sql`${table.attempts} <= ${table.maxAttempts}`),
    check('jobs_priority_check', sql`${table.priority} >= 0`),
    foreignKey({
      name: 'jobs_lock_by_worker_type_fkey',
      columns: [table.lockBy, table.jobType],
      foreignColumns: [workers.id, workers.workerType],
    }),
    // A key is taken per queue for as long as its row exists, whatever its status.
    uniqueIndex('idx_jobs_idempotency_key')
      .on(table.jobType, table.idempotencyKey)
      .where(sql`${table.idempotencyKey} IS NOT NULL`),
    // Claims read it in order. `nullsFirst` because Postgres sorts DESC so by default, and an index in any other order is of no use.
    index('jobs_dequeue_idx')
      .on(table.jobType, table.priority.desc().nullsFirst(), table.runAt, table.id)
      .where(
        sql`${table.status} = 'Pending' OR (${table.status} = 'Failed' AND ${table.attempts} < ${table.maxAttempts})`,
      ),
    // The sweep and the heartbeat find owned tasks by it.
    index('jobs_locked_by_queue_idx')
      .on(table.jobType, table.lockBy)
      .where(sql`${table.lockBy} IS NOT NULL AND ${table.status} IN ('Running', 'Queued')`),
    // Listing and pruning of finished tasks.
    index('jobs_job_type_done_at_idx')
      .on(table.jobType, table.doneAt)
      .where(sql`${table.doneAt} IS NOT NULL`),
    // Lists of failures; only failures write it.
    index('jobs_failed_idx')
      .on(
        table.jobType,
        table.status,
        table.doneAt.desc().nullsFirst(),
        table.runAt.desc().nullsFirst(),
        table.id.desc().nullsFirst(),
      )
      .where(sql`${table.status} IN ('Failed', 'Killed')`),
  ],
)

/** Counts per queue as of the last refresh. A materialized view of the migrations; drizzle-kit neither creates nor drops it. */
export const queueStatsSnapshot = apalis
  .materializedView('queue_stats_snapshot', {
    jobType: text('job_type'),
    totalJobs: bigint('total_jobs', { mode: 'number' }),
    runningJobs: bigint('running_jobs', { mode: 'number' }),
    pendingJobs: bigint('pending_jobs', { mode: 'number' }),
    queuedJobs: bigint('queued_jobs', { mode: 'number' }),
    failedJobs: bigint('failed_jobs', { mode: 'number' }),
    doneJobs: bigint('done_jobs', { mode: 'number' }),
    killedJobs: bigint('killed_jobs', { mode: 'number' }),
    activeJobs: bigint('active_jobs', { mode: 'number' }),
    jobsPastHour: bigint('jobs_past_hour', { mode: 'number' }),
    jobsPastDay: bigint('jobs_past_day', { mode: 'number' }),
    jobsPast7Days: bigint('jobs_past_7_days', { mode: 'number' }),
    mostRecentRunAt: timestamp('most_recent_run_at', { withTimezone: true }),
    mostRecentDoneAt: timestamp('most_recent_done_at', { withTimezone: true }),
    snapshotAt: timestamp('snapshot_at', { withTimezone: true }),
  })
  .existing()
