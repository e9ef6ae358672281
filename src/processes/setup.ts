/**
 * Brings schema `apalis` to the form of the contract. It looks at the catalog, does the next thing, and looks again, until
 * nothing is left: so it does not matter who made the schema, how far an earlier setup came, or who else is setting up.
 *
 * Two kinds of work. What fits a transaction is done in one, behind the advisory lock that Rust setups share. Indexes of
 * existing tables are built outside, CONCURRENTLY. Neither ever holds up an enqueue for longer than a lock timeout.
 */
import { blockingSessions } from '../statements/blocking-sessions.js'
import { prepareForDdl, runDdl, setLockTimeout } from '../statements/ddl.js'
import { createLedger, recordMigrations } from '../statements/ledger.js'
import { indexBuildUnderWay, lockSetup, tryLockIndexBuild } from '../statements/setup-locks.js'
import { databaseError, INSUFFICIENT_PRIVILEGE, isConnectionFailure } from '../vocabulary/database-error.js'
import { database, type Db, type PgDb } from '../vocabulary/db.js'
import { isApalisError, MigrationError, SchemaError } from '../vocabulary/errors.js'
import type { Repair } from '../vocabulary/findings.js'
import { inspectSchema } from './inspect-schema.js'
import { LOCK_TIMEOUT, Patience, pause, setupSqlState } from './patience.js'
import { openOwnClient, type OwnClient } from './own-client.js'

export interface SetupOptions {
  /**
   * Also creates the indexes that only the Rust crates ask for, so that every version of them accepts the database. They
   * cost a worker 20 to 40 % of its throughput. Default: false.
   */
  readonly rustInterop?: boolean | undefined
}

/**
 * Creates or completes schema `apalis`: run it at the start of an application or as a step of a deploy. Safe when many
 * processes start at once; on a schema that is up to date it reads the catalog and takes no lock.
 *
 * A schema that a Rust crate (apalis-diesel-postgres) or drizzle-kit made is adopted: what is missing is added, of what is
 * there only the body of `apalis.notify_new_jobs` is replaced. Indexes of existing tables are built concurrently, which
 * needs a direct connection or a pooler in session mode. Other work on a table in use waits 2 s at most for its lock, then
 * lets the enqueues pass and tries again, for 30 s.
 *
 * @throws {SchemaError} `SCHEMA` with the differences when schema `apalis` is of a form it does not know. Nothing was changed.
 * @throws {MigrationError} `MIGRATION` when a step failed, with the sessions that kept it from getting its lock.
 * @throws {DatabaseError} `DATABASE` when the connection failed.
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a transaction, or anything else that is no database.
 */
export async function setup(db: PgDb, options: SetupOptions = {}): Promise<void> {
  await bringUpToDate(db, { rustInterop: options.rustInterop ?? false, patienceMs: 30_000 })
}

interface Settings {
  readonly rustInterop: boolean
  /** How long to wait for other sessions without getting anywhere. */
  readonly patienceMs: number
}

/** @returns What was applied, by name, or `ledger` if that was only recorded. Empty when there was nothing to do. */
export async function bringUpToDate(db: PgDb, settings: Settings): Promise<string[]> {
  const connection = database(db, 'setup')
  const patience = new Patience(settings.patienceMs)
  try {
    return await applyUntilComplete(connection, settings, patience)
  } catch (error) {
    throw await explained(error, connection, settings)
  }
}

/** More looks than there are objects to create one by one. */
const MAX_LOOKS = 50

async function applyUntilComplete(db: Db, settings: Settings, patience: Patience): Promise<string[]> {
  const applied = new Set<string>()
  for (let look = 0; look < MAX_LOOKS; look++) {
    const todo = await patience.retry(() => openWork(db, settings))
    if (todo.transactional.length > 0 || todo.unrecorded.length > 0) {
      for (const name of await applyInTransaction(db, settings, patience)) applied.add(name)
    } else if (todo.concurrent.length > 0) {
      await buildIndexes(db, settings, patience, applied)
    } else {
      return [...applied]
    }
  }
  throw new MigrationError(
    '(any)',
    undefined,
    undefined,
    `The schema changes back after each step: ${[...applied].join(', ')}.`,
  )
}

async function openWork(db: Db, settings: Settings) {
  const { findings, unrecorded, mayRecord } = await inspectSchema(db, settings)
  const unknown = findings.filter(({ repairs }) => repairs.length === 0)
  if (unknown.length > 0) throw refusal(unknown.map(({ difference }) => difference))
  const repairs = findings.flatMap((finding) => finding.repairs)
  return {
    transactional: repairs.filter(({ concurrently }) => !concurrently),
    concurrent: repairs.filter(({ concurrently }) => concurrently),
    unrecorded: mayRecord ? unrecorded : [],
  }
}

