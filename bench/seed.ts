/**
 * A queue database after a month of work: five queues, most tasks finished, some due, some running, some waiting for a
 * retry, and in `reports` many that are scheduled for the coming weeks over five priorities.
 */
import type { Sql } from 'postgres'

export interface SeedSize {
  /** Done and Killed tasks over all queues. */
  readonly finished: number
  /** Tasks of `reports` that are due later. */
  readonly delayed: number
}

export const FULL_SIZE: SeedSize = { finished: 1_000_000, delayed: 200_000 }

export const QUEUES = ['emails', 'invoices', 'reports', 'thumbnails', 'webhooks'] as const

/** Fills the empty tables of a migrated database and leaves them vacuumed and analyzed. */
export async function seed(sql: Sql, { finished, delayed }: SeedSize = FULL_SIZE): Promise<void> {
  await flushed(
    sql,
    `
    create temporary view queue as select ordinality - 1 as place, name
      from unnest(array['${QUEUES.join("','")}']) with ordinality as queue(name);

    insert into apalis.workers (id, worker_type, storage_name, started_at, last_seen)
    select 'bench#' || k, name, 'DrizzleStorage', now() - interval '1 day', now() from queue, generate_series(1, 4) k;

    -- In the order in which they ended, one in a hundred without success.
    insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, priority, run_at, done_at, lock_by, lock_at, last_result, metadata)
    select ${id('1')}, name, ${payload}, case when killed then 'Killed' else 'Done' end, case when killed then 5 else 1 end,
      5, 0, ended - interval '20 seconds', ended, 'bench#' || (1 + n % 4), date_trunc('second', ended - interval '5 seconds'),
      case when killed then '{"Err": "Error: no route to host"}' else '{"Ok": null}' end::jsonb, '{}'
    from generate_series(1, ${finished}) n
    join queue on place = n % 5,
    lateral (select now() - (${finished} - n) * interval '30 days' / ${finished} as ended, n / 5 % 100 = 0 as killed) task;

    -- Failed during the last day, to be retried during the next.
    insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, priority, run_at, done_at, lock_by, lock_at, last_result, metadata)
    select ${id('2')}, name, ${payload}, 'Failed', 1 + n % 4, 5, 0, now() + ${scattered(86_400)}, ended,
      'bench#1', date_trunc('second', ended), '{"Err": "Error: no route to host"}', '{}'
    from generate_series(1, ${finished} / 1000) n
    join queue on place = n % 5,
    lateral (select now() - ${scattered(86_399)} as ended) task;

    insert into apalis.jobs (id, job_type, job, max_attempts, priority, run_at, metadata)
    select ${id('3', "'reports'")}, 'reports', ${payload}, 5, n % 5, now() + ${scattered(2_592_000)}, '{}'
    from generate_series(1, ${delayed}) n;

    insert into apalis.jobs (id, job_type, job, max_attempts, priority, run_at, metadata)
    select ${id('4')}, name, ${payload}, 5, n / 5 % 2, now() - ${scattered(3_600)}, '{}'
    from generate_series(1, ${finished} / 100) n join queue on place = n % 5;

    insert into apalis.jobs (id, job_type, job, status, max_attempts, priority, run_at, lock_by, lock_at, metadata)
    select ${id('5')}, name, ${payload}, case when n % 4 = 0 then 'Queued' else 'Running' end, 5, 0, now() - interval '1 minute',
      'bench#' || (1 + n % 4), date_trunc('second', now() - interval '5 seconds'), '{}'
    from generate_series(1, 40) n, queue;

    drop view queue;
    refresh materialized view apalis.queue_stats_snapshot`,
  )
  await sql`vacuum analyze apalis.jobs`
  await sql`vacuum analyze apalis.workers`
}

/** A commit that the server has not flushed yet keeps its rows from being marked as visible to all by the next VACUUM. */
export async function flushed(sql: Sql, statements: string): Promise<void> {
  await sql.begin(async (tx) => {
    await tx`set local synchronous_commit = on`
    await tx.unsafe(statements)
  })
}

/** A ULID: hex digits are Crockford's as well. */
function id(series: string, queue = 'name'): string {
  return `'0${series}' || lpad(upper(to_hex(n)), 8, '0') || upper(left(md5(${queue} || n), 16))`
}

const payload = `convert_to(json_build_object('order', n, 'to', 'customer-' || n || '@example.com', 'template', 'receipt')::text, 'UTF8')`

/** An interval for row `n`, in no order and the same in every run: plans are measured on it, and chance would blur them. */
function scattered(seconds: number): string {
  return `n::bigint * 7919 % ${seconds} * interval '1 second'`
}
