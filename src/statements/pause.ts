import { eq, sql } from 'drizzle-orm'
import { announcement } from '../vocabulary/announce.js'
import type { Db } from '../vocabulary/db.js'
import { pausedQueues } from '../vocabulary/paused-queues.js'
import { prepared } from '../vocabulary/prepared.js'

/** From its commit on nobody claims from the queue. A queue that is paused already keeps its time. */
export async function pauseQueue(db: Db, queue: string): Promise<void> {
  await prepared(db, pauseStatement).execute({ queue })
}

const pauseStatement = (db: Db) =>
  db
    .insert(pausedQueues)
    .values({ queue: sql.placeholder('queue') })
    .onConflictDoNothing()

/** Ends the pause of a queue and wakes its workers, whose polls have become rare. */
export async function resumeQueue(db: Db, queue: string): Promise<void> {
  await prepared(db, resumeStatement).execute({ queue })
}

const resumeStatement = (db: Db) =>
  db
    .delete(pausedQueues)
    .where(eq(pausedQueues.queue, sql.placeholder('queue')))
    .returning({ announced: announcement(pausedQueues.queue) })
