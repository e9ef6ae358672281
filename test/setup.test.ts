/**
 * Shows that setup creates the schema on an empty database however many processes start at once, that a second run neither
 * writes nor locks anything, and that verifySchema and setup go by what the database really contains.
 */
import { PGlite } from '@electric-sql/pglite'
import { drizzle as drizzleNodePostgres } from 'drizzle-orm/node-postgres'
import { drizzle as drizzlePglite } from 'drizzle-orm/pglite'
import { drizzle as drizzlePostgresJs } from 'drizzle-orm/postgres-js'
import pg from 'pg'
import postgres from 'postgres'
import { beforeEach, describe, expect, it } from 'vitest'
import { bringUpToDate, setup } from '../src/processes/setup.js'
import { verifySchema } from '../src/processes/verify-schema.js'
import type { PgDb } from '../src/vocabulary/db.js'
import { isApalisError, SchemaError } from '../src/vocabulary/errors.js'
import { useDatabase } from './support/database.js'
import { clear, fingerprint } from './support/fixtures.js'
import { hold, waitingFor } from './support/held.js'

const database = useDatabase({ migrated: false })
beforeEach(() => clear(database.sql))

const MIGRATIONS = [
  '0000_init',
  '0001_get_jobs',
  '0002_notify_new_jobs',
  '0003_queue_stats_snapshot',
  '0004_autovacuum',
  '0005_paused_queues',
]
const CONTRACT_LOCK = `select pg_advisory_xact_lock(hashtext('apalis_diesel_postgres'), hashtext('migrations'))`

async function differences(db: PgDb): Promise<readonly string[]> {
  const error: unknown = await verifySchema(db).catch((thrown: unknown) => thrown)
  return isApalisError(error, 'SCHEMA') ? error.differences : []
}

describe('setup on an empty database', () => {
  it('lets eight concurrent starts all succeed [SETUP-01]', async () => {
    const starts = Array.from({ length: 8 }, () => database.connect({ max: 1 }).db)
    const held = await hold(database.sql, CONTRACT_LOCK)
    const setups = Promise.all(starts.map((db) => setup(db)))
    await waitingFor(database.sql, held, 8)
    await held.release()

    await setups
    await verifySchema(database.db)
    const rows = await database.sql`select name from apalis_drizzle.migrations order by name`
    expect(rows.map(({ name }) => name as string)).toEqual(MIGRATIONS)
  })

  it('waits for a Rust setup, with which it shares the lock', async () => {
    const held = await hold(database.sql, CONTRACT_LOCK)
    const started = setup(database.db)
    await waitingFor(database.sql, held)
    expect(await database.sql`select to_regnamespace('apalis') as apalis`).toEqual([{ apalis: null }])
    await held.release()
    await started
    await verifySchema(database.db)
  })

  it('keeps to schemas apalis and apalis_drizzle, and tables of the application in them', async () => {
    await database.sql`create schema apalis`
    await database.sql`create table apalis.invoices (id int)`
    await setup(database.db)
    const rows = await database.sql`
      select relnamespace::regnamespace::text as schema, relname as name from pg_class
      where relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema', 'pg_toast') and relkind in ('r', 'm')
      order by 1, 2`
    expect(rows.map(({ schema, name }) => `${schema}.${name}`)).toEqual([
      'apalis.invoices',
      'apalis.jobs',
      'apalis.queue_stats_snapshot',
      'apalis.workers',
      'apalis_drizzle.migrations',
      'apalis_drizzle.paused_queues',
    ])
  })

  it('does not depend on search_path, isolation level, timeouts or key-renaming options of the connection', async () => {
    const { db } = database.connect({
      max: 1,
      transform: postgres.camel,
      connection: {
        search_path: 'apalis,public',
        default_transaction_isolation: 'serializable',
        statement_timeout: 100,
      },
    })
    const held = await hold(database.sql, CONTRACT_LOCK)
    const started = setup(db, { rustInterop: true })
    await waitingFor(database.sql, held)
    await database.sql`select pg_sleep(0.2)`
    await held.release()
    await started
    await verifySchema(db)
  })
})