async function applyInTransaction(db: Db, settings: Settings, patience: Patience): Promise<string[]> {
  return db.transaction(
    async (tx) => {
      await prepareForDdl(tx)
      await setLockTimeout(tx, patience.waitMs())
      await during('(lock)', () => lockSetup(tx))
      // Looked at again: whoever held the lock has probably done it.
      const { transactional, unrecorded } = await openWork(tx, settings)
      // A savepoint for each try, so that the advisory lock is kept in the pauses: of several waiting setups one at a time
      // gets into the way of enqueues.
      await patience.retry((lockTimeoutMs) =>
        tx.transaction(async (attempt) => {
          await setLockTimeout(attempt, lockTimeoutMs)
          for (const repair of transactional) await apply(attempt, repair)
          if (unrecorded.length === 0) return
          await during('(ledger)', () => createLedger(attempt))
          await during('(ledger)', () => recordMigrations(attempt, unrecorded))
        }),
      )
      if (transactional.length > 0) return transactional.map(({ name }) => name)
      return unrecorded.length > 0 ? ['ledger'] : []
    },
    // Under stricter levels the second look would see the catalog as it was before the wait for the lock.
    { isolationLevel: 'read committed' },
  )
}

async function buildIndexes(db: Db, settings: Settings, patience: Patience, applied: Set<string>): Promise<void> {
  await patience.retry(async () => {
    // A connection of its own, because timeouts and lock belong to the session and a pool promises none.
    const client = await openOwnClient(db, 1, {
      application_name: 'apalis-drizzle setup',
      search_path: 'pg_catalog',
      client_min_messages: 'warning',
      // A build takes as long as it takes. Waiting for old transactions it stops nobody, so its wait is one long one.
      statement_timeout: 0,
      lock_timeout: patience.waitMs(),
    })
    try {
      await untilAlone(client, patience)
      const { concurrent } = await openWork(client.db, settings)
      for (const repair of concurrent) {
        await apply(client.db, repair)
        applied.add(repair.name)
      }
    } finally {
      await client.end()
    }
  })
}

/** An invalid index is either what an interrupted build left or what another setup is building: the lock tells which. */
async function untilAlone({ db, isOwn }: OwnClient, patience: Patience): Promise<void> {
  if (!isOwn) return
  while (!(await tryLockIndexBuild(db))) {
    if (await indexBuildUnderWay(db)) patience.renew()
    else if (patience.leftMs() === 0) throw new MigrationError('(indexes)', LOCK_TIMEOUT, undefined)
    await pause()
  }
}

async function apply(db: Db, { name, statements }: Repair): Promise<void> {
  for (const statement of statements) await during(name, () => runDdl(db, statement))
}

async function during(name: string, run: () => Promise<void>): Promise<void> {
  try {
    await run()
  } catch (error) {
    throw migrationError(name, error)
  }
}

const OPERATION = 'setting up the apalis schema'

function refusal(differences: readonly string[]): SchemaError {
  const sqlx = differences.some((difference) => /workers_pkey .* PRIMARY KEY \(id\),|hstore/.test(difference))
  return new SchemaError(
    `Schema apalis exists in a form that setup does not recognise; nothing was changed. ${
      sqlx
        ? 'It looks like that of the Rust crate apalis-postgres (sqlx), which cannot share a database with this library. Use another database, or let apalis-diesel-postgres 0.5 or newer convert it.'
        : 'Use another database, or remove these differences:'
    }`,
    differences,
  )
}

async function explained(error: unknown, db: Db, settings: Settings): Promise<Error> {
  const explanation = databaseError(OPERATION, error)
  if (setupSqlState(error) !== LOCK_TIMEOUT) return explanation
  return lockTimeout(explanation, await blockingSessions(db).catch(() => []), settings)
}

function migrationError(name: string, error: unknown): Error {
  const wrapped = databaseError(OPERATION, error)
  if (isConnectionFailure(error) || !isApalisError(wrapped, 'DATABASE')) return wrapped
  const hint = wrapped.sqlState === INSUFFICIENT_PRIVILEGE ? 'Run setup as the owner of schema apalis.' : undefined
  return new MigrationError(name, wrapped.sqlState, wrapped.cause as Error | undefined, hint)
}

function lockTimeout(error: Error, blockers: readonly string[], { patienceMs }: Settings): MigrationError {
  const name = error instanceof MigrationError ? error.migration : '(any)'
  const who = blockers.length === 0 ? 'other sessions' : blockers.join('; ')
  return new MigrationError(
    name,
    LOCK_TIMEOUT,
    error.cause as Error | undefined,
    `For ${Math.round(patienceMs / 1000)} s it could not get its lock; open transactions: ${who}. Wait for them or end them (pg_terminate_backend), then run setup again.`,
  )
}
