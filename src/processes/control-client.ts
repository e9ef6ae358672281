/**
 * The connections of the worker loops: claims, acks and heartbeats. They are apart from the application's pool, so that
 * handlers that fill the pool cannot starve the heartbeat, and they carry deadlines that the server enforces: a statement
 * through Drizzle cannot be cancelled by its caller.
 *
 * One small client per database, made from the options of the application's own, shared by all its workers.
 */
import { kindOf, primary } from '../vocabulary/db.js'
import type { Db, PgDb } from '../vocabulary/db.js'

/** One connection each for a claim, an ack and a heartbeat under way. */
const CONNECTIONS = 3

/** Milliseconds. A claim waits for no lock; the ack of a task that a user's transaction holds gives up and is tried again. */
const SESSION = {
  application_name: 'apalis-drizzle worker',
  statement_timeout: 15_000,
  lock_timeout: 5_000,
  idle_in_transaction_session_timeout: 30_000,
} as const

/** Under stricter levels concurrent claims fail with serialization errors instead of skipping each other's rows. */
const ISOLATION = 'read committed'

export interface ControlClient {
  readonly db: Db
  /** Gives the client back; the last user's call closes its connections. */
  close(): Promise<void>
}

interface OpenClient {
  readonly db: Db
  readonly end: () => Promise<void>
}

const clients = new WeakMap<object, { readonly opening: Promise<OpenClient>; users: number }>()

export async function openControlClient(applicationDb: PgDb): Promise<ControlClient> {
  const application = primary(applicationDb)
  const client = clients.get(application) ?? { opening: open(application), users: 0 }
  clients.set(application, client)
  client.users += 1
  let closed = false
  const close = async () => {
    if (closed) return
    closed = true
    client.users -= 1
    if (client.users > 0) return
    clients.delete(application)
    await (await client.opening).end()
  }
  try {
    return { db: (await client.opening).db, close }
  } catch (error) {
    clients.delete(application)
    throw error
  }
}

/** Drivers are imported only here and only when used, so that none of them is needed to enqueue. */
async function open(application: Db): Promise<OpenClient> {
  const client = (application as { $client?: unknown }).$client
  if (isPostgresJs(client)) return openPostgresJs(client.options)
  if (isNodePostgresPool(application, client)) return openPool(client)
  // PGlite has one connection by nature, and of a driver we do not know we cannot make a second client.
  return { db: application, end: () => Promise.resolve() }
}

/** The options that postgres.js has parsed; `user` and `pass` are its own names for them. */
type PostgresJsOptions = Record<string, unknown> & { readonly connection: Record<string, unknown> }

function isPostgresJs(client: unknown): client is { readonly options: PostgresJsOptions } {
  return typeof client === 'function' && 'unsafe' in client && 'options' in client
}

const POSTGRES_JS_OPTIONS = [
  ...['host', 'port', 'path', 'database', 'user', 'pass', 'ssl', 'sslnegotiation', 'target_session_attrs', 'socket'],
  ...['connect_timeout', 'max_lifetime', 'keep_alive', 'backoff', 'prepare', 'fetch_types'],
]

async function openPostgresJs(options: PostgresJsOptions): Promise<OpenClient> {
  const { default: postgres } = await import('postgres')
  const { drizzle } = await import('drizzle-orm/postgres-js')
  const own = Object.fromEntries(POSTGRES_JS_OPTIONS.map((name) => [name, options[name]]))
  const client = postgres({
    ...own,
    max: CONNECTIONS,
    onnotice: () => undefined,
    connection: { ...options.connection, ...SESSION, default_transaction_isolation: ISOLATION },
  })
  return { db: drizzle({ client }) as unknown as Db, end: () => client.end({ timeout: 5 }) }
}

/** The pool of node-postgres. */
interface Pool {
  readonly options: Record<string, unknown>
  readonly constructor: new (options: Record<string, unknown>) => Pool
  on(event: 'error', listener: () => void): void
  end(): Promise<void>
}

function isNodePostgresPool(db: Db, client: unknown): client is Pool {
  return kindOf(db) === 'NodePgDatabase' && typeof client === 'object' && client !== null && 'totalCount' in client
}

async function openPool(application: Pool): Promise<OpenClient> {
  const { drizzle } = await import('drizzle-orm/node-postgres')
  // node-postgres hides the password and the TLS options from enumeration.
  const { password, ssl } = application.options
  const pool = new application.constructor({
    ...application.options,
    ...(password !== undefined && { password }),
    ...(ssl !== undefined && { ssl }),
    ...SESSION,
    max: CONNECTIONS,
    min: 0,
    options: `-c default_transaction_isolation=${ISOLATION.replace(' ', '\\ ')}`,
  })
  // Without a listener the loss of an idle connection would end the process; the next statement reports it.
  pool.on('error', () => undefined)
  return { db: drizzle({ client: pool as never }) as unknown as Db, end: () => pool.end() }
}