describe.each([
  {
    driver: 'postgres-js',
    open: () => {
      const client = postgres(database.url, { max: 1, onnotice: () => undefined })
      return { db: drizzlePostgresJs({ client }), close: () => client.end() }
    },
  },
  {
    driver: 'node-postgres',
    open: () => {
      const client = new pg.Pool({ connectionString: database.url, max: 1 })
      return { db: drizzleNodePostgres({ client }), close: () => client.end() }
    },
  },
  {
    driver: 'PGlite',
    open: () => {
      const client = new PGlite()
      return { db: drizzlePglite({ client }), close: () => client.close() }
    },
  },
])('with $driver and a single connection', ({ open }) => {
  it('sets up, verifies, mends and refuses [SETUP-02]', async () => {
    const { db, close } = open()
    try {
      expect(await bringUpToDate(db, { rustInterop: false, patienceMs: 10_000 })).toEqual(MIGRATIONS)
      await verifySchema(db)
      await db.execute('drop trigger notify_workers on apalis.jobs')
      await db.execute('drop index apalis.jobs_failed_idx')
      await expect(verifySchema(db)).rejects.toThrow('trigger notify_workers of apalis.jobs is missing')
      expect(await bringUpToDate(db, { rustInterop: false, patienceMs: 10_000 })).toEqual([
        '0002_notify_new_jobs',
        'index jobs_failed_idx',
      ])
      await verifySchema(db)
      await db.execute('drop table apalis.jobs cascade')
      await expect(setup(db)).rejects.toThrow(SchemaError)
    } finally {
      await close()
    }
  })
})

describe('setup on a schema that is up to date', () => {
  it.each([{ rustInterop: false }, { rustInterop: true }])('changes nothing, with %o', async (options) => {
    await setup(database.db, options)
    const before = await fingerprint(database.sql)
    const [ledger] = await database.sql`select max(xmin::text) as xmin from apalis_drizzle.migrations`
    await setup(database.db, options)
    expect(await fingerprint(database.sql)).toEqual(before)
    expect(await database.sql`select max(xmin::text) as xmin from apalis_drizzle.migrations`).toEqual([ledger])
  })

  it('does not remove the indexes of rustInterop when run without it', async () => {
    await setup(database.db, { rustInterop: true })
    const before = await fingerprint(database.sql)
    await setup(database.db)
    expect(await fingerprint(database.sql)).toEqual(before)
  })

  it('takes no lock: it passes whatever others hold short of ACCESS EXCLUSIVE', async () => {
    await setup(database.db)
    const everything = 'lock table apalis.jobs, apalis.workers, apalis_drizzle.migrations in exclusive mode'
    const held = await hold(database.sql, CONTRACT_LOCK, everything)
    await setup(database.db)
    await verifySchema(database.db)
    await held.release()
  })

  it('with rustInterop is made in one go: nothing else has seen the tables, so no index has to be built concurrently', async () => {
    await clear(database.sql)
    const held = await hold(database.sql, 'set transaction isolation level repeatable read', 'select 1')
    await bringUpToDate(database.db, { rustInterop: true, patienceMs: 1_000 })
    await verifySchema(database.db)
    await held.release()
  })

  it('needs no right but to read the catalog', async () => {
    await setup(database.db)
    const role = `apalis_reader_${process.pid}`
    await database.sql.unsafe(`create role ${role}`)
    try {
      const { db } = database.connect({ max: 1, connection: { role } })
      await setup(db)
      await verifySchema(db)
      await database.sql.unsafe(
        `grant usage on schema apalis_drizzle to ${role}; grant select on apalis_drizzle.migrations to ${role}`,
      )
      await database.sql`delete from apalis_drizzle.migrations where name = '0001_get_jobs'`
      await setup(db)
      expect(await differences(db)).toEqual(['migration 0001_get_jobs is not recorded in apalis_drizzle.migrations'])
      await database.sql`drop index apalis.jobs_failed_idx`
      await expect(setup(db)).rejects.toMatchObject({
        code: 'MIGRATION',
        migration: 'index jobs_failed_idx',
        sqlState: '42501',
      })
    } finally {
      await database.sql.unsafe(`drop owned by ${role}; drop role ${role}`)
    }
  })
})

