/**
 * Shows that the migrations create exactly what the contract asks for: each text below is the one that the Rust crates
 * compare with, or that their migrations rely on.
 */
import { describe, expect, it } from 'vitest'
import { JOBS_SETTINGS } from '../src/vocabulary/contract.js'
import { useDatabase } from './support/database.js'

const database = useDatabase()

async function columns(table: string, schema = 'apalis'): Promise<string[]> {
  const rows = await database.sql<{ line: string }[]>`
    select concat_ws(' ', attname, format_type(atttypid, atttypmod), case when attnotnull then 'not null' end,
      'default ' || pg_get_expr(adbin, adrelid)) as line
    from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where attrelid = ${`${schema}.${table}`}::regclass and attnum > 0 and not attisdropped
    order by attnum`
  return rows.map(({ line }) => line)
}

describe('tables', () => {
  it('jobs has the 14 columns of the contract, in order', async () => {
    expect(await columns('jobs')).toEqual([
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
    ])
  })

  it('workers has the 7 columns of the contract, in order', async () => {
    expect(await columns('workers')).toEqual([
      'id text not null',
      'worker_type text not null',
      'storage_name text not null',
      "layers text not null default ''::text",
      'last_seen timestamp with time zone not null default now()',
      'started_at timestamp with time zone',
      'lease_token text',
    ])
  })

  it('constraints have the names and the texts of the contract, validated and not deferrable', async () => {
    const rows = await database.sql`
      select conrelid::regclass || '.' || conname as name, pg_get_constraintdef(oid) as definition
      from pg_constraint
      where connamespace = 'apalis'::regnamespace and contype <> 'n' and convalidated and not condeferrable
      order by 1`
    expect(Object.fromEntries(rows.map(({ name, definition }) => [name, definition]))).toEqual({
      'apalis.jobs.jobs_attempts_check': 'CHECK ((attempts >= 0))',
      'apalis.jobs.jobs_attempts_lte_max_attempts_check': 'CHECK ((attempts <= max_attempts))',
      'apalis.jobs.jobs_lock_by_worker_type_fkey':
        'FOREIGN KEY (lock_by, job_type) REFERENCES apalis.workers(id, worker_type)',
      'apalis.jobs.jobs_max_attempts_check': 'CHECK ((max_attempts > 0))',
      'apalis.jobs.jobs_pkey': 'PRIMARY KEY (id)',
      'apalis.jobs.jobs_priority_check': 'CHECK ((priority >= 0))',
      'apalis.jobs.jobs_status_check':
        "CHECK ((status = ANY (ARRAY['Pending'::text, 'Queued'::text, 'Running'::text, 'Done'::text, 'Failed'::text, 'Killed'::text])))",
      'apalis.workers.workers_pkey': 'PRIMARY KEY (id, worker_type)',
    })
  })

  it('indexes are those of the contract that the library needs, and its own on failures', async () => {
    const rows = await database.sql`
      select pg_get_indexdef(indexrelid) as definition
      from pg_index join pg_class on oid = indexrelid
      where relnamespace = 'apalis'::regnamespace and indisvalid and indisready
      order by relname`
    expect(rows.map(({ definition }) => definition as string)).toEqual([
      'CREATE UNIQUE INDEX idx_jobs_idempotency_key ON apalis.jobs USING btree (job_type, idempotency_key) WHERE (idempotency_key IS NOT NULL)',
      "CREATE INDEX jobs_dequeue_idx ON apalis.jobs USING btree (job_type, priority DESC, run_at, id) WHERE ((status = 'Pending'::text) OR ((status = 'Failed'::text) AND (attempts < max_attempts)))",
      "CREATE INDEX jobs_failed_idx ON apalis.jobs USING btree (job_type, status, done_at DESC, run_at DESC, id DESC) WHERE (status = ANY (ARRAY['Failed'::text, 'Killed'::text]))",
      'CREATE INDEX jobs_job_type_done_at_idx ON apalis.jobs USING btree (job_type, done_at) WHERE (done_at IS NOT NULL)',
      "CREATE INDEX jobs_locked_by_queue_idx ON apalis.jobs USING btree (job_type, lock_by) WHERE ((lock_by IS NOT NULL) AND (status = ANY (ARRAY['Running'::text, 'Queued'::text])))",
      'CREATE UNIQUE INDEX jobs_pkey ON apalis.jobs USING btree (id)',
      'CREATE UNIQUE INDEX queue_stats_snapshot_job_type_idx ON apalis.queue_stats_snapshot USING btree (job_type)',
      'CREATE UNIQUE INDEX workers_pkey ON apalis.workers USING btree (id, worker_type)',
    ])
  })

  it('jobs is vacuumed long before dead rows slow down claims', async () => {
    const [row] = await database.sql`select reloptions from pg_class where oid = 'apalis.jobs'::regclass`
    expect(row?.['reloptions']).toEqual([
      'autovacuum_vacuum_scale_factor=0.01',
      'autovacuum_vacuum_threshold=1000',
      'autovacuum_vacuum_insert_scale_factor=0.05',
      'autovacuum_analyze_scale_factor=0.01',
      'autovacuum_analyze_threshold=1000',
      'autovacuum_vacuum_cost_delay=0',
    ])
    // What is not in the contract, setup would not set where the tables are there already.
    expect(Object.entries(JOBS_SETTINGS).map(([name, value]) => `${name}=${value}`)).toEqual(row?.['reloptions'])
  })

  it('schema apalis holds nothing else', async () => {
    const rows = await database.sql`
      select relname || ' ' || relkind::text as object from pg_class
      where relnamespace = 'apalis'::regnamespace and relkind <> 'i' order by 1`
    expect(rows.map(({ object }) => object as string)).toEqual(['jobs r', 'queue_stats_snapshot m', 'workers r'])
  })
})

