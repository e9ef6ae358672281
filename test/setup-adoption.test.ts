/**
 * Shows what setup makes of a schema that somebody else created: those of the Rust crates it can share are adopted with as
 * little change as possible, whatever it does not know is refused and left as it was. And the reverse: a Rust setup runs
 * through on ours.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import { bringUpToDate, setup } from '../src/processes/setup.js'
import { verifySchema } from '../src/processes/verify-schema.js'
import { readCatalog } from '../src/statements/read-catalog.js'
import type { Catalog } from '../src/vocabulary/catalog.js'
import type { Db } from '../src/vocabulary/db.js'
import { SchemaError } from '../src/vocabulary/errors.js'
import { announcements } from './support/announcements.js'
import { useDatabase } from './support/database.js'
import { clear, fingerprint, load, type Fixture } from './support/fixtures.js'

const database = useDatabase({ migrated: false })
beforeEach(() => clear(database.sql))

const catalog = (): Promise<Catalog> => readCatalog(database.db as unknown as Db)
const migrate = (rustInterop = false) => bringUpToDate(database.db, { rustInterop, patienceMs: 10_000 })

/** A worker with one running and one finished task, and a waiting one. */
async function addTasks(): Promise<void> {
  await database.sql`insert into apalis.workers (id, worker_type, storage_name) values ('w', 'q', 'PostgresStorage')`
  await database.sql`
    insert into apalis.jobs (job, id, job_type, status, attempts, lock_by, lock_at, done_at, last_result) values
      ('1', '01J00000000000000000000001', 'q', 'Pending', 0, null, null, null, null),
      ('2', '01J00000000000000000000002', 'q', 'Running', 0, 'w', '2026-01-01Z', null, null),
      ('3', '01J00000000000000000000003', 'q', 'Done', 1, 'w', '2026-01-01Z', '2026-01-02Z', '{"Ok": null}')`
}

describe.each<{ generation: string; fixtures: Fixture[] }>([
  { generation: 'G8 (apalis-diesel-postgres 0.2 to 0.4)', fixtures: ['rust-g8'] },
  { generation: 'G14 (apalis-diesel-postgres 0.6)', fixtures: ['rust-g8', 'rust-g14'] },
])('a database of generation $generation', ({ fixtures }) => {
  beforeEach(async () => {
    await load(database.sql, ...fixtures)
    await addTasks()
  })

  it('is adopted: of what is there only the body of notify_new_jobs changes [NEXT-49]', async () => {
    const before = await catalog()
    const objects = await fingerprint(database.sql)
    const tasks = await database.sql`select xmin::text, * from apalis.jobs order by id`

    expect(await migrate()).toEqual([
      '0002_notify_new_jobs',
      '0004_autovacuum',
      '0005_paused_queues',
      'index jobs_failed_idx',
    ])

    await verifySchema(database.db)
    expect(await database.sql`select xmin::text, * from apalis.jobs order by id`).toEqual(tasks)
    const { indexes, functions, relations, ...after } = await catalog()
    const { jobs_failed_idx, ...others } = indexes
    expect(jobs_failed_idx).toMatchObject({ valid: true })
    expect(others).toEqual(before.indexes)
    expect(functions['get_jobs(text, text, integer)']).toEqual(before.functions['get_jobs(text, text, integer)'])
    expect(functions['notify_new_jobs()']?.body).toContain('apalis.notify_once')
    expect(relations['jobs']?.columns).toEqual(before.relations['jobs']?.columns)
    expect({ constraints: after.constraints, triggers: after.triggers }).toEqual({
      constraints: before.constraints,
      triggers: before.triggers,
    })
    // Nothing was made anew under the old name either; jobs itself got its settings, and a flag of its new index.
    const remaining = await fingerprint(database.sql)
    const gone = objects.filter((object) => !remaining.includes(object))
    expect(gone.map((object) => object.replace(/ \d+$/, ''))).toEqual([
      'class jobs r',
      'function apalis.notify_new_jobs()',
    ])
  })

  it('is left alone by the second setup', async () => {
    await setup(database.db)
    const before = await fingerprint(database.sql)
    expect(await migrate()).toEqual([])
    expect(await fingerprint(database.sql)).toEqual(before)
  })

  it('has every index that rustInterop would add, in its own form', async () => {
    await setup(database.db)
    expect(await migrate(true)).toEqual([])
  })

  it('gets an index that rustInterop asks for in the form of its generation', async () => {
    await database.sql`drop index apalis.jobs_list_all_idx`
    await setup(database.db, { rustInterop: true })
    const { definition } = (await catalog()).indexes['jobs_list_all_idx'] ?? { definition: '' }
    expect(definition.includes('id DESC')).toBe(fixtures.includes('rust-g14'))
    expect(await migrate(true)).toEqual([])
  })

  it('announces as ours does afterwards, and obeys the one-shot switch', async () => {
    await setup(database.db)
    const payloads = await announcements(database.sql, () =>
      database.sql.begin(async (tx) => {
        await tx`select set_config('apalis.notify_once', 'off', true)`
        await tx`insert into apalis.jobs (job, id, job_type) values ('', '01J00000000000000000000004', 'q')`
        await tx`insert into apalis.jobs (job, id, job_type, run_at) values ('', '01J00000000000000000000005', 'q', now() + interval '3 s')`
      }),
    )
    expect(payloads.map((payload) => JSON.parse(payload) as unknown)).toEqual([
      { job_type: 'q', ids: ['01J00000000000000000000005'] },
    ])
  })
})

