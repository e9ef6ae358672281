import { database, type PgDb } from '../vocabulary/db.js'
import { databaseError } from '../vocabulary/database-error.js'
import { SchemaError } from '../vocabulary/errors.js'
import { inspectSchema, type Inspection } from './inspect-schema.js'

/**
 * Compares the real catalog of schema `apalis` with what the library needs. Reads only; takes no lock that a writer of
 * tasks would notice. For the start of an application whose database somebody else sets up, and for deploy checks.
 *
 * @throws {SchemaError} `SCHEMA` with every difference: what is missing, what is of another form, what a migration of a Rust
 *   crate has reset, which migration a ledger of `setup` lacks.
 * @throws {DatabaseError} `DATABASE` when the database cannot be asked.
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a transaction, or anything else that is no database.
 */
export async function verifySchema(db: PgDb): Promise<void> {
  const inspection = await inspect(db)
  const { findings, hasLedger, unrecorded } = inspection
  const differences = [
    ...findings.map(({ difference }) => difference),
    ...(hasLedger
      ? unrecorded.map(({ name }) => `migration ${name} is not recorded in apalis_drizzle.migrations`)
      : []),
  ]
  if (differences.length === 0) return
  const mendable = findings.every(({ repairs }) => repairs.length > 0)
  throw new SchemaError(
    mendable
      ? 'The apalis schema is incomplete. Run setup(db) or `npx apalis-drizzle setup` (again):'
      : 'The apalis schema is not one this library can work with:',
    differences,
  )
}

async function inspect(db: PgDb): Promise<Inspection> {
  try {
    return await inspectSchema(database(db, 'verifySchema'), { rustInterop: false })
  } catch (error) {
    throw databaseError('verifying the apalis schema', error)
  }
}
