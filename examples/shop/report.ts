import { jobs } from 'apalis-drizzle/schema'
import { count, eq, gt, sql } from 'drizzle-orm'
import { confirmations } from './confirmations.js'
import type { ShopDb } from './database.js'
import type { Tally } from './shop.js'

/** The table at the end: the orders as the shop counted them, the tasks as the database has them. */
export async function report(db: ShopDb, tally: Tally): Promise<string> {
  const tasks = await countTasks(db)
  const rows: [string, number][] = [
    ['orders committed', tally.committed],
    ['orders rolled back (out of stock)', tally.rolledBack],
    ['orders refused as duplicates', tally.duplicate],
    ['malformed lines', tally.malformed],
    ['tasks Done', tasks.done],
    ['tasks retried (more than one attempt)', tasks.retried],
    ['tasks Killed', tasks.killed],
  ]
  const labelWidth = Math.max(...rows.map(([label]) => label.length))
  const numbers = rows.map(([, number]) => number.toLocaleString('en'))
  const numberWidth = Math.max(...numbers.map((number) => number.length))
  const rule = `+-${'-'.repeat(labelWidth)}-+-${'-'.repeat(numberWidth)}-+`
  const lines = rows.map(([label], row) => `| ${label.padEnd(labelWidth)} | ${numbers[row]?.padStart(numberWidth)} |`)
  return [rule, ...lines, rule].join('\n')
}

async function countTasks(db: ShopDb): Promise<{ done: number; killed: number; retried: number }> {
  const [counts] = await db
    .select({
      done: count(sql`case when ${eq(jobs.status, 'Done')} then 1 end`),
      killed: count(sql`case when ${eq(jobs.status, 'Killed')} then 1 end`),
      retried: count(sql`case when ${gt(jobs.attempts, 1)} then 1 end`),
    })
    .from(jobs)
    .where(eq(jobs.jobType, confirmations.name))
  return counts ?? { done: 0, killed: 0, retried: 0 }
}
