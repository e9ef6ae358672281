CREATE SCHEMA IF NOT EXISTS "apalis";
--> statement-breakpoint
CREATE TABLE "apalis"."jobs" (
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
);
--> statement-breakpoint
CREATE TABLE "apalis"."workers" (
	"id" text NOT NULL,
	"worker_type" text NOT NULL,
	"storage_name" text NOT NULL,
	"layers" text DEFAULT '' NOT NULL,
	"last_seen" timestamp with time zone DEFAULT now() NOT NULL,
	"started_at" timestamp with time zone,
	"lease_token" text,
	CONSTRAINT "workers_pkey" PRIMARY KEY("id","worker_type")
);
--> statement-breakpoint
ALTER TABLE "apalis"."jobs" ADD CONSTRAINT "jobs_lock_by_worker_type_fkey" FOREIGN KEY ("lock_by","job_type") REFERENCES "apalis"."workers"("id","worker_type") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "idx_jobs_idempotency_key" ON "apalis"."jobs" USING btree ("job_type","idempotency_key") WHERE "apalis"."jobs"."idempotency_key" IS NOT NULL;--> statement-breakpoint
CREATE INDEX "jobs_dequeue_idx" ON "apalis"."jobs" USING btree ("job_type","priority" DESC NULLS FIRST,"run_at","id") WHERE "apalis"."jobs"."status" = 'Pending' OR ("apalis"."jobs"."status" = 'Failed' AND "apalis"."jobs"."attempts" < "apalis"."jobs"."max_attempts");--> statement-breakpoint
CREATE INDEX "jobs_locked_by_queue_idx" ON "apalis"."jobs" USING btree ("job_type","lock_by") WHERE "apalis"."jobs"."lock_by" IS NOT NULL AND "apalis"."jobs"."status" IN ('Running', 'Queued');--> statement-breakpoint
CREATE INDEX "jobs_job_type_done_at_idx" ON "apalis"."jobs" USING btree ("job_type","done_at") WHERE "apalis"."jobs"."done_at" IS NOT NULL;--> statement-breakpoint
CREATE INDEX "jobs_failed_idx" ON "apalis"."jobs" USING btree ("job_type","status","done_at" DESC NULLS FIRST,"run_at" DESC NULLS FIRST,"id" DESC NULLS FIRST) WHERE "apalis"."jobs"."status" IN ('Failed', 'Killed');