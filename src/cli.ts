#!/usr/bin/env node
/** The command line. Says in one line what happened, or in one sentence what is wrong and what to do. */
import { parseArgs } from 'node:util'
import { bringUpToDate } from './processes/setup.js'
import { verifySchema } from './processes/verify-schema.js'
import type { PgDb } from './vocabulary/db.js'
import { isApalisError } from './vocabulary/errors.js'
import { DEFAULT_ROLES, grantsScript } from './vocabulary/grants.js'
import { migrationScript } from './vocabulary/migration-script.js'

const HELP = `Usage: apalis-drizzle <command>

Commands:
  setup [--rust-interop]               create or complete schema apalis
  verify                               compare schema apalis with what the library needs
  sql [--functions] [--rust-interop]   print the migrations, for psql or another tool
  sql --grants [--producer NAME] [--worker NAME] [--admin NAME]
                                       print the rights of three roles: to enqueue, to work, to look and steer

Options:
  --rust-interop   also the indexes that only the Rust crates ask for
  --functions      what drizzle-kit does not generate from apalis-drizzle/schema: functions, trigger, view,
                   settings, and the table of paused queues
  --producer NAME, --worker NAME, --admin NAME
                   the roles, instead of apalis_producer, apalis_worker and apalis_admin
  --help           this text

setup and verify connect to DATABASE_URL (postgres://user:password@host:port/database) with the driver that is
installed: postgres, otherwise pg. Building indexes needs a direct connection or a pooler in session mode.
`

/** What is wrong, said for the person at the terminal. */
class Complaint extends Error {}

async function main(args: string[]): Promise<void> {
  const { command, help, rustInterop, functions, grants, roles } = parsed(args)
  if (help) process.stdout.write(HELP)
  else if (command === 'setup') await withDatabase((db) => setUp(db, rustInterop))
  else if (command === 'verify') await withDatabase(verify)
  else if (command === 'sql')
    process.stdout.write(grants ? grantsScript(roles) : migrationScript({ functions, rustInterop }))
}

const OPTIONS = {
  setup: ['rust-interop'],
  verify: [],
  sql: ['rust-interop', 'functions', 'grants', 'producer', 'worker', 'admin'],
} as const satisfies Record<string, readonly string[]>

function parsed(args: string[]) {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      help: { type: 'boolean' },
      functions: { type: 'boolean' },
      'rust-interop': { type: 'boolean' },
      grants: { type: 'boolean' },
      producer: { type: 'string' },
      worker: { type: 'string' },
      admin: { type: 'string' },
    },
  })
  const [command, ...rest] = positionals
  const help = values.help ?? false
  if (!help) {
    if (command === undefined) throw new Complaint('Say what to do: setup, verify or sql. See apalis-drizzle --help.')
    if (!isCommand(command)) throw new Complaint(`There is no command ${command}. See apalis-drizzle --help.`)
    const unknown = Object.keys(values).find((option) => !(OPTIONS[command] as readonly string[]).includes(option))
    if (unknown !== undefined) throw new Complaint(`${command} has no option --${unknown}. See apalis-drizzle --help.`)
    if (rest.length > 0) throw new Complaint(`${command} takes no arguments. See apalis-drizzle --help.`)
    checkGrantsApart(values)
  }
  const { functions = false, grants = false, producer, worker, admin } = values
  const roles = {
    producer: producer ?? DEFAULT_ROLES.producer,
    worker: worker ?? DEFAULT_ROLES.worker,
    admin: admin ?? DEFAULT_ROLES.admin,
  }
  return { command, help, rustInterop: values['rust-interop'] ?? false, functions, grants, roles }
}

/** The script of the grants and that of the migrations are two. */
function checkGrantsApart(values: Readonly<Record<string, unknown>>): void {
  const other = (values['grants'] ? ['functions', 'rust-interop'] : ['producer', 'worker', 'admin']).find(
    (option) => values[option] !== undefined,
  )
  if (other === undefined) return
  throw new Complaint(
    `--${other} ${values['grants'] ? 'does not go with' : 'needs'} --grants. See apalis-drizzle --help.`,
  )
}

