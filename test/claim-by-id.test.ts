/**
 * Shows which of the tasks that are asked for by id the claim takes, in which order, and that it reads no others.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import { claim, claimByIds, type Claimer } from '../src/statements/claim.js'
import type { Db } from '../src/vocabulary/db.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import { explain } from './support/plan.js'
import { clearTasks, rowOf, storeTask, storeTasks, storeWorker, taskId } from './support/rows.js'

const database = useDatabase()
const { queue, worker } = { queue: 'emails', worker: 'mailer#1' }
const claimer: Claimer = { queue, worker, leaseToken: `token of ${worker}`, thresholdMs: 60_000, running: 10 }

beforeEach(async () => {
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: worker, queue })
})

function claimRows(numbers: readonly number[], as: Partial<Claimer> = {}) {
  return claimByIds(database.db as unknown as Db, { ...claimer, ...as }, numbers.map(taskId))
}

async function claimed(numbers: readonly number[], as: Partial<Claimer> = {}): Promise<string[]> {
  return (await claimRows(numbers, as)).map(({ id }) => id)
}

describe('claim by id: which tasks', () => {
  it('takes a waiting task as a claim of the next tasks does [CLAIMID-01]', async () => {
    await storeTasks(database.sql, 2, { queue, metadata: { trace: 7 }, doneAt: '-1 hour' })
    const [byId] = await claimRows([1])
    const [next] = await claim(database.db as unknown as Db, { ...claimer, limit: 1 })
    const [first, second] = [await rowOf(database.sql, taskId(1)), await rowOf(database.sql, taskId(2))]
    expect(first).toMatchObject({ status: 'Running', lock_by: worker, done_at: null, attempts: 0 })
    const { id: _, run_at: __, lock_at: lockAt, ...changed } = first!
    expect(second).toMatchObject(changed)
    expect((lockAt as Date).getMilliseconds()).toBe(0)
    expect(Object.keys(byId!)).toEqual(Object.keys(next!))
    expect(byId).toMatchObject({ id: taskId(1), attempts: 0, status: 'Running', metadata: '{"trace": 7}' })
  })

  it.each([
    ['takes', 'Failed', 2, '[CLAIMID-02]'],
    ['refuses', 'Failed', 3, '[CLAIMID-03]'],
    ['refuses', 'Pending', 3, ''],
    ['refuses', 'Queued', 0, ''],
    ['refuses', 'Running', 0, ''],
  ])('%s a task that is %s with %i of 3 attempts charged %s', async (verb, status, attempts, _ids) => {
    await storeTask(database.sql, { id: taskId(1), queue, status, attempts, maxAttempts: 3, ...lockedUnless(status) })
    const before = await rowOf(database.sql, taskId(1))
    expect(await claimed([1])).toEqual(verb === 'takes' ? [taskId(1)] : [])
    if (verb === 'refuses') expect(await rowOf(database.sql, taskId(1))).toEqual(before)
    else expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Running', attempts })
  })

  it('refuses a task that is not due [CLAIMID-04]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, runAt: '1 hour' })
    expect(await claimed([1])).toEqual([])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Pending', lock_by: null })
  })

  it('leaves tasks that are not listed [CLAIMID-05]', async () => {
    await storeTasks(database.sql, 3, { queue })
    expect(await claimed([2])).toEqual([taskId(2)])
    const waiting = await database.sql`select id from apalis.jobs where status = 'Pending' order by id`
    expect(waiting.map(({ id }) => id as string)).toEqual([taskId(1), taskId(3)])
  })

  it('refuses a task of another queue [CLAIMID-06]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue: 'other' })
    expect(await claimed([1])).toEqual([])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Pending', lock_by: null })
  })

  it('takes exactly the claimable ones of a mixed list [CLAIMID-08]', async () => {
    const statuses = ['Pending', 'Done', 'Failed', 'Killed', 'Queued', 'Running', 'Pending']
    for (const [n, status] of statuses.entries()) {
      await storeTask(database.sql, { id: taskId(n), queue, status, attempts: 1, ...lockedUnless(status) })
    }
    expect((await claimed([0, 1, 2, 3, 4, 5, 6, 7, 99])).toSorted()).toEqual([taskId(0), taskId(2), taskId(6)])
  })

  it('finds none in an empty list', async () => {
    await storeTasks(database.sql, 1, { queue })
    expect(await claimed([])).toEqual([])
  })

  it('takes a task once that is listed twice, and passes ids that are none', async () => {
    await storeTasks(database.sql, 1, { queue })
    const ids = [taskId(1), '"} \\ {', taskId(1), '']
    expect(await claimByIds(database.db as unknown as Db, claimer, ids)).toHaveLength(1)
  })

  it('skips a task that another transaction has locked', async () => {
    await storeTasks(database.sql, 2, { queue })
    const held = await hold(database.sql, `select from apalis.jobs where id = '${taskId(1)}' for key share`)
    expect(await claimed([1, 2])).toEqual([taskId(2)])
    await held.release()
    expect(await claimed([1, 2])).toEqual([taskId(1)])
  })
})

describe('claim by id: order and owner', () => {
  it('goes by priority, then by age, whatever the order of the list [CLAIMID-07]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, runAt: '-1 minute' })
    await storeTask(database.sql, { id: taskId(2), queue, runAt: '-3 minutes' })
    await storeTask(database.sql, { id: taskId(3), queue, priority: 5, runAt: '-1 second' })
    const rows = await claimRows([1, 2, 3], { running: 2 })
    expect(rows.map(({ id, status }) => [id, status])).toEqual([
      [taskId(3), 'Running'],
      [taskId(2), 'Running'],
      [taskId(1), 'Queued'],
    ])
  })

  it.each([
    ['with another token than its own', { leaseToken: 'token of another process' }],
    ['that is not registered', { worker: 'stranger' }],
    ['that others may take for dead', { thresholdMs: 0 }],
  ])('gives nothing to a worker %s', async (_, as) => {
    await storeTasks(database.sql, 1, { queue })
    expect(await claimed([1], as)).toEqual([])
    expect(await claimed([1])).toEqual([taskId(1)])
  })
})

describe('claim by id: plan', () => {
  it.each(['force_generic_plan', 'force_custom_plan'])('looks its tasks up, under %s', async (mode) => {
    await database.sql.unsafe(`
      insert into apalis.jobs (job, id, job_type, metadata)
        select '{}', 'W' || lpad(n::text, 25, '0'), 'emails', '{}' from generate_series(1, 20000) n;
      analyze apalis.jobs`)
    const ids = Array.from({ length: 20 }, (_, n) => `W${String(n * 900 + 1).padStart(25, '0')}`)
    const taking = (db: Db) => claimByIds(db, claimer, ids)
    const plan = await explain(database, taking, `set local plan_cache_mode = ${mode}`)
    expect(plan.nodes, plan.text).toContain('Index Scan jobs_pkey')
    expect(plan.nodes, plan.text).not.toContain('Seq Scan jobs')
    expect(plan.widest, plan.text).toBeLessThanOrEqual(20)
    expect(plan.buffers, plan.text).toBeLessThan(25 * ids.length)
  })
})

function lockedUnless(status: string): { lockBy?: string } {
  return status === 'Pending' ? {} : { lockBy: worker }
}
