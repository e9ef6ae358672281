/**
 * Shows what the gauges of a queue count.
 */
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { queueDepths } from '../src/reads.js'
import type { Db } from '../src/vocabulary/db.js'
import { useDatabase } from './support/database.js'
import { clearTasks, storeTask, storeWorker, taskId } from './support/rows.js'

const database = useDatabase()
const queue = 'emails'

const depths = () => queueDepths(database.db as unknown as Db)

beforeEach(() => clearTasks(database.sql))

describe('queueDepths', () => {
  it('counts what is due, delayed and running, and the age of what is due', async () => {
    await storeWorker(database.sql, { id: 'w', queue })
    const tasks = [
      { runAt: '-2 minutes', priority: 1 },
      { runAt: '-1 minute' },
      { runAt: '1 minute' },
      { status: 'Failed', attempts: 1, runAt: '-30 seconds', doneAt: '-1 minute' },
      { status: 'Failed', attempts: 1, runAt: '1 hour', doneAt: '-1 minute' },
      { status: 'Failed', attempts: 5, doneAt: '-1 minute' },
      { status: 'Running', lockBy: 'w', runAt: '-1 hour' },
      { status: 'Queued', lockBy: 'w', runAt: '-1 hour' },
      { status: 'Done', lockBy: 'w', doneAt: '-1 minute' },
      { status: 'Killed', attempts: 5, lockBy: 'w', doneAt: '-1 minute' },
    ]
    for (const [n, task] of tasks.entries()) await storeTask(database.sql, { ...task, id: taskId(n), queue })
    const [depth, ...others] = await depths()
    expect(others).toEqual([])
    expect(depth).toMatchObject({ queue, due: 3, delayed: 2, running: 2 })
    expect(depth?.oldestDueAgeMs).toBeGreaterThanOrEqual(120_000)
    expect(depth?.oldestDueAgeMs).toBeLessThan(180_000)
  })

  it('shows every queue by name, drained ones with zeros, so that no gauge goes silent', async () => {
    await storeWorker(database.sql, { id: 'w', queue: 'idle' })
    await storeWorker(database.sql, { id: 'w', queue: 'running' })
    await storeTask(database.sql, { id: taskId(1), queue: 'waiting' })
    await storeTask(database.sql, { id: taskId(2), queue: 'delayed', runAt: '1 day' })
    await storeTask(database.sql, { id: taskId(3), queue: 'done', status: 'Done', doneAt: '-1 day' })
    await storeTask(database.sql, { id: taskId(4), queue: 'killed', status: 'Killed' })
    await storeTask(database.sql, { id: taskId(5), queue: 'running', status: 'Running', lockBy: 'w' })
    const zeros = { paused: false, due: 0, delayed: 0, running: 0, oldestDueAgeMs: 0 }
    expect(await depths()).toEqual([
      { ...zeros, queue: 'delayed', delayed: 1 },
      { ...zeros, queue: 'done' },
      { ...zeros, queue: 'idle' },
      { ...zeros, queue: 'killed' },
      { ...zeros, queue: 'running', running: 1 },
      { ...zeros, queue: 'waiting', due: 1, oldestDueAgeMs: expect.any(Number) as number },
    ])
  })

  it('shows which queues are paused, also those without a task', async () => {
    onTestFinished(async () => {
      await database.sql`delete from apalis_drizzle.paused_queues`
    })
    await storeTask(database.sql, { id: taskId(1), queue: 'waiting' })
    await storeTask(database.sql, { id: taskId(2), queue: 'paused' })
    await database.sql`insert into apalis_drizzle.paused_queues (queue) values ('paused'), ('paused by mistake')`
    expect((await depths()).map(({ queue, paused, due }) => ({ queue, paused, due }))).toEqual([
      { queue: 'paused', paused: true, due: 1 },
      { queue: 'paused by mistake', paused: true, due: 0 },
      { queue: 'waiting', paused: false, due: 1 },
    ])
  })

  it('is empty in an empty database', async () => {
    expect(await depths()).toEqual([])
  })

  it('stands times without end, which other programs may have written', async () => {
    await database.sql`
      insert into apalis.jobs (id, job_type, job, run_at) values (${taskId(1)}, ${queue}, '{}', '-infinity'), (${taskId(2)}, ${queue}, '{}', 'infinity')`
    expect(await depths()).toEqual([{ queue, paused: false, due: 1, delayed: 1, running: 0, oldestDueAgeMs: Infinity }])
  })
})
