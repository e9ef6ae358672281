/** From whatever Drizzle and its drivers throw to the library's own error, without parameters, which may hold payloads. */
import { DatabaseError, isApalisError } from './errors.js'

/** What the server says of an error; the drivers disagree about the names of the fields. */
export interface ServerError {
  readonly message: string
  /** The SQLSTATE. */
  readonly code: string
  readonly constraint: string | undefined
  readonly table: string | undefined
  readonly schema: string | undefined
}

/** The server's own error inside what was thrown; `undefined` when the server said nothing (connection lost, refused, timed out). */
export function serverError(error: unknown): ServerError | undefined {
  for (const link of causes(error)) {
    const fields = link as Error & Record<string, unknown>
    // `severity` tells a server's error from a system error such as EPIPE, which also has five letters.
    if (typeof fields['code'] === 'string' && typeof fields['severity'] === 'string') {
      return {
        message: link.message,
        code: fields['code'],
        constraint: textField(fields, 'constraint_name', 'constraint'),
        table: textField(fields, 'table_name', 'table'),
        schema: textField(fields, 'schema_name', 'schema'),
      }
    }
  }
  return undefined
}

export function sqlStateOf(error: unknown): string | undefined {
  return serverError(error)?.code
}

/**
 * Whether the connection, not the statement, failed: the server said nothing, or that it is going away
 * (class 08 and 57P01 to 57P03, https://www.postgresql.org/docs/current/errcodes-appendix.html).
 */
export function isConnectionFailure(error: unknown): boolean {
  if (isApalisError(error)) return false
  const sqlState = sqlStateOf(error)
  if (sqlState === undefined) return !isProgrammingError(causes(error).at(-1))
  return sqlState.startsWith('08') || ['57P01', '57P02', '57P03'].includes(sqlState)
}

/** A failed `fetch` is a TypeError too, but has a cause. */
function isProgrammingError(deepest: Error | undefined): boolean {
  return [TypeError, RangeError, ReferenceError, SyntaxError].some((native) => deepest instanceof native)
}

/** Whether no connection came about at all, so that no statement can have been executed. */
export function isRefusedConnection(error: unknown): boolean {
  if (isPoolTimeout(error)) return true
  return causes(error).some((link) => {
    const { code, syscall } = link as { code?: unknown; syscall?: unknown }
    return syscall === 'connect' || NOT_CONNECTED_CODES.includes(String(code)) || NOT_CONNECTED.test(link.message)
  })
}

/** CONNECT_TIMEOUT and CONNECTION_ENDED are codes of postgres.js; node-postgres has messages only. */
const NOT_CONNECTED_CODES = ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'CONNECT_TIMEOUT', 'CONNECTION_ENDED', '57P03']
const NOT_CONNECTED =
  /^(Connection terminated due to connection timeout|Cannot use a pool after calling end on the pool)$/

function isEndedClient(error: unknown): boolean {
  return causes(error).some(
    ({ code, message }: Error & { code?: unknown }) =>
      code === 'CONNECTION_ENDED' || message === 'Cannot use a pool after calling end on the pool',
  )
}

/** Whether the pool of node-postgres had no free connection within its `connectionTimeoutMillis`. Other drivers wait without limit. */
export function isPoolTimeout(error: unknown): boolean {
  return causes(error).some(({ message }) => message === 'timeout exceeded when trying to connect')
}

/** Whether nothing was stored and the same statement may succeed now: deadlock, serialization, lock or statement timeout. */
export function isTransient(error: unknown): boolean {
  return ['40001', '40P01', '55P03', '57014'].includes(sqlStateOf(error) ?? '')
}

/** Whether the isolation level of the transaction forbids to go on in it; the same transaction may succeed when run again. */
export function isSerializationFailure(error: unknown): boolean {
  return sqlStateOf(error) === '40001'
}

/** Whether one row of the statement was refused, so that its neighbours may pass without it. */
export function isRefusedRow(error: unknown): boolean {
  return refusesRow(sqlStateOf(error))
}

/** Classes 22, 23 and 44, for its values, and P0, by a trigger of the application. */
export function refusesRow(sqlState: string | undefined): boolean {
  return /^(22|23|44|P0)/.test(sqlState ?? '')
}

/**
 * Wraps an error of a statement. Errors of this library pass unchanged.
 *
 * @param hint - The next step, where the error itself says none.
 */
export function databaseError(operation: string, error: unknown, hint?: string): Error {
  if (isApalisError(error)) return error
  const server = serverError(error)
  return new DatabaseError(
    operation,
    server?.code,
    safeCause(error),
    databaseHint(server) ?? connectionHint(error, server) ?? hint,
  )
}

const MISSING_RELATION =
  /relation "?(apalis\.(jobs|workers)|apalis_drizzle\.paused_queues)"? does not exist|no such table: apalis\.jobs/i

const OWNER_CONSTRAINTS = ['jobs_lock_by_worker_type_fkey', 'jobs_lock_by_fkey']

