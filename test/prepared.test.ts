/** Shows how often Drizzle writes a statement, and that what it has written serves other transactions with other values. */
import { sql } from 'drizzle-orm'
import { expect, it } from 'vitest'
import type { Db } from '../src/vocabulary/db.js'
import { prepared } from '../src/vocabulary/prepared.js'
import { jobs } from '../src/schema.js'
import { useDatabase } from './support/database.js'
import { clearTasks, storeTask, taskId } from './support/rows.js'

const database = useDatabase()

it('a statement is written once for all transactions', async () => {
  await clearTasks(database.sql)
  await storeTask(database.sql, { id: taskId(1), queue: 'emails' })
  let written = 0
  const build = (db: Db) => {
    const query = db.select({ id: jobs.id, given: sql<string>`${sql.placeholder('given')}::text` }).from(jobs)
    const { getSQL } = query
    // The name of the statement is made of its text, once.
    query.getSQL = (...options) => ((written += 1), getSQL.apply(query, options))
    return query
  }
  const answers = []
  for (const given of ['a', 'b', 'c']) {
    answers.push(await database.db.transaction((tx) => prepared(tx as unknown as Db, build).execute({ given })))
  }
  expect(answers).toEqual(['a', 'b', 'c'].map((given) => [{ id: taskId(1), given }]))
  expect(written).toBe(1)
})