describe('a schema that setup does not know', () => {
  it.each<{ name: string; fixtures: Fixture[]; change?: string; tells: string[] }>([
    {
      name: 'S (sqlx up to rc.8)',
      fixtures: ['sqlx-s'],
      tells: [
        'apalis-postgres (sqlx)',
        'constraint workers_pkey of apalis.workers is PRIMARY KEY (id), expected PRIMARY KEY (id, worker_type)',
        'column 7 of apalis.workers is missing, expected lease_token text',
        'column 14 of apalis.jobs is missing, expected idempotency_key text',
        'constraint jobs_lock_by_worker_type_fkey of apalis.jobs is missing',
        'index idx_jobs_idempotency_key is missing',
        'trigger notify_workers is CREATE TRIGGER notify_workers AFTER INSERT ON apalis.jobs FOR EACH ROW',
      ],
    },
    {
      name: 'H (sqlx rc.10)',
      fixtures: ['rust-g8', 'sqlx-h'],
      tells: ['apalis-postgres (sqlx)', 'column 13 of apalis.jobs is metadata public.hstore, expected metadata jsonb'],
    },
    {
      name: 'a status of another type',
      fixtures: ['rust-g8'],
      change: `alter table apalis.jobs drop constraint jobs_status_check; drop index apalis.jobs_dequeue_idx;
        drop index apalis.jobs_locked_by_queue_idx; drop materialized view apalis.queue_stats_snapshot;
        alter table apalis.jobs alter column status type varchar(20)`,
      tells: ['column 4 of apalis.jobs is status character varying(20)', 'constraint jobs_status_check'],
    },
    {
      name: 'a column that pushes do not fill in',
      fixtures: ['rust-g8'],
      change: 'alter table apalis.jobs add column tenant text not null',
      tells: ['apalis.jobs has a column that pushes do not fill in: tenant text not null'],
    },
    {
      name: 'a foreign key that cascades',
      fixtures: ['rust-g8'],
      change: `alter table apalis.jobs drop constraint jobs_lock_by_worker_type_fkey, add constraint jobs_lock_by_worker_type_fkey
        foreign key (lock_by, job_type) references apalis.workers (id, worker_type) on delete cascade`,
      tells: ['ON DELETE CASCADE'],
    },
    {
      name: 'no unique index on keys',
      fixtures: ['rust-g8'],
      change: 'drop index apalis.idx_jobs_idempotency_key',
      tells: ['index idx_jobs_idempotency_key is missing: CREATE UNIQUE INDEX'],
    },
    {
      name: 'an index of another form',
      fixtures: ['rust-g8'],
      change: 'drop index apalis.jobs_dequeue_idx; create index jobs_dequeue_idx on apalis.jobs (run_at)',
      tells: ['index jobs_dequeue_idx is CREATE INDEX jobs_dequeue_idx ON apalis.jobs USING btree (run_at)'],
    },
    {
      name: 'get_jobs with other names of parameters',
      fixtures: ['rust-g8'],
      change: `drop function apalis.get_jobs; create function apalis.get_jobs(worker text, queue text, n integer default 5)
        returns setof apalis.jobs language sql as 'select * from apalis.jobs where false'`,
      tells: ['function apalis.get_jobs(text, text, integer) is (worker text, queue text, n integer DEFAULT 5)'],
    },
    {
      name: 'a trigger that was disabled',
      fixtures: ['rust-g8'],
      change: 'alter table apalis.jobs disable trigger notify_workers',
      tells: ['(disabled)'],
    },
    {
      name: 'a plain view as snapshot',
      fixtures: ['rust-g8'],
      change: `drop materialized view apalis.queue_stats_snapshot;
        create view apalis.queue_stats_snapshot as select job_type from apalis.jobs`,
      tells: ['apalis.queue_stats_snapshot is not a materialized view'],
    },
    {
      name: 'a table workers alone',
      fixtures: [],
      change: 'create schema apalis; create table apalis.workers (id text primary key, name text)',
      tells: [
        'table apalis.jobs is missing',
        'column 2 of apalis.workers is name text, expected worker_type text not null',
      ],
    },
  ])('is refused and left as it was: $name [NEXT-49]', async ({ fixtures, change, tells }) => {
    await load(database.sql, ...fixtures)
    if (change !== undefined) await database.sql.unsafe(change)
    const before = await fingerprint(database.sql)

    const refused: unknown = await setup(database.db, { rustInterop: true }).catch((error: unknown) => error)

    expect(refused).toBeInstanceOf(SchemaError)
    for (const tell of tells) expect((refused as SchemaError).message).toContain(tell)
    expect((refused as SchemaError).message).toContain('nothing was changed')
    expect((refused as SchemaError).differences.length).toBeGreaterThan(0)
    expect(await fingerprint(database.sql)).toEqual(before)
    expect(await database.sql`select to_regnamespace('apalis_drizzle') as ledger`).toEqual([{ ledger: null }])
    await expect(verifySchema(database.db)).rejects.toMatchObject({
      differences: expect.arrayContaining([...(refused as SchemaError).differences]) as string[],
    })
  })
})

