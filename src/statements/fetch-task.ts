import { and, eq, sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import type { Db } from '../vocabulary/db.js'
import { prepared } from '../vocabulary/prepared.js'
import { STORED_COLUMNS } from '../vocabulary/stored-columns.js'
import type { StoredRow } from '../vocabulary/stored-task.js'

/** One task, if it is stored in this queue. */
export async function fetchTask(db: Db, queue: string, id: string): Promise<StoredRow | undefined> {
  const [row] = await prepared(db, fetchStatement).execute({ queue, id })
  return row
}

const fetchStatement = (db: Db) =>
  db
    .select(STORED_COLUMNS)
    .from(jobs)
    .where(and(eq(jobs.id, sql.placeholder('id')), eq(jobs.jobType, sql.placeholder('queue'))))
    .$withCache(false)
