-- Counts per queue as of the last refresh, for dashboards: the live counts scan the table.
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
WITH NO DATA;
--> statement-breakpoint
-- REFRESH MATERIALIZED VIEW CONCURRENTLY needs it.
CREATE UNIQUE INDEX queue_stats_snapshot_job_type_idx ON apalis.queue_stats_snapshot USING btree (job_type);
--> statement-breakpoint
-- Nothing is scanned yet, and a view that was never filled is an error to every reader, tools that introspect included.
REFRESH MATERIALIZED VIEW apalis.queue_stats_snapshot;
