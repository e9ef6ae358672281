/** The record of applied migrations: for people, and so that an older version of the library notices a newer one. */
import { pgSchema, text, timestamp } from 'drizzle-orm/pg-core'
import { migrations, type Migration } from './migrations.generated.js'

/** In a schema of its own, because `apalis` belongs to the contract. */
export const ledger = pgSchema('apalis_drizzle').table('migrations', {
  name: text('name').primaryKey(),
  sha256: text('sha256').notNull(),
  appliedAt: timestamp('applied_at', { withTimezone: true }).notNull().defaultNow(),
})

/** Migration names to the hash of the text that was applied. */
export type Applied = ReadonlyMap<string, string>

export function unrecorded(applied: Applied): Migration[] {
  return migrations.filter(({ name, sha256 }) => applied.get(name) !== sha256)
}

/** Names begin with a running number, so a newer version's come after ours. */
export function migratedByNewer(applied: Applied): boolean {
  const newest = migrations.map(({ name }) => name as string).reduce((a, b) => (a > b ? a : b))
  return [...applied.keys()].some((name) => name > newest)
}
