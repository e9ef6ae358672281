/**
 * Tells those who wait for tasks of what this process has ended. The database announces no finished task,
 * because an announcement for each would slow all of them down; the others ask it from time to time.
 */
import { primary, type Db, type PgDb } from '../vocabulary/db.js'
import type { TaskId } from '../vocabulary/errors.js'

type Tell = (id: TaskId) => void

const waiting = new WeakMap<object, Set<Tell>>()

/** @param tell - Called with each task that this process ends in the database. The returned function takes it back. */
export function onEndedHere(db: Db, tell: Tell): () => void {
  const tells = waiting.get(db) ?? new Set()
  waiting.set(db, tells)
  tells.add(tell)
  return () => tells.delete(tell)
}

/** Call when it is recorded: those who are told look at once. */
export function endedHere(db: PgDb, id: TaskId): void {
  for (const tell of waiting.get(primary(db)) ?? []) tell(id)
}
