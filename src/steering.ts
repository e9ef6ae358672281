/**
 * What `admin` changes of tasks. Every function takes the database or transaction to do it in; all checks come before the
 * one statement, and `DatabaseError` is thrown when that fails.
 */
import { changeOf, type Change, type FoundTask } from './vocabulary/change.js'
import { databaseError, sqlStateOf } from './vocabulary/database-error.js'
import type { Db } from './vocabulary/db.js'
import { checkInstant, checkInt4 } from './vocabulary/limits.js'
import type { Status } from './vocabulary/row.js'
import { checkSelection, type Selection } from './vocabulary/selection.js'
import type { Steering } from './vocabulary/steering.js'
import { endedHere } from './processes/ended-here.js'
import { CANCELLABLE, cancelTasks } from './statements/cancel.js'
import { REMOVABLE, removeTasks } from './statements/remove.js'
import { RESCHEDULABLE, rescheduleTasks } from './statements/reschedule.js'
import { RETRYABLE, retryTasksNow } from './statements/retry-now.js'
import { PRIORITIZABLE, setTaskPriority } from './statements/set-priority.js'

const DEADLOCK_DETECTED = '40P01'
const ATTEMPTS = 3

/** Where it is done. */
export interface Place {
  readonly db: Db
  /** Of the caller; there it waits for locked tasks as long as the caller's session does. */
  readonly inTransaction: boolean
}

export async function cancel(place: Place, which: Selection): Promise<Change> {
  const change = await steer(place, 'cancelling tasks', which, CANCELLABLE, cancelTasks)
  if (!place.inTransaction) for (const id of change.changed) endedHere(place.db, id)
  return change
}

export function retryNow(place: Place, which: Selection): Promise<Change> {
  return steer(place, 'retrying tasks', which, RETRYABLE, retryTasksNow)
}

export async function reschedule(place: Place, which: Selection, runAt: Date): Promise<Change> {
  const atMs = checkInstant('runAt', runAt)
  return steer(place, 'rescheduling tasks', which, RESCHEDULABLE, (db, steering) => rescheduleTasks(db, steering, atMs))
}

export async function setPriority(place: Place, which: Selection, priority: number): Promise<Change> {
  checkInt4('priority', priority, 0)
  return steer(place, 'changing the priority of tasks', which, PRIORITIZABLE, (db, steering) =>
    setTaskPriority(db, steering, priority),
  )
}

export function remove(place: Place, which: Selection): Promise<Change> {
  return steer(place, 'removing tasks', which, REMOVABLE, removeTasks)
}

async function steer(
  { db, inTransaction }: Place,
  operation: string,
  which: Selection,
  statuses: readonly Status[],
  change: (db: Db, steering: Steering) => Promise<FoundTask[]>,
): Promise<Change> {
  const selection = checkSelection(which, statuses)
  if ('ids' in selection && selection.ids.length === 0) return { changed: [], refused: [] }
  const steering: Steering = { selection, lockTimeout: inTransaction ? '' : '2s' }
  for (let attempt = 1; ; attempt++) {
    try {
      return changeOf(selection, await change(db, steering))
    } catch (error) {
      // Who takes many tasks in another order, as Rust workers do, may make a deadlock of it. It was the only statement.
      const again = !inTransaction && attempt < ATTEMPTS && sqlStateOf(error) === DEADLOCK_DETECTED
      if (!again) throw databaseError(operation, error)
    }
  }
}
