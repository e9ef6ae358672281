import { eq } from 'drizzle-orm'
import type { PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import { apalisJobs, orders } from './schema.js'

/** Each order with the state of its confirmation. */
export function ordersWithConfirmation(db: PostgresJsDatabase) {
  return db
    .select({ order: orders.id, status: apalisJobs.status, attempts: apalisJobs.attempts, due: apalisJobs.runAt })
    .from(orders)
    .innerJoin(apalisJobs, eq(apalisJobs.id, orders.taskId))
    .orderBy(orders.id)
}
