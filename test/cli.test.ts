/** Shows the command line as a person meets it: a process that says one thing, never its password, and exits with 0 or 1. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { beforeEach, describe, expect, it } from 'vitest'
import { verifySchema } from '../src/processes/verify-schema.js'
import { DEFAULT_ROLES, grantsScript } from '../src/vocabulary/grants.js'
import { useDatabase } from './support/database.js'
import { clear, fingerprint, load } from './support/fixtures.js'

const database = useDatabase({ migrated: false })
beforeEach(() => clear(database.sql))

const cli = fileURLToPath(new URL('../src/cli.ts', import.meta.url))

interface Outcome {
  code: number
  stdout: string
  stderr: string
}

function run(args: string[], { url = database.url, without = [] as string[] } = {}): Promise<Outcome> {
  const node = [...without.flatMap((driver) => ['--import', uninstalled(driver)]), '--import', 'tsx', cli, ...args]
  const env = { ...process.env, DATABASE_URL: url }
  return new Promise((resolve) => {
    execFile(process.execPath, node, { env, timeout: 15_000 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr })
    })
  })
}

/** A module for --import that makes a package look as if it were not installed. */
function uninstalled(name: string): string {
  const hook = `export async function resolve(specifier, context, next) {
    if (specifier !== '${name}') return next(specifier, context)
    throw Object.assign(new Error('Cannot find package'), { code: 'ERR_MODULE_NOT_FOUND' })
  }`
  const script = (source: string) => `data:text/javascript,${encodeURIComponent(source)}`
  return script(`import { register } from 'node:module'; register(${JSON.stringify(script(hook))})`)
}

const failed = (stderr: string) => ({ code: 1, stdout: '', stderr: `${stderr}\n` })
const said = (stdout: string) => ({ code: 0, stdout: `${stdout}\n`, stderr: '' })

describe('setup and verify', () => {
  it('create and check the schema, and say so in one line', async () => {
    expect(await run(['setup'])).toEqual(
      said(
        'Schema apalis is set up; applied: 0000_init, 0001_get_jobs, 0002_notify_new_jobs, 0003_queue_stats_snapshot, 0004_autovacuum, 0005_paused_queues.',
      ),
    )
    expect(await run(['verify'])).toEqual(said('Schema apalis is complete.'))
    expect(await run(['setup'])).toEqual(said('Schema apalis is up to date; nothing was changed.'))
    expect(await run(['setup', '--rust-interop'])).toEqual(
      said(
        'Schema apalis is set up; applied: index jobs_list_by_queue_idx, index jobs_list_all_idx, index jobs_job_type_run_at_idx, index jobs_run_at_idx, index workers_worker_type_last_seen_idx.',
      ),
    )
  })

  it('use pg where postgres is not installed', async () => {
    expect(await run(['setup', '--rust-interop'], { without: ['postgres'] })).toMatchObject({ code: 0, stderr: '' })
    await verifySchema(database.db)
    expect(await run(['verify'], { without: ['postgres'] })).toEqual(said('Schema apalis is complete.'))
  })

  it('say what to install where neither is', async () => {
    expect(await run(['setup'], { without: ['postgres', 'pg'] })).toEqual(
      failed('No PostgreSQL driver is installed: run npm install postgres.'),
    )
  })

  it('list what is wrong with a schema', async () => {
    const empty = await run(['verify'])
    expect(empty).toMatchObject({ code: 1, stdout: '' })
    expect(empty.stderr).toBe(
      'The apalis schema is incomplete. Run setup(db) or `npx apalis-drizzle setup` (again):\n- tables apalis.jobs and apalis.workers are missing\n',
    )
    await load(database.sql, 'sqlx-s')
    const before = await fingerprint(database.sql)
    const refused = await run(['setup'])
    expect(refused).toMatchObject({ code: 1, stdout: '' })
    expect(refused.stderr).toContain('\n- constraint workers_pkey of apalis.workers is PRIMARY KEY (id)')
    expect(refused.stderr).not.toContain('    at ')
    expect(await fingerprint(database.sql)).toEqual(before)
  })
})

describe('sql', () => {
  it('prints a script that makes a complete schema, one statement after the other', async () => {
    const { stdout } = await run(['sql'], { url: '' })
    await database.sql.unsafe(stdout)
    await verifySchema(database.db)
    await clear(database.sql)
    for (const statement of stdout.split('--> statement-breakpoint')) await database.sql.unsafe(statement)
    await verifySchema(database.db)
  })

  it('with --rust-interop prints all indexes', async () => {
    const { stdout } = await run(['sql', '--rust-interop'], { url: '' })
    await database.sql.unsafe(stdout)
    expect(await run(['setup', '--rust-interop'])).toMatchObject({ code: 0 })
    const { stdout: again } = await run(['setup', '--rust-interop'])
    expect(again).toBe('Schema apalis is up to date; nothing was changed.\n')
    const [row] = await database.sql`select count(*)::int as indexes from pg_indexes where schemaname = 'apalis'`
    expect(row).toEqual({ indexes: 13 })
  })

  it('with --functions leaves out what drizzle-kit generates from the tables', async () => {
    const { stdout } = await run(['sql', '--functions'], { url: '' })
    expect(stdout.match(/^CREATE .*|^ALTER .*|^REFRESH .*/gm)).toEqual([
      'CREATE OR REPLACE FUNCTION apalis.get_jobs(worker_id text, v_job_type text, v_job_count integer DEFAULT 5)',
      'CREATE OR REPLACE FUNCTION apalis.notify_new_jobs()',
      'CREATE TRIGGER notify_workers',
      'CREATE MATERIALIZED VIEW apalis.queue_stats_snapshot AS',
      'CREATE UNIQUE INDEX queue_stats_snapshot_job_type_idx ON apalis.queue_stats_snapshot USING btree (job_type);',
      'REFRESH MATERIALIZED VIEW apalis.queue_stats_snapshot;',
      'ALTER TABLE apalis.jobs SET (',
      'CREATE SCHEMA IF NOT EXISTS apalis_drizzle;',
      'CREATE TABLE IF NOT EXISTS apalis_drizzle.paused_queues (',
    ])
  })
})

