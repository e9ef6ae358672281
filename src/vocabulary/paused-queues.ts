/**
 * The queues that workers do not claim from. In the database and not in memory, so that a pause outlives the processes and
 * reaches those that do not listen.
 */
import { sql, type SQL, type SQLWrapper } from 'drizzle-orm'
import { pgSchema, text, timestamp } from 'drizzle-orm/pg-core'

/**
 * In the library's own schema, where no Rust service meets it. Not part of `schema.ts`, from which applications let their
 * own drizzle-kit create tables: they would have to declare a second schema, which `setup` may have made already.
 */
export const pausedQueues = pgSchema('apalis_drizzle').table('paused_queues', {
  queue: text('queue').primaryKey(),
  pausedAt: timestamp('paused_at', { withTimezone: true }).notNull().defaultNow(),
})

export function isPaused(queue: SQLWrapper): SQL<boolean> {
  return sql<boolean>`exists (select from ${pausedQueues} where ${pausedQueues.queue} = ${queue})`
}
