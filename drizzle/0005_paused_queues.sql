-- The queues that no worker claims from. Apart from schema apalis, whose objects are shared with Rust services, and IF NOT
-- EXISTS, because where drizzle-kit migrates the tables of apalis, `setup` may have run before.
CREATE SCHEMA IF NOT EXISTS apalis_drizzle;
--> statement-breakpoint
CREATE TABLE IF NOT EXISTS apalis_drizzle.paused_queues (
  queue text PRIMARY KEY,
  paused_at timestamptz NOT NULL DEFAULT now()
);
