-- Announces new tasks on the channel apalis::job::insert, per queue in payloads of at most 100 ids: a payload must stay
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
$function$;
--> statement-breakpoint
CREATE TRIGGER notify_workers
AFTER INSERT ON apalis.jobs
REFERENCING NEW TABLE AS new_jobs
FOR EACH STATEMENT EXECUTE FUNCTION apalis.notify_new_jobs();
