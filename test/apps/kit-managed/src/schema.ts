/** An application that lets drizzle-kit manage the library's tables together with its own. */
import { integer, pgTable, text } from 'drizzle-orm/pg-core'

// By name, and under other names where the application has its own: `export *` would let its tables hide the library's
// without a word. The schema object has to be among them, or nobody creates it.
export { apalis, jobs as apalisJobs, workers as apalisWorkers } from 'apalis-drizzle/schema'

export const orders = pgTable('orders', {
  id: integer('id').primaryKey(),
  customer: text('customer').notNull(),
  /** The task that confirms it. */
  taskId: text('task_id').notNull(),
})

/** Vacancies: nothing to do with apalis.jobs. */
export const jobs = pgTable('jobs', {
  id: integer('id').primaryKey(),
  title: text('title').notNull(),
})
