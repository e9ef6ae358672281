import { inspect } from 'node:util'
import { DrizzleQueryError } from 'drizzle-orm'
import pg from 'pg'
import postgres from 'postgres'
import { describe, expect, it } from 'vitest'
import {
  databaseError,
  databaseHint,
  isConnectionFailure,
  isRefusedRow,
  isPoolTimeout,
  isRefusedConnection,
  isTransient,
  serverError,
  sqlStateOf,
} from '../src/vocabulary/database-error.js'
import { DatabaseError, RowError } from '../src/vocabulary/errors.js'

const OWNER = 'jobs_lock_by_worker_type_fkey'
const MESSAGE = `insert or update on table "jobs" violates foreign key constraint "${OWNER}"`

/** As postgres.js throws it: the server's own field names, and the query and its parameters where debugging shows them. */
function postgresJsError(fields: Record<string, string> = {}): Error {
  const error = Object.assign(new Error(MESSAGE), {
    name: 'PostgresError',
    severity: 'ERROR',
    severity_local: 'ERROR',
    code: '23503',
    detail: 'Key (lock_by, job_type)=(secret, secret) is not present in table "workers".',
    where: 'secret',
    schema_name: 'apalis',
    table_name: 'jobs',
    constraint_name: OWNER,
    ...fields,
  })
  return Object.defineProperties(error, {
    query: { value: 'insert … values ($1)', enumerable: true },
    parameters: { value: ['secret'], enumerable: true },
    args: { value: ['secret'], enumerable: true },
  })
}

/** As node-postgres and Neon throw it. */
function pgError(fields: Record<string, string> = {}): Error {
  const error = new pg.DatabaseError(MESSAGE, 1, 'error')
  Object.assign(error, {
    severity: 'ERROR',
    code: '23503',
    detail: 'Key (lock_by, job_type)=(secret, secret) is not present in table "workers".',
    hint: 'secret',
    where: 'secret',
    schema: 'apalis',
    table: 'jobs',
    constraint: OWNER,
    ...fields,
  })
  return error
}

/** PGlite adds what was asked. */
function pgliteError(fields: Record<string, string> = {}): Error {
  return Object.assign(pgError(fields), { query: 'insert … values ($1)', params: ['secret'], queryOptions: {} })
}

/** As Drizzle wraps them. */
function drizzled(cause?: Error): Error {
  return new DrizzleQueryError('insert into "apalis"."jobs" values ($1)', ['secret'], cause)
}

/** Node begins the message with the system call that failed. */
function systemError(code: string, message: string): Error {
  return Object.assign(new Error(message), { code, errno: -1, syscall: message.split(' ')[0] })
}

const SHAPES: [string, (fields?: Record<string, string>) => Error][] = [
  ['postgres.js', postgresJsError],
  ['node-postgres', pgError],
  ['PGlite', pgliteError],
  ['postgres.js through Drizzle', (fields) => drizzled(postgresJsError(fields))],
  ['node-postgres through Drizzle', (fields) => drizzled(pgError(fields))],
  ['PGlite through Drizzle', (fields) => drizzled(pgliteError(fields))],
  ['Drizzle and a wrapper of the application', (fields) => new Error('wrapped', { cause: drizzled(pgError(fields)) })],
]

describe.each(SHAPES)('an error of %s', (_, make) => {
  it('is read', () => {
    expect(serverError(make())).toEqual({
      message: MESSAGE,
      code: '23503',
      constraint: OWNER,
      table: 'jobs',
      schema: 'apalis',
    })
  })

  it('becomes a DatabaseError with operation, SQLSTATE, cause and hint, and without any value', () => {
    const error = databaseError('claiming', make())
    expect(error).toBeInstanceOf(DatabaseError)
    expect(error).toMatchObject({ operation: 'claiming', sqlState: '23503' })
    expect(error.message).toBe(
      `Database error while claiming (23503): ${MESSAGE}. Register the worker for this queue first.`,
    )
    expect(error.cause).toMatchObject({ name: 'PostgresError', message: MESSAGE, code: '23503', constraint: OWNER })
    expect(inspect(error, { showHidden: true, depth: Infinity })).not.toContain('secret')
    expect(JSON.stringify(error)).not.toContain('secret')
  })

  it.each([
    ['40001', 'transient'],
    ['40P01', 'transient'],
    ['55P03', 'transient'],
    ['57014', 'transient'],
    ['22P02', 'data'],
    ['23505', 'data'],
    ['08006', 'connection'],
    ['57P01', 'connection'],
    ['57P03', 'connection'],
    ['42P01', 'none'],
  ])('with SQLSTATE %s is a %s failure', (code, kind) => {
    const error = make({ code })
    expect(sqlStateOf(error)).toBe(code)
    expect({
      transient: isTransient(error),
      data: isRefusedRow(error),
      connection: isConnectionFailure(error),
    }).toEqual({
      transient: kind === 'transient',
      data: kind === 'data',
      connection: kind === 'connection',
    })
  })
})

