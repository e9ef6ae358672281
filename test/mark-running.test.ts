/** Shows that tasks which have started are shown as Running, and that nothing else changes. */
import { beforeEach, describe, expect, it } from 'vitest'
import { markRunning } from '../src/statements/mark-running.js'
import type { Db } from '../src/vocabulary/db.js'
import type { Fence } from '../src/vocabulary/outcome.js'
import { useDatabase } from './support/database.js'
import { clearTasks, rowOf, storeTask, storeTasks, storeWorker, taskId } from './support/rows.js'

const database = useDatabase()
const { queue, worker } = { queue: 'emails', worker: 'mailer#1' }

beforeEach(async () => {
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: worker, queue })
})

const mark = (fences: readonly Fence[], by = worker, inQueue = queue) =>
  markRunning(database.db as unknown as Db, inQueue, by, fences)

async function fenceOf(id: string): Promise<Fence> {
  const [fence] = await database.sql<Fence[]>`
    select id, attempts, extract(epoch from lock_at)::float8 as "lockAt" from apalis.jobs where id = ${id}`
  return fence as Fence
}

describe('markRunning', () => {
  it('shows the given Queued tasks as Running and changes nothing else', async () => {
    await storeTasks(database.sql, 3, { queue, status: 'Queued', attempts: 1, lockBy: worker })
    const before = await rowOf(database.sql, taskId(1))
    const marked = await mark([await fenceOf(taskId(1)), await fenceOf(taskId(2))])
    expect(marked).toEqual(new Set([taskId(1), taskId(2)]))
    expect(await rowOf(database.sql, taskId(1))).toEqual({ ...before, status: 'Running' })
    expect(await rowOf(database.sql, taskId(2))).toMatchObject({ status: 'Running' })
    expect(await rowOf(database.sql, taskId(3))).toMatchObject({ status: 'Queued' })
  })

  it.each(['Pending', 'Done', 'Failed', 'Killed'])('leaves a %s task as it is', async (status) => {
    await storeTask(database.sql, { id: taskId(1), queue, status, lockBy: worker })
    const before = await rowOf(database.sql, taskId(1))
    expect(await mark([await fenceOf(taskId(1))])).toEqual(new Set())
    expect(await rowOf(database.sql, taskId(1))).toEqual(before)
  })

  it('says it also of a task that is shown as Running already, by a mark whose answer was lost', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: worker })
    const before = await rowOf(database.sql, taskId(1))
    expect(await mark([await fenceOf(taskId(1))])).toEqual(new Set([taskId(1)]))
    expect(await rowOf(database.sql, taskId(1))).toEqual(before)
  })

  it('leaves the task of another claim as it is', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Queued', attempts: 1, lockBy: worker })
    const before = await rowOf(database.sql, taskId(1))
    const fence = await fenceOf(taskId(1))
    await mark([{ ...fence, lockAt: fence.lockAt - 1 }])
    await mark([{ ...fence, attempts: 0 }])
    await mark([fence], 'mailer#2')
    await mark([fence], worker, 'other')
    expect(await rowOf(database.sql, taskId(1))).toEqual(before)
  })
})
