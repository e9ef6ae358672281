/** What an operator hears of tasks whose worker is gone: those that return, and those that were at their last attempt. */
import { expect, it } from 'vitest'
import { useDatabase } from './support/database.js'
import { rowOf, storeTask, storeWorker, taskId } from './support/rows.js'
import { useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)

/** A dead worker with a task at its last attempt, one with attempts left, and one that had not started. */
async function leaveOrphans(queue: string, owner: string): Promise<void> {
  await storeWorker(database.sql, { id: owner, queue, silentFor: '1 hour' })
  const task = { queue, lockBy: owner, maxAttempts: 3 }
  await storeTask(database.sql, { ...task, id: taskId(1), status: 'Running', attempts: 2 })
  await storeTask(database.sql, { ...task, id: taskId(2), status: 'Running', attempts: 0 })
  await storeTask(database.sql, { ...task, id: taskId(3), status: 'Queued', attempts: 0 })
}

it.each([
  { found: 'by the sweep', owner: 'dead#1', of: 'silent workers (dead#1)', charges: ', 1 charged an attempt' },
  { found: 'by a successor of its name', owner: 'worker#1', of: 'a dead process of this name (worker#1)', charges: '' },
])(
  'a task that took its process down for the last time is reported as killed, $found',
  async ({ owner, of, charges }) => {
    await database.sql`delete from apalis.jobs`
    const { queue, events, started } = work()
    await leaveOrphans(queue.name, owner)
    // The server of this run may be younger than the silence, and counts as its beginning.
    const threshold = { keepAliveMs: 100, reenqueueOrphanedAfterMs: 1_000 }
    await started(() => undefined, threshold)
    expect(await events.next('task.killed')).toMatchObject({ level: 'error', id: taskId(1), attempt: 3 })
    const swept = await events.next('orphan.swept')
    expect([...swept.ids].toSorted()).toEqual([taskId(1), taskId(2), taskId(3)])
    expect(swept.message).toContain(
      `returned 2 tasks of ${of} to the queue${charges}; gave up 1 whose last attempt that was`,
    )
    expect(swept.from).toEqual([owner])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Killed', attempts: 3 })
  },
)