/** The next step, where an error has a well-known cause. */
export function databaseHint(
  error: Pick<ServerError, 'message' | 'constraint' | 'table'> | undefined,
): string | undefined {
  if (error === undefined) return undefined
  const { message, constraint, table } = error
  if (MISSING_RELATION.test(message)) {
    return 'Run setup(db) or `npx apalis-drizzle setup` once against this database.'
  }
  const named = constraint ?? OWNER_CONSTRAINTS.find((name) => message.includes(name))
  const generic = constraint === undefined && /table "jobs" violates foreign key constraint/i.test(message)
  const onJobs = table === undefined || table === 'jobs'
  if (onJobs && (generic || (named !== undefined && OWNER_CONSTRAINTS.includes(named)))) {
    return 'Register the worker for this queue first.'
  }
  return undefined
}

/** The next step where the statement is not to blame. */
function connectionHint(error: unknown, server: ServerError | undefined): string | undefined {
  if (server === undefined) {
    if (isEndedClient(error)) return 'The client was closed before; close it after the last call and the last worker.'
    if (isRefusedConnection(error)) return 'Check the address, and that the server is running.'
    return isBrokenConnection(error) ? CONNECTION_LOST : undefined
  }
  if (/^(08|57P0)/.test(server.code)) return CONNECTION_LOST
  if (server.code === '53300') return TOO_MANY_CONNECTIONS
  if (server.code === '40001') return 'Run the transaction again, as its isolation level requires.'
  if (server.code === '23505' && server.constraint === 'jobs_pkey') {
    return 'A task with this id is stored already: look it up with fetchById. A repeated idempotencyKey, unlike an id, leaves a transaction usable.'
  }
  if (server.code === '55P03') {
    return 'Nothing was stored. Another session holds a lock: pg_blocking_pids(pid) in pg_stat_activity says which, as docs/operations.md shows.'
  }
  if (server.code === INSUFFICIENT_PRIVILEGE && OUR_OBJECTS.test(server.message)) return MISSING_RIGHT
  return /^(28|3D)/.test(server.code) ? 'Check user, password and name of the database.' : undefined
}

const CONNECTION_LOST = 'The connection was lost: the server restarts or has ended it, or the network is broken.'
const TOO_MANY_CONNECTIONS =
  'Each process needs its pool and 4 connections per db for its workers; see Connections in docs/operations.md.'

/** CONNECTION_CLOSED and CONNECTION_DESTROYED are codes of postgres.js; node-postgres has messages only. */
function isBrokenConnection(error: unknown): boolean {
  return causes(error).some(
    (link) =>
      ['CONNECTION_CLOSED', 'CONNECTION_DESTROYED', 'ECONNRESET', 'EPIPE'].includes(
        String((link as { code?: unknown }).code),
      ) || /^Connection terminated/.test(link.message),
  )
}

export const INSUFFICIENT_PRIVILEGE = '42501'
/** The message names one object. It may also be one that a trigger of the application touches. */
const OUR_OBJECTS = /\b(apalis|apalis_drizzle|jobs|workers|paused_queues|queue_stats_snapshot)\b/
const MISSING_RIGHT =
  'The role of this connection has no right to it: `npx apalis-drizzle sql --grants` prints what producers, workers and admins need.'

/**
 * The driver's error with only the fields that cannot hold values. Drizzle's own error and the drivers' `detail`,
 * `where` and `parameters` quote rows.
 */
function safeCause(error: unknown): Error {
  const links = causes(error)
  const deepest = links.at(-1)
  const server = serverError(error)
  const cause = new Error(
    server === undefined ? (reason(deepest) ?? 'the driver threw no error object') : shown(server),
  )
  cause.name = server === undefined ? (deepest?.name ?? 'Error') : 'PostgresError'
  cause.stack = [`${cause.name}: ${cause.message}`, ...framesOf(deepest)].join('\n')
  const code = server?.code ?? (deepest as { code?: unknown } | undefined)?.code
  return Object.assign(cause, {
    ...(typeof code === 'string' && { code }),
    ...(server?.constraint !== undefined && { constraint: server.constraint }),
    ...(server?.table !== undefined && { table: server.table }),
  })
}

/** The server's message. Of a value that a type cannot take (class 22) it quotes the value: `invalid input syntax for type integer: "…"`. */
function shown({ code, message }: ServerError): string {
  return code.startsWith('22') ? message.replace(/["„“«»].*["”“«»]/s, '"…"') : message
}

/** A stack begins with the message, which may have lines that look like frames. */
function framesOf(error: Error | undefined): string[] {
  const { message = '', stack = '' } = error ?? {}
  return stack
    .slice(stack.indexOf(message) + message.length)
    .split('\n')
    .filter((line) => /^ {4}at /.test(line))
}

/** The message; for a host with several addresses, of which none answered, the messages of all attempts. */
function reason(error: Error | undefined): string | undefined {
  if (!(error instanceof AggregateError) || error.message !== '') return error?.message
  return error.errors.map((attempt) => (attempt instanceof Error ? attempt.message : 'unknown')).join('; ')
}

/** The chain of causes without Drizzle's own links: their messages hold the parameters. */
function causes(error: unknown): Error[] {
  const links: Error[] = []
  for (let link = error; link instanceof Error && links.length < 10; link = link.cause) {
    // PGlite too adds `params`, to errors whose messages are the server's.
    if (!('params' in link) || 'severity' in link) links.push(link)
  }
  return links
}

function textField(fields: Record<string, unknown>, ...names: string[]): string | undefined {
  const value = names.map((name) => fields[name]).find((field) => typeof field === 'string' && field !== '')
  return value as string | undefined
}
