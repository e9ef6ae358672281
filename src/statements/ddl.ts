/** Runs the statements of a migration. */
import { sql } from 'drizzle-orm'
import type { Db } from '../vocabulary/db.js'

export async function runDdl(db: Db, statement: string): Promise<void> {
  await db.execute(sql.raw(statement))
}

/**
 * Until the end of the transaction. Notices of what exists already say nothing to anybody, and a role's statement timeout
 * is meant for queries.
 */
export async function prepareForDdl(tx: Db): Promise<void> {
  await tx.execute(
    sql`select set_config('client_min_messages', 'warning', true), set_config('statement_timeout', '0', true)`,
  )
}

/** Until the end of the transaction. */
export async function setLockTimeout(tx: Db, timeoutMs: number): Promise<void> {
  await tx.execute(sql`select set_config('lock_timeout', ${`${Math.ceil(timeoutMs)}ms`}, true)`)
}