function isCommand(command: string): command is keyof typeof OPTIONS {
  return Object.hasOwn(OPTIONS, command)
}

async function setUp(db: PgDb, rustInterop: boolean): Promise<void> {
  const applied = await bringUpToDate(db, { rustInterop, patienceMs: 30_000 })
  if (applied.length === 0) console.log('Schema apalis is up to date; nothing was changed.')
  else console.log(`Schema apalis is set up; applied: ${applied.join(', ')}.`)
}

async function verify(db: PgDb): Promise<void> {
  await verifySchema(db)
  console.log('Schema apalis is complete.')
}

async function withDatabase(run: (db: PgDb) => Promise<void>): Promise<void> {
  const url = process.env['DATABASE_URL']
  if (url === undefined || url === '') {
    throw new Complaint('Set DATABASE_URL to the database, as postgres://user:password@host:port/database.')
  }
  if (!/^postgres(ql)?:\/\//.test(url)) {
    throw new Complaint('DATABASE_URL is not of the form postgres://user:password@host:port/database.')
  }
  const { db, end } = (await openPostgres(url)) ?? (await openPg(url)) ?? noDriver()
  try {
    await run(db)
  } finally {
    await end()
  }
}

interface Connection {
  readonly db: PgDb
  readonly end: () => Promise<void>
}

const CONNECT_TIMEOUT_S = 10

async function openPostgres(url: string): Promise<Connection | undefined> {
  const driver = await installed(() => import('postgres'))
  if (driver === undefined) return undefined
  const { drizzle } = await import('drizzle-orm/postgres-js')
  const client = driver.default(url, { max: 1, connect_timeout: CONNECT_TIMEOUT_S, onnotice: () => undefined })
  return { db: drizzle({ client }), end: () => client.end({ timeout: 1 }) }
}

async function openPg(url: string): Promise<Connection | undefined> {
  const driver = await installed(() => import('pg'))
  if (driver === undefined) return undefined
  const { drizzle } = await import('drizzle-orm/node-postgres')
  const client = new driver.default.Pool({
    connectionString: url,
    max: 1,
    connectionTimeoutMillis: CONNECT_TIMEOUT_S * 1000,
  })
  return { db: drizzle({ client }), end: () => client.end() }
}

async function installed<Driver>(load: () => Promise<Driver>): Promise<Driver | undefined> {
  try {
    return await load()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND') return undefined
    throw error
  }
}

function noDriver(): never {
  throw new Complaint('No PostgreSQL driver is installed: run npm install postgres.')
}

function sentence(error: unknown): string {
  if (isApalisError(error, 'DATABASE')) return databaseSentence(error.sqlState, error.cause) ?? error.message
  if (codeOf(error) === 'ERR_INVALID_URL') return UNREADABLE_URL
  return error instanceof Error ? error.message : String(error)
}

const UNREADABLE_URL =
  'DATABASE_URL cannot be read: special characters in its user or password have to be percent-encoded.'

/** For what has its reason in DATABASE_URL. The server's and the driver's own words may quote it. */
function databaseSentence(sqlState: string | undefined, cause: unknown): string | undefined {
  const url = process.env['DATABASE_URL'] ?? ''
  if (!URL.canParse(url)) return UNREADABLE_URL
  const { host } = new URL(url)
  if (sqlState === undefined) {
    const code = codeOf(cause) ?? 'no answer'
    return `Cannot reach the database server at ${host} (${code}): check DATABASE_URL, and that the server is running.`
  }
  if (sqlState.startsWith('28')) {
    return `The database server at ${host} refused the login (${sqlState}): check user and password in DATABASE_URL.`
  }
  if (sqlState === '3D000') {
    return `The database server at ${host} has no such database (${sqlState}): create it, or correct DATABASE_URL.`
  }
  return undefined
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

try {
  await main(process.argv.slice(2))
} catch (error) {
  console.error(sentence(error))
  process.exitCode = 1
}