describe('paused_queues', () => {
  it('is in the schema of the library, with one row for a queue', async () => {
    expect(await columns('paused_queues', 'apalis_drizzle')).toEqual([
      'queue text not null',
      'paused_at timestamp with time zone not null default now()',
    ])
    const rows = await database.sql`
      select conname as name, pg_get_constraintdef(oid) as definition from pg_constraint
      where conrelid = 'apalis_drizzle.paused_queues'::regclass and contype <> 'n'`
    expect([...rows]).toEqual([{ name: 'paused_queues_pkey', definition: 'PRIMARY KEY (queue)' }])
  })
})

describe('functions', () => {
  it.each([
    {
      name: 'get_jobs',
      args: 'worker_id text, v_job_type text, v_job_count integer DEFAULT 5',
      result: 'SETOF apalis.jobs',
    },
    { name: 'notify_new_jobs', args: '', result: 'trigger' },
  ])('$name has the signature, the rights and the search_path of the contract', async ({ name, args, result }) => {
    const rows = await database.sql`
      select pg_get_function_arguments(p.oid) as args, pg_get_function_result(p.oid) as result, lanname as language,
        provolatile as volatility, prosecdef as definer, proconfig as settings
      from pg_proc p join pg_language l on l.oid = prolang
      where pronamespace = 'apalis'::regnamespace and proname = ${name}`
    expect(rows).toEqual([
      {
        args,
        result,
        language: 'plpgsql',
        volatility: 'v',
        definer: false,
        settings: ['search_path=pg_catalog, apalis, pg_temp'],
      },
    ])
  })

  it('notify_workers fires once per INSERT statement, with its rows as new_jobs', async () => {
    const rows = await database.sql`
      select pg_get_triggerdef(oid) as definition, tgtype as type, tgenabled as enabled
      from pg_trigger where tgrelid = 'apalis.jobs'::regclass and not tgisinternal`
    expect(rows).toEqual([
      {
        definition:
          'CREATE TRIGGER notify_workers AFTER INSERT ON apalis.jobs REFERENCING NEW TABLE AS new_jobs FOR EACH STATEMENT EXECUTE FUNCTION apalis.notify_new_jobs()',
        type: 4,
        enabled: 'O',
      },
    ])
  })
})

describe('queue_stats_snapshot', () => {
  it('has the 15 columns of the contract, in order', async () => {
    expect(await columns('queue_stats_snapshot')).toEqual([
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
    ])
  })

  it('can be read at once, and counts each queue after a concurrent refresh', async () => {
    const { sql } = database
    expect(await sql`select * from apalis.queue_stats_snapshot`).toEqual([])
    await sql`insert into apalis.workers (id, worker_type, storage_name) values ('w', 'q', 'test')`
    await sql`
      insert into apalis.jobs (job, id, job_type, status, lock_by, lock_at, done_at, run_at) values
        ('', 'a', 'q', 'Pending', null, null, null, '2020-01-01Z'),
        ('', 'b', 'q', 'Queued', 'w', now(), null, now() - interval '2 hours'),
        ('', 'c', 'q', 'Running', 'w', now(), null, now() - interval '2 days'),
        ('', 'd', 'q', 'Done', 'w', now(), '2020-02-02Z', now()),
        ('', 'e', 'q', 'Failed', 'w', now(), '2020-02-03Z', '2031-01-01Z'),
        ('', 'f', 'q', 'Killed', 'w', now(), '2020-02-01Z', '2020-01-01Z')`
    await sql`refresh materialized view concurrently apalis.queue_stats_snapshot`
    expect(await sql`select * from apalis.queue_stats_snapshot`).toEqual([
      {
        job_type: 'q',
        total_jobs: '6',
        running_jobs: '1',
        pending_jobs: '1',
        queued_jobs: '1',
        failed_jobs: '1',
        done_jobs: '1',
        killed_jobs: '1',
        active_jobs: '3',
        jobs_past_hour: '2',
        jobs_past_day: '3',
        jobs_past_7_days: '4',
        most_recent_run_at: new Date('2031-01-01Z'),
        most_recent_done_at: new Date('2020-02-03Z'),
        snapshot_at: expect.any(Date) as Date,
      },
    ])
  })
})