describe('verifySchema', () => {
  it('tells what an empty database lacks', async () => {
    await expect(verifySchema(database.db)).rejects.toMatchObject({
      code: 'SCHEMA',
      message: expect.stringContaining('npx apalis-drizzle setup') as string,
      differences: ['tables apalis.jobs and apalis.workers are missing'],
    })
  })

  it('fails when the ledger lacks a migration, until setup has recorded it again [SETUP-03]', async () => {
    await setup(database.db)
    await database.sql`delete from apalis_drizzle.migrations where name = '0001_get_jobs'`
    expect(await differences(database.db)).toEqual([
      'migration 0001_get_jobs is not recorded in apalis_drizzle.migrations',
    ])
    await setup(database.db)
    await verifySchema(database.db)
  })

  it.each([
    { change: 'drop index apalis.jobs_dequeue_idx', names: 'index jobs_dequeue_idx is missing' },
    {
      change: 'drop materialized view apalis.queue_stats_snapshot',
      names: 'view apalis.queue_stats_snapshot is missing',
    },
    {
      change: 'drop index apalis.queue_stats_snapshot_job_type_idx',
      names: 'index queue_stats_snapshot_job_type_idx is missing',
    },
    { change: 'drop function apalis.get_jobs', names: 'function apalis.get_jobs(text, text, integer) is missing' },
    { change: 'drop table apalis_drizzle.paused_queues', names: 'table apalis_drizzle.paused_queues is missing' },
    {
      change: 'alter table apalis.jobs reset (autovacuum_vacuum_threshold)',
      names: 'autovacuum_vacuum_threshold = 1000',
    },
    {
      change: 'alter table apalis.jobs reset (autovacuum_analyze_scale_factor)',
      names: 'autovacuum_analyze_scale_factor = 0.01',
    },
    { change: 'alter table apalis.jobs drop constraint jobs_attempts_check', names: 'constraint jobs_attempts_check' },
    {
      change:
        'create or replace function apalis.notify_new_jobs() returns trigger language plpgsql as $$begin return null; end$$',
      names: 'function apalis.notify_new_jobs() was replaced',
    },
  ])(
    'goes by the catalog whatever the ledger says, and so does setup: $change [NEXT-50]',
    async ({ change, names }) => {
      await setup(database.db)
      await database.sql.unsafe(change)
      const found = await differences(database.db)
      expect(found).toHaveLength(1)
      expect(found[0]).toContain(names)
      await setup(database.db)
      expect(await differences(database.db)).toEqual([])
    },
  )

  it('writes nothing', async () => {
    await setup(database.db)
    await database.sql`drop index apalis.jobs_failed_idx`
    const before = await fingerprint(database.sql)
    expect(await differences(database.db)).toHaveLength(1)
    expect(await fingerprint(database.sql)).toEqual(before)
  })
})

describe('versions side by side', () => {
  it('leaves function bodies to a newer version of the library that was here', async () => {
    await setup(database.db)
    await database.sql`insert into apalis_drizzle.migrations (name, sha256) values ('0099_later', 'x')`
    await database.sql.unsafe(`create or replace function apalis.notify_new_jobs() returns trigger language plpgsql
      set search_path = pg_catalog, apalis, pg_temp as $$begin return null; /* later */ end$$`)
    const before = await fingerprint(database.sql)
    await setup(database.db)
    await verifySchema(database.db)
    expect(await fingerprint(database.sql)).toEqual(before)
  })

  it('leaves settings alone that somebody chose', async () => {
    await setup(database.db)
    await database.sql`alter table apalis.jobs set (autovacuum_vacuum_threshold = 7)`
    await setup(database.db)
    await verifySchema(database.db)
    const [row] = await database.sql`select reloptions from pg_class where oid = 'apalis.jobs'::regclass`
    expect(row?.['reloptions']).toContain('autovacuum_vacuum_threshold=7')
  })
})

describe('errors', () => {
  it('of a connection are DatabaseErrors without its password', async () => {
    const client = postgres('postgres://somebody:s3cret@127.0.0.1:1/none', { max: 1, connect_timeout: 5 })
    const db = drizzlePostgresJs({ client })
    for (const call of [setup(db), verifySchema(db)]) {
      const error = await call.catch((thrown: unknown) => thrown as Error)
      expect(error).toMatchObject({
        code: 'DATABASE',
        sqlState: undefined,
        message: expect.stringContaining('ECONNREFUSED') as string,
      })
      expect(String(error)).not.toContain('s3cret')
    }
    await client.end()
  })

  it('a transaction is refused', async () => {
    await database.db.transaction(async (tx) => {
      await expect(setup(tx as never)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'db' })
      await expect(verifySchema(tx as never)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'db' })
    })
  })
})
