/** What pages of lists cost on the table of docs/admin-costs.md, of 1.2 million tasks. */
import { beforeAll } from 'vitest'
import { FULL_SIZE, seed } from '../../bench/seed.js'
import { useDatabase } from '../support/database.js'
import { testPages } from '../support/page-costs.js'

const database = useDatabase()

beforeAll(async () => {
  // One of its workers would keep the rows from being marked as visible to all, and their index from answering alone.
  await database.sql`alter table apalis.jobs set (autovacuum_enabled = false)`
  await seed(database.sql, FULL_SIZE)
}, 300_000)

testPages(database, 10)
testPages(database, 50)
