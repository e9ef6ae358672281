/** Every task once: a side that loses or doubles one fails the run. */
import type { Database } from './server.ts'

export class LostOrDoubled extends Error {
  override readonly name = 'LostOrDoubled'
}

/** After enqueueing, with no worker: all wait. */
export async function verifyEnqueued({ side, sql }: Database, expected: number): Promise<void> {
  const { waiting, working, finished = 0 } = await side.count(sql)
  if (waiting === expected && working === 0 && finished === 0) return
  throw new LostOrDoubled(`${side.name}: ${expected} tasks were enqueued, and ${waiting} are waiting in the database.`)
}

/**
 * After working.
 *
 * @param before - How many finished tasks the table held already.
 * @param handled - By process, how often the task of each number was handled.
 */
export async function verifyWorked(
  { side, sql }: Database,
  expected: number,
  handled: readonly Uint8Array[],
  before = 0,
): Promise<void> {
  for (let n = 0; n < expected; n++) {
    const times = handled.reduce((sum, of) => sum + of[n]!, 0)
    if (times !== 1) throw new LostOrDoubled(`${side.name}: task ${n} was handled ${times} times.`)
  }
  const { waiting, working, finished, repeated } = await side.count(sql)
  const done = finished === undefined ? expected : finished - before
  if (waiting === 0 && working === 0 && repeated === 0 && done === expected) return
  throw new LostOrDoubled(
    `${side.name}: of ${expected} tasks ${done} are finished in the database, ${waiting} wait, ${working} are being worked, and there were ${repeated} repetitions.`,
  )
}
