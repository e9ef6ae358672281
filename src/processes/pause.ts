/** Stops and lets go on what all workers of a queue do. Throws `InvalidArgumentError` for what is no name of a queue. */
import * as statements from '../statements/pause.js'
import { databaseError } from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import { checkQueueName } from '../vocabulary/limits.js'

export async function pauseQueue(db: Db, queue: string): Promise<void> {
  checkQueueName(queue)
  try {
    await statements.pauseQueue(db, queue)
  } catch (error) {
    throw databaseError(`pausing queue ${queue}`, error)
  }
}

export async function resumeQueue(db: Db, queue: string): Promise<void> {
  checkQueueName(queue)
  try {
    await statements.resumeQueue(db, queue)
  } catch (error) {
    throw databaseError(`resuming queue ${queue}`, error)
  }
}
