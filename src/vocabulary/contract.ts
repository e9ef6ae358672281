/**
 * What schema `apalis` has to contain, in PostgreSQL's own words (`pg_get_constraintdef` and its sisters), because that is
 * what the Rust crates compare. Where generations of Rust crates differ, the first text is what this library creates and
 * the others are left as they are.
 */

export const TABLES = {
  jobs: [
    'job bytea not null',
    'id text not null',
    'job_type text not null',
    "status text not null default 'Pending'::text",
    'attempts integer not null default 0',
    'max_attempts integer not null default 25',
    'run_at timestamp with time zone not null default now()',
    'last_result jsonb',
    'lock_at timestamp with time zone',
    'lock_by text',
    'done_at timestamp with time zone',
    'priority integer not null default 0',
    'metadata jsonb',
    'idempotency_key text',
  ],
  workers: [
    'id text not null',
    'worker_type text not null',
    'storage_name text not null',
    "layers text not null default ''::text",
    'last_seen timestamp with time zone not null default now()',
    'started_at timestamp with time zone',
    'lease_token text',
  ],
} as const

export const SNAPSHOT_COLUMNS = [
  'job_type text',
  'total_jobs bigint',
  'running_jobs bigint',
  'pending_jobs bigint',
  'queued_jobs bigint',
  'failed_jobs bigint',
  'done_jobs bigint',
  'killed_jobs bigint',
  'active_jobs bigint',
  'jobs_past_hour bigint',
  'jobs_past_day bigint',
  'jobs_past_7_days bigint',
  'most_recent_run_at timestamp with time zone',
  'most_recent_done_at timestamp with time zone',
  'snapshot_at timestamp with time zone',
] as const

export interface ConstraintContract {
  readonly table: 'jobs' | 'workers'
  readonly name: string
  readonly definitions: readonly [string, ...string[]]
  /** Without it the database is not one that this library or a known Rust crate made. */
  readonly identifies?: true
}

export const CONSTRAINTS: readonly ConstraintContract[] = [
  { table: 'jobs', name: 'jobs_pkey', definitions: ['PRIMARY KEY (id)'], identifies: true },
  { table: 'workers', name: 'workers_pkey', definitions: ['PRIMARY KEY (id, worker_type)'], identifies: true },
  {
    table: 'jobs',
    name: 'jobs_lock_by_worker_type_fkey',
    definitions: ['FOREIGN KEY (lock_by, job_type) REFERENCES apalis.workers(id, worker_type)'],
    identifies: true,
  },
  {
    table: 'jobs',
    name: 'jobs_status_check',
    definitions: [
      "CHECK ((status = ANY (ARRAY['Pending'::text, 'Queued'::text, 'Running'::text, 'Done'::text, 'Failed'::text, 'Killed'::text])))",
    ],
    identifies: true,
  },
  { table: 'jobs', name: 'jobs_attempts_check', definitions: ['CHECK ((attempts >= 0))'] },
  { table: 'jobs', name: 'jobs_max_attempts_check', definitions: ['CHECK ((max_attempts > 0))'] },
  { table: 'jobs', name: 'jobs_attempts_lte_max_attempts_check', definitions: ['CHECK ((attempts <= max_attempts))'] },
  {
    table: 'jobs',
    name: 'jobs_priority_check',
    // The second text is that of databases in which priority was once optional.
    definitions: ['CHECK ((priority >= 0))', 'CHECK (((priority IS NULL) OR (priority >= 0)))'],
  },
]

export interface IndexContract {
  readonly name: string
  /** Beginning with what this library creates; a second text is that of apalis-diesel-postgres 0.5 and newer. */
  readonly definitions: readonly [string, ...string[]]
  /**
   * `correctness`: without it the database is not one that this library or a known Rust crate made. `performance`: created
   * where it is missing. `rust`: only Rust crates ask for it, and each costs every task a few percent.
   */
  readonly purpose: 'correctness' | 'performance' | 'rust'
}

/** What REFRESH MATERIALIZED VIEW CONCURRENTLY needs. */
export const SNAPSHOT_INDEX: IndexContract = {
  name: 'queue_stats_snapshot_job_type_idx',
  definitions: [
    'CREATE UNIQUE INDEX queue_stats_snapshot_job_type_idx ON apalis.queue_stats_snapshot USING btree (job_type)',
  ],
  purpose: 'performance',
}