describe('sql --grants', () => {
  it('prints the rights of three roles and runs nothing', async () => {
    const { stdout } = await run(['sql', '--grants'], { url: '' })
    expect(stdout).toBe(grantsScript(DEFAULT_ROLES))
    expect(stdout.match(/^ +create role .*/gm)).toEqual(
      ['producer', 'worker', 'admin'].map((role) => `    create role "apalis_${role}" nologin;`),
    )
  })

  it('for roles of any name', async () => {
    const names = { producer: 'Shop "web"', worker: 'shop-worker', admin: 'shop-worker' }
    const options = Object.entries(names).flatMap(([role, name]) => [`--${role}`, name])
    const { stdout } = await run(['sql', '--grants', ...options], { url: '' })
    expect(stdout).toBe(grantsScript(names))
    expect(stdout).toContain('on apalis.jobs to "Shop ""web""";')
  })

  it('refuses a name that would mean everybody', async () => {
    expect(await run(['sql', '--grants', '--worker', 'public'], { url: '' })).toEqual(
      failed('Invalid worker: public is not a role.'),
    )
  })
})

describe('what is wrong with DATABASE_URL is said in one sentence without its password', () => {
  const { hostname, port } = new URL('postgres://127.0.0.1:1')
  it.each([
    { name: 'missing', url: '', tells: 'Set DATABASE_URL to the database' },
    { name: 'of another kind', url: 'mysql://u:s3cret@h/d', tells: 'DATABASE_URL is not of the form postgres://' },
    { name: 'not encoded', url: 'postgres://u:s3cret@:x#y@h/d', tells: 'have to be percent-encoded' },
    {
      name: 'unreachable',
      url: `postgres://u:s3cret@${hostname}:${port}/d`,
      tells: 'Cannot reach the database server at 127.0.0.1:1 (ECONNREFUSED)',
    },
    { name: 'of an unknown host', url: 'postgres://u:s3cret@host.invalid/d', tells: 'host.invalid (ENOTFOUND)' },
  ])('$name', async ({ url, tells }) => {
    for (const without of [[], ['postgres']]) {
      const { code, stdout, stderr } = await run(['verify'], { url, without })
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      expect(stderr).toContain(tells)
      expect(stderr).not.toContain('s3cret')
      expect(stderr.trimEnd().split('\n')).toHaveLength(1)
    }
  })

  it('no such database', async () => {
    const url = new URL(database.url)
    url.pathname = '/apalis_no_such_database'
    for (const without of [[], ['postgres']]) {
      const { code, stderr } = await run(['setup'], { url: url.href, without })
      expect(code).toBe(1)
      expect(stderr).toMatch(
        /^The database server at .* has no such database \(3D000\): create it, or correct DATABASE_URL\.\n$/,
      )
    }
  })
})

describe('usage', () => {
  it('--help explains every command', async () => {
    const { code, stdout } = await run(['--help'], { url: '' })
    expect(code).toBe(0)
    for (const word of ['setup', 'verify', 'sql', '--rust-interop', '--functions', '--grants', 'DATABASE_URL']) {
      expect(stdout).toContain(word)
    }
  })

  it.each([
    { args: [], tells: 'Say what to do: setup, verify or sql. See apalis-drizzle --help.' },
    { args: ['drop'], tells: 'There is no command drop. See apalis-drizzle --help.' },
    { args: ['verify', '--functions'], tells: 'verify has no option --functions. See apalis-drizzle --help.' },
    { args: ['setup', 'now'], tells: 'setup takes no arguments. See apalis-drizzle --help.' },
    { args: ['setup', '--grants'], tells: 'setup has no option --grants. See apalis-drizzle --help.' },
    { args: ['sql', '--worker', 'a'], tells: '--worker needs --grants. See apalis-drizzle --help.' },
    { args: ['sql', '--grants', '--functions'], tells: '--functions does not go with --grants.' },
    { args: ['setup', '--force'], tells: `Unknown option '--force'` },
  ])('$args is answered with the way to help', async ({ args, tells }) => {
    const { code, stdout, stderr } = await run(args)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toContain(tells)
    expect(stderr).not.toContain('    at ')
  })
})
