/** Reads and writes the ledger of applied migrations. */
import { sql } from 'drizzle-orm'
import type { Db } from '../vocabulary/db.js'
import { ledger, type Applied } from '../vocabulary/ledger.js'
import type { Migration } from '../vocabulary/migrations.generated.js'

export async function readLedger(db: Db): Promise<Applied> {
  const rows = await db.select({ name: ledger.name, sha256: ledger.sha256 }).from(ledger).$withCache(false)
  return new Map(rows.map(({ name, sha256 }) => [name, sha256]))
}

/** Not a migration itself: it has to be there before the first one. */
export async function createLedger(db: Db): Promise<void> {
  await db.execute(sql`create schema if not exists apalis_drizzle`)
  await db.execute(sql`
    create table if not exists apalis_drizzle.migrations (
      name text primary key,
      sha256 text not null,
      applied_at timestamptz not null default now()
    )`)
}

export async function recordMigrations(db: Db, migrations: readonly Migration[]): Promise<void> {
  await db
    .insert(ledger)
    .values(migrations.map(({ name, sha256 }) => ({ name, sha256 })))
    .onConflictDoUpdate({
      target: ledger.name,
      set: { sha256: sql`excluded.sha256`, appliedAt: sql`excluded.applied_at` },
    })
}