describe('an error of the connection', () => {
  it.each([
    ['refused', systemError('ECONNREFUSED', 'connect ECONNREFUSED 127.0.0.1:5432'), true],
    ['not found', drizzled(systemError('ENOTFOUND', 'getaddrinfo ENOTFOUND db')), true],
    ['timed out before it was there', systemError('CONNECT_TIMEOUT', 'write CONNECT_TIMEOUT'), true],
    ['to a host that is gone', drizzled(systemError('EHOSTUNREACH', 'connect EHOSTUNREACH 10.0.0.1:5432')), true],
    ['whose host went away', drizzled(systemError('EHOSTUNREACH', 'read EHOSTUNREACH')), false],
    ['of a postgres.js client that was ended', systemError('CONNECTION_ENDED', 'write CONNECTION_ENDED db:5432'), true],
    ['of a pool that was ended', drizzled(new Error('Cannot use a pool after calling end on the pool')), true],
    ['of a pool that had none free', drizzled(new Error('timeout exceeded when trying to connect')), true],
    [
      'of a pool that could not connect in time',
      drizzled(
        new Error('Connection terminated due to connection timeout', { cause: new Error('Connection terminated') }),
      ),
      true,
    ],
    [
      'of a fetch',
      drizzled(new TypeError('fetch failed', { cause: systemError('ECONNRESET', 'read ECONNRESET') })),
      false,
    ],
    ['reset', drizzled(systemError('ECONNRESET', 'read ECONNRESET')), false],
    ['broken pipe, whose code looks like an SQLSTATE', systemError('EPIPE', 'write EPIPE'), false],
    ['without anything', drizzled(), false],
  ])('%s is a connection failure', (_, error, refused) => {
    expect(sqlStateOf(error)).toBeUndefined()
    expect(isConnectionFailure(error)).toBe(true)
    expect(isRefusedConnection(error)).toBe(refused)
    expect(isTransient(error) || isRefusedRow(error)).toBe(false)
    expect(inspect(databaseError('claiming', error))).not.toContain('secret')
  })

  it('says why when several addresses were tried', async () => {
    const sql = postgres('postgres://user:secret@localhost:1/db', { max: 1, connect_timeout: 5 })
    const thrown: unknown = await sql`select 1`.then(
      () => undefined,
      (error: unknown) => error,
    )
    await sql.end()
    const error = databaseError('claiming', drizzled(thrown as Error))
    expect(error.message).toMatch(/^Database error while claiming: .*ECONNREFUSED.*\.$/)
    expect(inspect(error, { showHidden: true, depth: Infinity })).not.toContain('secret')
  })

  it('says why of an AggregateError, whose own message is empty', () => {
    const causes = ['::1', '127.0.0.1'].map((host) => systemError('ECONNREFUSED', `connect ECONNREFUSED ${host}:5432`))
    const error = databaseError('claiming', Object.assign(new AggregateError(causes), { code: 'ECONNREFUSED' }))
    expect(error.message).toBe(
      'Database error while claiming: connect ECONNREFUSED ::1:5432; connect ECONNREFUSED 127.0.0.1:5432. Check the address, and that the server is running.',
    )
    expect(error.cause).toMatchObject({ code: 'ECONNREFUSED' })
  })

  it.each([
    ['55P03', /Nothing was stored\. Another session holds a lock: pg_blocking_pids.*docs\/operations\.md/],
    ['53300', /needs its pool and 4 connections per db .*docs\/operations\.md/],
    ['57P01', /The connection was lost: the server restarts/],
    ['08006', /The connection was lost: the server restarts/],
    ['28P01', /Check user, password and name of the database/],
    ['3D000', /Check user, password and name of the database/],
  ])('names the next step for %s', (code, hint) => {
    const error = Object.assign(new Error('refused'), { code, severity: 'ERROR' })
    expect(databaseError('claiming', error).message).toMatch(hint)
  })

  it.each([
    systemError('CONNECTION_CLOSED', 'write CONNECTION_CLOSED db:5432'),
    systemError('ECONNRESET', 'read ECONNRESET'),
    new Error('Connection terminated unexpectedly'),
  ])('says of a connection that broke what the server would have said: %s', (error) => {
    expect(databaseError('claiming', drizzled(error)).message).toMatch(/The connection was lost: the server restarts/)
  })

  it('names the script of the grants for a missing right, unless it is one on something of the application', () => {
    const refused = (message: string) => Object.assign(new Error(message), { code: '42501', severity: 'ERROR' })
    for (const object of [
      'table jobs',
      'schema apalis_drizzle',
      'table paused_queues',
      'materialized view queue_stats_snapshot',
    ]) {
      const error = databaseError('claiming', refused(`permission denied for ${object}`))
      expect(error.message).toMatch(
        /`npx apalis-drizzle sql --grants` prints what producers, workers and admins need\.$/,
      )
    }
    const error = databaseError('pushing', refused('permission denied for table audit'))
    expect(error.message).toBe('Database error while pushing (42501): permission denied for table audit.')
  })

  it('is told from a pool without a free connection', () => {
    expect(isPoolTimeout(drizzled(new Error('timeout exceeded when trying to connect')))).toBe(true)
    expect(isPoolTimeout(drizzled(systemError('CONNECT_TIMEOUT', 'write CONNECT_TIMEOUT')))).toBe(false)
    expect(isPoolTimeout(undefined)).toBe(false)
  })

  it.each([TypeError, RangeError, ReferenceError, SyntaxError])('is not a mistake in a program: %o', (Native) => {
    expect(isConnectionFailure(new Native('db.insert is not a function'))).toBe(false)
    expect(isConnectionFailure(drizzled(new Native('Invalid string length')))).toBe(false)
  })

  it('is not one of the library itself', () => {
    expect(isConnectionFailure(new RowError('id', 'is no ULID'))).toBe(false)
  })
})

