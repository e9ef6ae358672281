/**
 * The drivers behind a Drizzle database, as far as the library makes connections of its own: with the options of the
 * application's, and apart from its pool.
 */
import { kindOf, type Db } from '../vocabulary/db.js'

export interface PostgresJsClient {
  /** As postgres.js has parsed them; `user` and `pass` are its own names for them. */
  readonly options: Record<string, unknown> & { readonly connection: Record<string, string | number> }
}

export function isPostgresJs(client: unknown): client is PostgresJsClient {
  return typeof client === 'function' && 'unsafe' in client && 'options' in client
}

const POSTGRES_JS_OPTIONS = [
  ...['host', 'port', 'path', 'database', 'user', 'pass', 'ssl', 'sslnegotiation', 'target_session_attrs', 'socket'],
  ...['max_lifetime', 'keep_alive', 'prepare'],
]

/** What says where and how to connect. Not `transform` and `types`, which would change what our statements read. */
export function postgresJsOptions({ options }: PostgresJsClient): Record<string, unknown> {
  return Object.fromEntries(POSTGRES_JS_OPTIONS.map((name) => [name, options[name]]))
}

export interface NodePostgresPool {
  readonly options: Record<string, unknown>
  readonly constructor: new (options: Record<string, unknown>) => NodePostgresPool
  readonly Client: new (options: Record<string, unknown>) => { readonly connectionParameters: Record<string, unknown> }
  on(event: 'error', listener: () => void): void
  end(): Promise<void>
}

export function isNodePostgresPool(db: Db, client: unknown): client is NodePostgresPool {
  return kindOf(db) === 'NodePgDatabase' && typeof client === 'object' && client !== null && 'totalCount' in client
}

/**
 * The options of the pool with its connection string taken apart: what stands in one would win over settings of our own.
 * A plain copy would also lack the password and the TLS options, which node-postgres hides from enumeration.
 */
export function poolOptions(pool: NodePostgresPool): Record<string, unknown> {
  const { user, password, host, port, database, ssl, options } = new pool.Client(pool.options).connectionParameters
  return { ...pool.options, connectionString: undefined, user, password, host, port, database, ssl, options }
}

/** Configuration parameters as the `options` of a connection, behind those that the application has set. */
export function withParameters(options: unknown, parameters: Readonly<Record<string, string | number>>): string {
  const own = Object.entries(parameters).map(([name, value]) => `-c ${name}=${String(value).replace(/[\\ ]/g, '\\$&')}`)
  return [...(typeof options === 'string' && options !== '' ? [options] : []), ...own].join(' ')
}

export interface Pglite {
  listen(channel: string, onNotification: (payload: string) => void): Promise<() => Promise<void>>
  exec(statements: string): Promise<unknown>
}

export function isPglite(db: Db, client: unknown): client is Pglite {
  return kindOf(db) === 'PgliteDatabase' && typeof client === 'object' && client !== null && 'listen' in client
}
