import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { arrayLiteral } from '../vocabulary/array-literal.js'
import { prepared } from '../vocabulary/db.js'
import type { Db } from '../vocabulary/db.js'

/** Which of the ids are stored, whatever their queue or status. */
export async function storedIds(db: Db, ids: readonly string[]): Promise<Set<string>> {
  const rows = await prepared(db, selectStored).execute({ ids: arrayLiteral(ids) })
  return new Set(rows.map((row) => row.id))
}

const selectStored = (db: Db) =>
  db
    .select({ id: jobs.id })
    .from(jobs)
    .where(sql`${jobs.id} = any(${sql.placeholder('ids')}::text[])`)
    .$withCache(false)
