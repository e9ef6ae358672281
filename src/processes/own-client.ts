/** Further connections to the database of an application, made from the options of its own client. */
import { kindOf, type Db } from '../vocabulary/db.js'

export interface OwnClient {
  readonly db: Db
  /** False where the driver has one connection by nature, as PGlite, or is not known: then `db` is the application's. */
  readonly isOwn: boolean
  end(): Promise<void>
}

/** @param session - Configuration parameters of its sessions, in force from the first statement. */
export async function openOwnClient(
  application: Db,
  connections: number,
  session: SessionSettings,
): Promise<OwnClient> {
  const client = (application as { $client?: unknown }).$client
  if (isPostgresJs(client)) return openPostgresJs(client.options, connections, session)
  if (isNodePostgresPool(application, client)) return openPool(client, connections, session)
  return { db: application, isOwn: false, end: () => Promise.resolve() }
}

type SessionSettings = Readonly<Record<string, string | number>>

/** The options that postgres.js has parsed; `user` and `pass` are its own names for them. */
type PostgresJsOptions = Record<string, unknown> & { readonly connection: Record<string, string> }

function isPostgresJs(client: unknown): client is { readonly options: PostgresJsOptions } {
  return typeof client === 'function' && 'unsafe' in client && 'options' in client
}

const POSTGRES_JS_OPTIONS = [
  ...['host', 'port', 'path', 'database', 'user', 'pass', 'ssl', 'sslnegotiation', 'target_session_attrs', 'socket'],
  ...['connect_timeout', 'max_lifetime', 'keep_alive', 'backoff', 'prepare', 'fetch_types'],
]

/** Drivers are imported here and in `openPool` only, and only when used, so that none of them is needed to enqueue. */
async function openPostgresJs(options: PostgresJsOptions, max: number, session: SessionSettings): Promise<OwnClient> {
  const { default: postgres } = await import('postgres')
  const { drizzle } = await import('drizzle-orm/postgres-js')
  const own = Object.fromEntries(POSTGRES_JS_OPTIONS.map((name) => [name, options[name]]))
  const client = postgres({
    ...own,
    max,
    onnotice: () => undefined,
    connection: { ...options.connection, ...session },
  })
  return { db: drizzle({ client }) as unknown as Db, isOwn: true, end: () => client.end({ timeout: 5 }) }
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

async function openPool(application: Pool, max: number, session: SessionSettings): Promise<OwnClient> {
  const { drizzle } = await import('drizzle-orm/node-postgres')
  // node-postgres hides the password and the TLS options from enumeration.
  const { password, ssl, options } = application.options
  const parameters = Object.entries(session).map(([name, value]) => `-c ${name}=${escaped(value)}`)
  const pool = new application.constructor({
    ...application.options,
    ...(password !== undefined && { password }),
    ...(ssl !== undefined && { ssl }),
    // Some parameters are options of node-postgres too, and those of the application would win over `options`.
    ...session,
    options: [...(typeof options === 'string' ? [options] : []), ...parameters].join(' '),
    max,
    min: 0,
  })
  // Without a listener the loss of an idle connection would end the process; the next statement reports it.
  pool.on('error', () => undefined)
  return { db: drizzle({ client: pool as never }) as unknown as Db, isOwn: true, end: () => pool.end() }
}

function escaped(value: string | number): string {
  return String(value).replace(/[\\ ]/g, '\\$&')
}