describe('a table paused_queues of another form', () => {
  it.each([
    {
      change: 'create table apalis_drizzle.paused_queues (name text primary key)',
      tells: 'column 1 of apalis_drizzle.paused_queues is name text',
    },
    {
      change:
        'create table apalis_drizzle.paused_queues (queue text not null, paused_at timestamptz not null default now())',
      tells: 'apalis_drizzle.paused_queues has no PRIMARY KEY (queue)',
    },
    {
      change: 'create view apalis_drizzle.paused_queues as select 1 as queue',
      tells: 'apalis_drizzle.paused_queues is not an ordinary table',
    },
  ])('is refused: $change', async ({ change, tells }) => {
    await setup(database.db)
    await database.sql.unsafe(`drop table apalis_drizzle.paused_queues; ${change}`)
    const before = await fingerprint(database.sql)
    await expect(setup(database.db)).rejects.toThrow(tells)
    expect(await fingerprint(database.sql)).toEqual(before)
  })
})

describe('tables that drizzle-kit made, without functions', () => {
  it('get what is missing and are not made anew', async () => {
    await setup(database.db)
    await database.sql.unsafe(`
      drop schema apalis_drizzle cascade;
      drop trigger notify_workers on apalis.jobs;
      drop function apalis.notify_new_jobs, apalis.get_jobs;
      drop materialized view apalis.queue_stats_snapshot;
      alter table apalis.jobs reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
        autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor, autovacuum_analyze_threshold,
        autovacuum_vacuum_cost_delay)`)
    const [jobs] = await database.sql`select 'apalis.jobs'::regclass::oid as oid`
    expect(await migrate()).toEqual([
      '0001_get_jobs',
      '0002_notify_new_jobs',
      '0003_queue_stats_snapshot',
      '0004_autovacuum',
      '0005_paused_queues',
    ])
    await verifySchema(database.db)
    expect(await database.sql`select 'apalis.jobs'::regclass::oid as oid`).toEqual([jobs])
  })
})

describe('rustInterop', () => {
  it('adds exactly the indexes that make the schema G8', async () => {
    await load(database.sql, 'rust-g8')
    const { jobs_failed_idx, ...wanted } = { jobs_failed_idx: undefined, ...(await catalog()).indexes }
    expect(jobs_failed_idx).toBeUndefined()
    await clear(database.sql)
    await setup(database.db)
    expect(await migrate(true)).toEqual([
      'index jobs_list_by_queue_idx',
      'index jobs_list_all_idx',
      'index jobs_job_type_run_at_idx',
      'index jobs_run_at_idx',
      'index workers_worker_type_last_seen_idx',
    ])
    const { jobs_failed_idx: own, ...indexes } = (await catalog()).indexes
    expect(own?.valid).toBe(true)
    expect(indexes).toEqual(wanted)
  })
})

describe('a Rust setup on a database of ours', () => {
  it.each([{ rustInterop: false }, { rustInterop: true }])(
    'runs through with %o, leaves G8 behind, and the next setup brings our function back',
    async (options) => {
      await setup(database.db, options)
      await addTasks()
      const tasks = await database.sql`select * from apalis.jobs order by id`
      const before = await catalog()

      await load(database.sql, 'rust-replay')

      const after = await catalog()
      expect(await database.sql`select * from apalis.jobs order by id`).toEqual(tasks)
      expect({ ...after, functions: {}, indexes: {} }).toEqual({ ...before, functions: {}, indexes: {} })
      await clear(database.sql)
      await load(database.sql, 'rust-g8')
      const { jobs_failed_idx, ...indexes } = after.indexes
      expect(jobs_failed_idx?.valid).toBe(true)
      expect(indexes).toEqual((await catalog()).indexes)
    },
  )

  it('is found by verifySchema, and mended by setup', async () => {
    await setup(database.db, { rustInterop: true })
    await load(database.sql, 'rust-replay')
    await expect(verifySchema(database.db)).rejects.toMatchObject({
      message: expect.stringContaining('npx apalis-drizzle setup') as string,
      differences: ['function apalis.notify_new_jobs() was replaced, as the migrations of a Rust crate do'],
    })
    expect(await migrate()).toEqual(['0002_notify_new_jobs'])
    await verifySchema(database.db)
    // get_jobs stays the Rust crate's, with its narrower search_path.
    expect((await catalog()).functions['get_jobs(text, text, integer)']?.body).toBe(' BEGIN RETURN; END ')
  })
})