describe('databaseError', () => {
  it.each([
    [
      '22P02',
      'invalid input syntax for type integer: "secret\n    at secret"',
      'invalid input syntax for type integer: "…"',
    ],
    ['22003', 'value "secret" is out of range for type integer', 'value "…" is out of range for type integer'],
    ['22P02', 'malformed array literal: "{"secret"}"', 'malformed array literal: "…"'],
    ['22P02', 'ungültige Eingabesyntax für Typ integer: »secret«', 'ungültige Eingabesyntax für Typ integer: "…"'],
    ['23514', 'new row for relation "jobs" violates check constraint "c"', undefined],
  ])('keeps the values out of what the server says with %s: %s', (code, message, shown = message) => {
    const error = databaseError('pushing', drizzled(Object.assign(new Error(message), { code, severity: 'ERROR' })))
    expect(error.message).toBe(`Database error while pushing (${code}): ${shown}.`)
    const cause = error.cause as Error
    expect(cause.stack).toContain('database-error.test.ts')
    expect(inspect(error, { showHidden: true, depth: Infinity })).not.toContain('secret')
  })

  it("passes the library's own errors through", () => {
    const error = new RowError('id', 'is no ULID')
    expect(databaseError('claiming', error)).toBe(error)
  })

  it.each(['text', undefined, null, { message: 'secret' }])('copes with %j thrown', (thrown) => {
    expect(databaseError('claiming', thrown).message).toBe(
      'Database error while claiming: the driver threw no error object.',
    )
  })

  it('ends on a chain of causes that does not', () => {
    const error = new Error('round')
    error.cause = error
    expect(databaseError('claiming', error).message).toBe('Database error while claiming: round.')
  })
})

describe('databaseHint', () => {
  const REGISTER = 'Register the worker for this queue first.'
  const SETUP = 'Run setup(db) or `npx apalis-drizzle setup` once against this database.'
  const hint = (message: string, constraint?: string, table?: string) => databaseHint({ message, constraint, table })

  it.each([OWNER, 'jobs_lock_by_fkey'])('says to register the worker for %s on jobs [ERR-10]', (constraint) => {
    expect(hint('x', constraint, 'jobs')).toBe(REGISTER)
  })

  it.each([
    'relation "apalis.jobs" does not exist',
    'relation apalis.jobs does not exist',
    'no such table: apalis.jobs',
    'relation "apalis_drizzle.paused_queues" does not exist',
  ])('says to run setup for: %s [ERR-11]', (message) => {
    expect(hint(message)).toBe(SETUP)
  })

  it.each([
    'insert or update on table "jobs" violates foreign key constraint',
    `violates "${OWNER}"`,
    'violates "jobs_lock_by_fkey"',
  ])('says to register the worker by the message alone: %s [ERR-12]', (message) => {
    expect(hint(message)).toBe(REGISTER)
  })

  it('says nothing about anything else [ERR-13]', () => {
    expect(hint('deadlock detected')).toBeUndefined()
    expect(hint('relation "apalis.other" does not exist')).toBeUndefined()
    expect(hint('x', OWNER, 'orders')).toBeUndefined()
    expect(hint(MESSAGE.replace(OWNER, 'jobs_customer_fkey'), 'jobs_customer_fkey', 'jobs')).toBeUndefined()
    expect(hint('x', 'jobs_status_check', 'jobs')).toBeUndefined()
    expect(databaseHint(serverError(new Error('relation "apalis.jobs" does not exist')))).toBeUndefined()
    expect(databaseHint(undefined)).toBeUndefined()
  })
})