export const INDEXES: readonly IndexContract[] = [
  {
    name: 'idx_jobs_idempotency_key',
    definitions: [
      'CREATE UNIQUE INDEX idx_jobs_idempotency_key ON apalis.jobs USING btree (job_type, idempotency_key) WHERE (idempotency_key IS NOT NULL)',
    ],
    purpose: 'correctness',
  },
  {
    name: 'jobs_dequeue_idx',
    definitions: [
      "CREATE INDEX jobs_dequeue_idx ON apalis.jobs USING btree (job_type, priority DESC, run_at, id) WHERE ((status = 'Pending'::text) OR ((status = 'Failed'::text) AND (attempts < max_attempts)))",
      "CREATE INDEX jobs_dequeue_idx ON apalis.jobs USING btree (job_type, priority DESC, run_at, id) WHERE ((status = ANY (ARRAY['Pending'::text, 'Failed'::text])) AND (attempts < max_attempts))",
    ],
    purpose: 'performance',
  },
  {
    name: 'jobs_locked_by_queue_idx',
    definitions: [
      "CREATE INDEX jobs_locked_by_queue_idx ON apalis.jobs USING btree (job_type, lock_by) WHERE ((lock_by IS NOT NULL) AND (status = ANY (ARRAY['Running'::text, 'Queued'::text])))",
    ],
    purpose: 'performance',
  },
  {
    name: 'jobs_job_type_done_at_idx',
    definitions: [
      'CREATE INDEX jobs_job_type_done_at_idx ON apalis.jobs USING btree (job_type, done_at) WHERE (done_at IS NOT NULL)',
    ],
    purpose: 'performance',
  },
  {
    name: 'jobs_failed_idx',
    definitions: [
      "CREATE INDEX jobs_failed_idx ON apalis.jobs USING btree (job_type, status, done_at DESC, run_at DESC, id DESC) WHERE (status = ANY (ARRAY['Failed'::text, 'Killed'::text]))",
    ],
    purpose: 'performance',
  },
  {
    name: 'jobs_list_by_queue_idx',
    definitions: [
      'CREATE INDEX jobs_list_by_queue_idx ON apalis.jobs USING btree (job_type, status, done_at DESC, run_at DESC)',
      'CREATE INDEX jobs_list_by_queue_idx ON apalis.jobs USING btree (job_type, status, done_at DESC, run_at DESC, id DESC)',
    ],
    purpose: 'rust',
  },
  {
    name: 'jobs_list_all_idx',
    definitions: [
      'CREATE INDEX jobs_list_all_idx ON apalis.jobs USING btree (status, done_at DESC, run_at DESC)',
      'CREATE INDEX jobs_list_all_idx ON apalis.jobs USING btree (status, done_at DESC, run_at DESC, id DESC)',
    ],
    purpose: 'rust',
  },
  {
    name: 'jobs_job_type_run_at_idx',
    definitions: ['CREATE INDEX jobs_job_type_run_at_idx ON apalis.jobs USING btree (job_type, run_at)'],
    purpose: 'rust',
  },
  {
    name: 'jobs_run_at_idx',
    definitions: ['CREATE INDEX jobs_run_at_idx ON apalis.jobs USING btree (run_at)'],
    purpose: 'rust',
  },
  {
    name: 'workers_worker_type_last_seen_idx',
    definitions: [
      'CREATE INDEX workers_worker_type_last_seen_idx ON apalis.workers USING btree (worker_type, last_seen DESC)',
    ],
    purpose: 'rust',
  },
]

const GET_JOBS =
  '(worker_id text, v_job_type text, v_job_count integer DEFAULT 5) returns SETOF apalis.jobs language plpgsql volatile security invoker'

export const GET_JOBS_SIGNATURES = [
  `${GET_JOBS} set search_path=pg_catalog, apalis, pg_temp`,
  `${GET_JOBS} set search_path=pg_catalog, apalis`,
] as const

export const NOTIFY_SIGNATURE =
  '() returns trigger language plpgsql volatile security invoker set search_path=pg_catalog, apalis, pg_temp'

export const TRIGGER =
  'CREATE TRIGGER notify_workers AFTER INSERT ON apalis.jobs REFERENCING NEW TABLE AS new_jobs FOR EACH STATEMENT EXECUTE FUNCTION apalis.notify_new_jobs()'

/** What migration 0004 sets. Set where nobody has chosen a value. */
export const JOBS_SETTINGS = {
  autovacuum_vacuum_scale_factor: '0.01',
  autovacuum_vacuum_threshold: '1000',
  autovacuum_vacuum_insert_scale_factor: '0.05',
  autovacuum_analyze_scale_factor: '0.01',
  autovacuum_analyze_threshold: '1000',
  autovacuum_vacuum_cost_delay: '0',
} as const

/** Of schema `apalis_drizzle`, which no Rust crate knows. */
export const PAUSED_QUEUES = {
  columns: ['queue text not null', 'paused_at timestamp with time zone not null default now()'],
  primaryKey: 'PRIMARY KEY (queue)',
} as const
