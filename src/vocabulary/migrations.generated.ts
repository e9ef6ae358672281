/** The migrations of drizzle/, in order. Written by `npm run generate`; not to be edited. */
export interface Migration {
  readonly name: string
  /** Written by hand, because drizzle-kit does not know such objects; the others it generates from src/schema.ts. */
  readonly custom: boolean
  /** Of the file, so that the ledger tells one text of a migration from another. */
  readonly sha256: string
  readonly statements: readonly string[]
}
export const migrations = [
  {
    name: '0000_init',
    custom: false,
    sha256: '6eb81cd765ed337234996111ae81349472eb6e2f18d13a4185388272e02f2ed2',
    statements: [
      `CREATE SCHEMA IF NOT EXISTS "apalis";`,
      `CREATE TABLE "apalis"."jobs" (
	"job" "bytea" NOT NULL,
	"id" text PRIMARY KEY NOT NULL,
	"job_type" text NOT NULL,
	"status" text DEFAULT 'Pending' NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"max_attempts" integer DEFAULT 25 NOT NULL,
	"run_at" timestamp with time zone DEFAULT now() NOT NULL,
	"last_result" jsonb,
	"lock_at" timestamp with time zone,
	"lock_by" text,
	"done_at" timestamp with time zone,
	"priority" integer DEFAULT 0 NOT NULL,
	"metadata" jsonb,
	"idempotency_key" text,
	CONSTRAINT "jobs_status_check" CHECK ("apalis"."jobs"."status" IN ('Pending', 'Queued', 'Running', 'Done', 'Failed', 'Killed')),
	CONSTRAINT "jobs_attempts_check" CHECK ("apalis"."jobs"."attempts" >= 0),
	CONSTRAINT "jobs_max_attempts_check" CHECK ("apalis"."jobs"."max_attempts" > 0),
	CONSTRAINT "jobs_attempts_lte_max_attempts_check" CHECK ("apalis"."jobs"."attempts" <= "apalis"."jobs"."max_attempts"),
	CONSTRAINT "jobs_priority_check" CHECK ("apalis"."jobs"."priority" >= 0)
);`,
      `CREATE TABLE "apalis"."workers" (
	"id" text NOT NULL,
	"worker_type" text NOT NULL,
	"storage_name" text NOT NULL,
	"layers" text DEFAULT '' NOT NULL,
	"last_seen" timestamp with time zone DEFAULT now() NOT NULL,
	"started_at" timestamp with time zone,
	"lease_token" text,
	CONSTRAINT "workers_pkey" PRIMARY KEY("id","worker_type")
);`,
      `ALTER TABLE "apalis"."jobs" ADD CONSTRAINT "jobs_lock_by_worker_type_fkey" FOREIGN KEY ("lock_by","job_type") REFERENCES "apalis"."workers"("id","worker_type") ON DELETE no action ON UPDATE no action;`,
      `CREATE UNIQUE INDEX "idx_jobs_idempotency_key" ON "apalis"."jobs" USING btree ("job_type","idempotency_key") WHERE "apalis"."jobs"."idempotency_key" IS NOT NULL;`,
      `CREATE INDEX "jobs_dequeue_idx" ON "apalis"."jobs" USING btree ("job_type","priority" DESC NULLS FIRST,"run_at","id") WHERE "apalis"."jobs"."status" = 'Pending' OR ("apalis"."jobs"."status" = 'Failed' AND "apalis"."jobs"."attempts" < "apalis"."jobs"."max_attempts");`,
      `CREATE INDEX "jobs_locked_by_queue_idx" ON "apalis"."jobs" USING btree ("job_type","lock_by") WHERE "apalis"."jobs"."lock_by" IS NOT NULL AND "apalis"."jobs"."status" IN ('Running', 'Queued');`,
      `CREATE INDEX "jobs_job_type_done_at_idx" ON "apalis"."jobs" USING btree ("job_type","done_at") WHERE "apalis"."jobs"."done_at" IS NOT NULL;`,
      `CREATE INDEX "jobs_failed_idx" ON "apalis"."jobs" USING btree ("job_type","status","done_at" DESC NULLS FIRST,"run_at" DESC NULLS FIRST,"id" DESC NULLS FIRST) WHERE "apalis"."jobs"."status" IN ('Failed', 'Killed');`,
    ],
  },
  {
    name: '0001_get_jobs',
    custom: true,
    sha256: 'c9384adb6de878b1c52484b30a44c5ea209c87c3e1567967a905fd16779bd7d7',
    statements: [
      `-- Claims due tasks for consumers in other languages; this library's workers have a statement of their own. Its parameters'
-- names are part of the contract: PostgreSQL refuses to replace a function under other names.
CREATE OR REPLACE FUNCTION apalis.get_jobs(worker_id text, v_job_type text, v_job_count integer DEFAULT 5)
RETURNS SETOF apalis.jobs
LANGUAGE plpgsql
VOLATILE
SECURITY INVOKER
SET search_path = pg_catalog, apalis, pg_temp
AS $function$
BEGIN
  IF worker_id IS NULL THEN
    RAISE EXCEPTION 'get_jobs needs a worker id' USING ERRCODE = 'null_value_not_allowed';
  END IF;

  -- Workers are locked before jobs, everywhere. KEY SHARE keeps the row and lets its heartbeat pass.
  PERFORM 1 FROM apalis.workers
  WHERE workers.id = worker_id AND workers.worker_type = v_job_type
  FOR KEY SHARE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'worker % is not registered in queue %', quote_literal(worker_id), quote_nullable(v_job_type)
      USING ERRCODE = 'foreign_key_violation', HINT = 'Register the worker for this queue first.';
  END IF;

  RETURN QUERY
  WITH due AS MATERIALIZED (
    SELECT jobs.id
    FROM apalis.jobs
    WHERE jobs.job_type = v_job_type
      -- One fact in two forms: the index of some generations matches the first, of others the second.
      AND (jobs.status = 'Pending' OR (jobs.status = 'Failed' AND jobs.attempts < jobs.max_attempts))
      AND jobs.status IN ('Pending', 'Failed') AND jobs.attempts < jobs.max_attempts
      AND jobs.run_at <= now()
    ORDER BY jobs.priority DESC, jobs.run_at, jobs.id
    LIMIT v_job_count
    FOR UPDATE SKIP LOCKED
  ), claimed AS (
    UPDATE apalis.jobs
    SET status = 'Queued', lock_by = worker_id, lock_at = date_trunc('second', now()), done_at = NULL
    FROM due
    WHERE jobs.id = due.id
    RETURNING jobs.*
  )
  SELECT * FROM claimed ORDER BY claimed.priority DESC, claimed.run_at, claimed.id;
END
$function$;`,
    ],
  },
  {
    name: '0002_notify_new_jobs',
    custom: true,
    sha256: '0c086b8097b987e9318b757b6e046365477abba2b6e3aabb31858027133fd2e1',
    statements: [
      `-- Announces new tasks on the channel apalis::job::insert, per queue in payloads of at most 100 ids: a payload must stay
-- under 8000 bytes, or the INSERT fails.
CREATE OR REPLACE FUNCTION apalis.notify_new_jobs()
RETURNS trigger
LANGUAGE plpgsql
VOLATILE
SECURITY INVOKER
SET search_path = pg_catalog, apalis, pg_temp
AS $function$
DECLARE
  switch text := current_setting('apalis.notify_once', true);
  -- Tasks due before an idle worker polls again are announced as well: the worker then asks when they are due.
  -- The clock, not now(): a transaction may be older than the run_at of its own tasks.
  soon timestamptz := clock_timestamp() + interval '5 seconds';
  announcement text;
BEGIN
  -- The switch speaks of one INSERT. It is taken back here, so that the next one of the transaction is announced.
  IF switch <> '' THEN
    PERFORM set_config('apalis.notify_once', '', true);
    IF switch = 'off' THEN
      RETURN NULL;
    END IF;
  END IF;

  FOR announcement IN
    SELECT json_build_object('job_type', numbered.job_type, 'ids', json_agg(numbered.id ORDER BY numbered.id))
    FROM (
      SELECT job_type, id, (row_number() OVER (PARTITION BY job_type ORDER BY id) - 1) / 100 AS chunk
      FROM new_jobs
      WHERE run_at <= soon
    ) AS numbered
    GROUP BY numbered.job_type, numbered.chunk
    ORDER BY numbered.job_type, numbered.chunk
  LOOP
    PERFORM pg_notify('apalis::job::insert', announcement);
  END LOOP;
  RETURN NULL;
END
$function$;`,
      `CREATE TRIGGER notify_workers
AFTER INSERT ON apalis.jobs
REFERENCING NEW TABLE AS new_jobs
FOR EACH STATEMENT EXECUTE FUNCTION apalis.notify_new_jobs();`,
    ],
  },
  {
    name: '0003_queue_stats_snapshot',
    custom: true,
    sha256: '546bcca8b1694ab7c5e4dd28dcf1a66ea3ae7bc0a62b7f1bea0af5478c21a9ec',
    statements: [
      `-- Counts per queue as of the last refresh, for dashboards: the live counts scan the table.
CREATE MATERIALIZED VIEW apalis.queue_stats_snapshot AS
SELECT
  job_type,
  count(*) AS total_jobs,
  count(*) FILTER (WHERE status = 'Running') AS running_jobs,
  count(*) FILTER (WHERE status = 'Pending') AS pending_jobs,
  count(*) FILTER (WHERE status = 'Queued') AS queued_jobs,
  count(*) FILTER (WHERE status = 'Failed') AS failed_jobs,
  count(*) FILTER (WHERE status = 'Done') AS done_jobs,
  count(*) FILTER (WHERE status = 'Killed') AS killed_jobs,
  count(*) FILTER (WHERE status IN ('Pending', 'Queued', 'Running')) AS active_jobs,
  count(*) FILTER (WHERE run_at >= now() - interval '1 hour') AS jobs_past_hour,
  count(*) FILTER (WHERE run_at >= now() - interval '24 hours') AS jobs_past_day,
  count(*) FILTER (WHERE run_at >= now() - interval '7 days') AS jobs_past_7_days,
  max(run_at) AS most_recent_run_at,
  max(done_at) AS most_recent_done_at,
  now() AS snapshot_at
FROM apalis.jobs
GROUP BY job_type
WITH NO DATA;`,
      `-- REFRESH MATERIALIZED VIEW CONCURRENTLY needs it.
CREATE UNIQUE INDEX queue_stats_snapshot_job_type_idx ON apalis.queue_stats_snapshot USING btree (job_type);`,
      `-- Nothing is scanned yet, and a view that was never filled is an error to every reader, tools that introspect included.
REFRESH MATERIALIZED VIEW apalis.queue_stats_snapshot;`,
    ],
  },
  {
    name: '0004_autovacuum',
    custom: true,
    sha256: '2b24624ea3f52cb4a3e817a783d6405eddbc60d31894477bd191794f6cb08cec',
    statements: [
      `-- By default a table with a million finished tasks collects 200,000 dead rows before it is vacuumed, and claims walk past
-- their index entries; and its statistics are as old as 100,000 changes.
ALTER TABLE apalis.jobs SET (
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.01,
  autovacuum_analyze_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0
);`,
    ],
  },
  {
    name: '0005_paused_queues',
    custom: true,
    sha256: 'a31b9530889c537a8a42433b147dde512e970ec7bfa1f09153d58198448a32d6',
    statements: [
      `-- The queues that no worker claims from. Apart from schema apalis, whose objects are shared with Rust services, and IF NOT
-- EXISTS, because where drizzle-kit migrates the tables of apalis, \`setup\` may have run before.
CREATE SCHEMA IF NOT EXISTS apalis_drizzle;`,
      `CREATE TABLE IF NOT EXISTS apalis_drizzle.paused_queues (
  queue text PRIMARY KEY,
  paused_at timestamptz NOT NULL DEFAULT now()
);`,
    ],
  },
] as const satisfies readonly Migration[]
