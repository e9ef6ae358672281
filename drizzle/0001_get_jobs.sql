-- Claims due tasks for consumers in other languages; this library's workers have a statement of their own. Its parameters'
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
$function$;
