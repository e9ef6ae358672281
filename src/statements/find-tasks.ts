import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { arrayLiteral } from '../vocabulary/array-literal.js'
import type { Db } from '../vocabulary/db.js'
import { prepared } from '../vocabulary/prepared.js'
import { keyParameters, tasksWithTakenKey } from '../vocabulary/taken-keys.js'
import type { EncodedTask } from '../vocabulary/task.js'

/** Which of the tasks are stored, whatever their queue or status. */
export async function storedIds(db: Db, tasks: readonly EncodedTask[]): Promise<Set<string>> {
  const rows = await prepared(db, selectStored).execute({ ids: arrayLiteral(tasks.map(({ id }) => id)) })
  return new Set(rows.map((row) => row.id))
}

/** Which of the tasks cannot be inserted, because another stored task has their key. */
export async function idsWithTakenKey(db: Db, tasks: readonly EncodedTask[]): Promise<Set<string>> {
  const rows = await prepared(db, tasksWithTakenKey).execute(keyParameters(tasks))
  return new Set(rows.map((row) => row.id))
}

const selectStored = (db: Db) =>
  db
    .select({ id: jobs.id })
    .from(jobs)
    .where(sql`${jobs.id} = any(${sql.placeholder('ids')}::text[])`)
    .$withCache(false)
