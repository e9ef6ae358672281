/** Shows by which marks a worker recognises that its claim was cancelled, and not lost in another way. */
import { admin } from 'apalis-drizzle'
import { beforeEach, describe, expect, it } from 'vitest'
import { findCancelled } from '../src/statements/find-cancelled.js'
import type { Db } from '../src/vocabulary/db.js'
import type { Fence } from '../src/vocabulary/outcome.js'
import { useDatabase } from './support/database.js'
import { clearTasks, storeTask, storeWorker, taskId } from './support/rows.js'

const database = useDatabase()
const { queue, worker, id } = { queue: 'emails', worker: 'mailer#1', id: taskId(1) }

beforeEach(async () => {
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: worker, queue })
  await storeTask(database.sql, { id, queue, status: 'Running', lockBy: worker })
})

/** Of the claim that the row shows. */
async function fence(): Promise<Fence> {
  const [row] = await database.sql<{ attempts: number; lockAt: number }[]>`
    select attempts, extract(epoch from lock_at)::float8 as "lockAt" from apalis.jobs where id = ${id}`
  return { id, ...row! }
}

async function isCancelled(claim: Fence, by = worker, within = queue): Promise<boolean> {
  return (await findCancelled(database.db as unknown as Db, within, by, [claim])).has(id)
}

const cancel = () => admin(database.db).cancel({ ids: [id] })

describe('findCancelled', () => {
  it('finds the claim whose task was cancelled, and no other claim of that task', async () => {
    const claim = await fence()
    expect(await isCancelled(claim)).toBe(false)
    await cancel()
    expect(await isCancelled(claim)).toBe(true)
    expect(await isCancelled({ ...claim, lockAt: claim.lockAt - 1 })).toBe(false)
    expect(await isCancelled(claim, 'mailer#2')).toBe(false)
    expect(await isCancelled(claim, worker, 'other')).toBe(false)
  })

  it('takes no failure of the task for a cancellation', async () => {
    const claim = await fence()
    await database.sql`update apalis.jobs set status = 'Killed', attempts = 5, last_result = '{"Err": "x"}'`
    expect(await isCancelled(claim)).toBe(false)
  })

  it('takes no claim that followed a cancellation for cancelled, although the task still has its result', async () => {
    await cancel()
    await admin(database.db).retryNow({ ids: [id] })
    await database.sql`update apalis.jobs set status = 'Running', lock_by = ${worker}, lock_at = date_trunc('second', now())`
    expect(await isCancelled(await fence())).toBe(false)
  })
})
