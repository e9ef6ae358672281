/** What a database's schema is and what it still needs, asked by `setup` and `verifySchema` alike. Takes no lock and writes nothing. */
import { readCatalog } from '../statements/read-catalog.js'
import { readLedger } from '../statements/ledger.js'
import type { Db } from '../vocabulary/db.js'
import { findings, type Finding } from '../vocabulary/findings.js'
import { migratedByNewer, unrecorded } from '../vocabulary/ledger.js'
import type { Migration } from '../vocabulary/migrations.generated.js'

export interface Inspection {
  readonly findings: readonly Finding[]
  /** Whether there is a ledger that may be read. Databases that drizzle-kit or a Rust crate manages have none. */
  readonly hasLedger: boolean
  /** Migrations that the ledger lacks. */
  readonly unrecorded: readonly Migration[]
  /** Whether this session may record them. An application's role often may not, and need not. */
  readonly mayRecord: boolean
}

export async function inspectSchema(db: Db, { rustInterop }: { rustInterop: boolean }): Promise<Inspection> {
  const catalog = await readCatalog(db)
  const { exists, readable, writable } = catalog.ledger
  const hasLedger = exists && readable
  const applied = hasLedger ? await readLedger(db) : new Map<string, string>()
  return {
    findings: findings(catalog, { rustInterop, migratedByNewer: migratedByNewer(applied) }),
    hasLedger,
    unrecorded: unrecorded(applied),
    mayRecord: writable && (readable || !exists),
  }
}
