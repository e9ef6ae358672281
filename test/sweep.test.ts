/**
 * Shows which tasks the sweep takes from silent workers, what becomes of them, and what it leaves alone.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import { register } from '../src/statements/register.js'
import { sweep, SWEEP_LIMIT } from '../src/statements/sweep.js'
import type { Db } from '../src/vocabulary/db.js'
import { MAX_INT4 } from '../src/vocabulary/limits.js'
import { useDatabase } from './support/database.js'
import { expectBetween } from './support/expect-between.js'
import { clearTasks, rowOf, storeTask, storeTasks, storeWorker, taskId, type StoredTask } from './support/rows.js'
import { serverHasRunForASecond, uptimeMs } from './support/uptime.js'

const database = useDatabase()
const queue = 'emails'
const MARKER = { Err: 'Re-enqueued due to worker heartbeat timeout.' }

beforeEach(async () => {
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: 'dead', queue, silentFor: '1 hour' })
  await storeWorker(database.sql, { id: 'alive', queue })
})

const db = () => database.db as unknown as Db

/** The ids of the tasks taken back. */
async function sweptIds(...args: Parameters<typeof sweep>): Promise<string[]> {
  return (await sweep(...args)).map(({ id }) => id)
}

async function sweepSilentForASecond(sweptQueue = queue): Promise<string[]> {
  await serverHasRunForASecond(database.sql)
  return sweptIds(db(), sweptQueue, 1_000)
}

async function sweepOne(task: Partial<StoredTask>) {
  await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: 'dead', ...task })
  expect(await sweepSilentForASecond()).toEqual([taskId(1)])
  return rowOf(database.sql, taskId(1))
}

describe('sweep: among tasks of the same owner', () => {
  it('leaves those that have ended alone, and finds the orphan behind however many', async () => {
    await database.sql`
      insert into apalis.jobs (job, id, job_type, status, attempts, lock_by, lock_at, done_at, last_result)
      select '{}', 'D' || lpad(n::text, 25, '0'), ${queue}, 'Done', 1, 'dead', now(), now(), '{"Ok": null}'
      from generate_series(1, ${SWEEP_LIMIT * 2}::int) n`
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: 'dead' })
    expect(await sweepSilentForASecond()).toEqual([taskId(1)])
  })

  it('leaves those of other queues alone, where the name may be that of a live worker', async () => {
    await storeWorker(database.sql, { id: 'dead', queue: 'other' })
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: 'dead' })
    await storeTask(database.sql, { id: taskId(2), queue: 'other', status: 'Running', lockBy: 'dead' })
    expect(await sweepSilentForASecond()).toEqual([taskId(1)])
    expect(await rowOf(database.sql, taskId(2))).toMatchObject({ status: 'Running', attempts: 0 })
  })
})

describe('sweep: what becomes of a task', () => {
  it('returns a Running one, charged, unowned and with the reason [ORPHAN-01] [ORPHAN-02] [ORPHAN-03] [ORPHAN-04]', async () => {
    expect(await sweepOne({ attempts: 1, maxAttempts: 3 })).toMatchObject({
      status: 'Pending',
      attempts: 2,
      lock_by: null,
      lock_at: null,
      done_at: null,
      last_result: MARKER,
    })
  })

  it('returns a Queued one uncharged: it had not started [ORPHAN-05] [NEXT-47]', async () => {
    expect(await sweepOne({ status: 'Queued', attempts: 1, maxAttempts: 3 })).toMatchObject({
      status: 'Pending',
      attempts: 1,
      lock_by: null,
      lock_at: null,
      done_at: null,
      last_result: MARKER,
    })
  })

  it('returns a Queued one uncharged before its last attempt as well [ORPHAN-07]', async () => {
    expect(await sweepOne({ status: 'Queued', attempts: 2, maxAttempts: 3 })).toMatchObject({
      status: 'Pending',
      attempts: 2,
    })
  })

  it.each([
    [2, 3],
    [0, 1],
    [3, 3],
    [MAX_INT4 - 1, MAX_INT4],
    [MAX_INT4, MAX_INT4],
  ])('kills a Running one that has used %i of %i attempts [ORPHAN-06] [ORPHAN-09]', async (attempts, maxAttempts) => {
    const result = { Err: 'of an earlier attempt' }
    expect(await sweepOne({ attempts, maxAttempts, result })).toMatchObject({
      status: 'Killed',
      attempts: maxAttempts,
      lock_by: null,
      lock_at: null,
      done_at: expect.any(Date) as Date,
      last_result: MARKER,
    })
  })

  it.each(['Running', 'Queued'])('keeps the result of an earlier attempt of a %s one [ORPHAN-08]', async (status) => {
    const result = { Err: 'of an earlier attempt' }
    expect(await sweepOne({ status, attempts: 1, result })).toMatchObject({ status: 'Pending', last_result: result })
  })

  it('spreads charged tasks over a time that grows with their attempts', async () => {
    const tasks = { queue, status: 'Running', lockBy: 'dead', maxAttempts: 100 }
    for (let n = 1; n <= 40; n++) await storeTask(database.sql, { ...tasks, id: taskId(n), attempts: n <= 20 ? 0 : 50 })
    expect(await sweepSilentForASecond()).toHaveLength(40)
    const [first, late] = await database.sql<{ earliest: number; latest: number }[]>`
      select extract(epoch from min(run_at) - now())::float8 as earliest, extract(epoch from max(run_at) - now())::float8 as latest
      from apalis.jobs group by attempts order by attempts`
    expectBetween(first?.latest, 1, 5)
    expect(first?.earliest).toBeLessThan(first?.latest ?? 0)
    expectBetween(late?.latest, 60, 320)
  })

  it('returns an uncharged task to its old place', async () => {
    await storeTask(database.sql, {
      id: taskId(1),
      queue,
      status: 'Queued',
      lockBy: 'dead',
      runAt: '-1 hour',
      lockAt: '-2 hours',
    })
    const before = await rowOf(database.sql, taskId(1))
    await sweepSilentForASecond()
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ run_at: before?.['run_at'] as Date })
  })

  it('lets an uncharged task be claimed in the second after its lock at the earliest', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Queued', lockBy: 'dead', lockAt: '0 seconds' })
    const before = await rowOf(database.sql, taskId(1))
    await sweepSilentForASecond()
    const after = await rowOf(database.sql, taskId(1))
    expect(Number(after?.['run_at'])).toBe(Number(before?.['lock_at']) + 1000)
  })
})

describe('sweep: what it leaves alone', () => {
  it.each(['Running', 'Queued'])('a %s task of a worker with a recent heartbeat [ORPHAN-10]', async (status) => {
    await storeTask(database.sql, { id: taskId(1), queue, status, lockBy: 'alive' })
    const before = await rowOf(database.sql, taskId(1))
    await database.sql`update apalis.workers set last_seen = now() + interval '1 hour' where id = 'alive'`
    expect(await sweepSilentForASecond()).toEqual([])
    expect(await rowOf(database.sql, taskId(1))).toEqual(before)
  })

  it('tasks of another queue, whose worker of the same name is dead too [ORPHAN-11]', async () => {
    await storeWorker(database.sql, { id: 'dead', queue: 'other', silentFor: '1 hour' })
    await storeTask(database.sql, { id: taskId(1), queue: 'other', status: 'Running', lockBy: 'dead' })
    const before = await rowOf(database.sql, taskId(1))
    expect(await sweepSilentForASecond()).toEqual([])
    expect(await rowOf(database.sql, taskId(1))).toEqual(before)
    expect(await sweepSilentForASecond('other')).toEqual([taskId(1)])
  })

  it('a task of a live worker that has a dead namesake in another queue', async () => {
    await storeWorker(database.sql, { id: 'alive', queue: 'other', silentFor: '1 hour' })
    await database.sql`update apalis.workers set last_seen = now() + interval '1 hour' where worker_type = ${queue}`
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: 'alive' })
    expect(await sweepSilentForASecond()).toEqual([])
  })

  it.each(['Pending', 'Done', 'Failed', 'Killed'])(
    '%s tasks with a dead worker in their history [ORPHAN-12]',
    async (status) => {
      await storeTask(database.sql, { id: taskId(1), queue, status, attempts: 1, lockBy: 'dead' })
      const before = await rowOf(database.sql, taskId(1))
      expect(await sweepSilentForASecond()).toEqual([])
      expect(await rowOf(database.sql, taskId(1))).toEqual(before)
    },
  )
})

describe('sweep: the threshold', () => {
  it('is exact to the millisecond', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: 'dead' })
    await serverHasRunForASecond(database.sql)
    // Within a transaction now() stands still.
    await database.db.transaction(async (tx) => {
      await tx.execute(`update apalis.workers set last_seen = now() - interval '999 milliseconds'`)
      expect(await sweptIds(tx as unknown as Db, queue, 1_000)).toEqual([])
      await tx.execute(`update apalis.workers set last_seen = now() - interval '1000 milliseconds'`)
      expect(await sweptIds(tx as unknown as Db, queue, 1_000)).toEqual([taskId(1)])
    })
  })
})

describe('sweep: how much', () => {
  const many = (count: number) => database.sql`
    insert into apalis.jobs (job, id, job_type, status, lock_by, lock_at)
    select '{}', 'P' || lpad(n::text, 25, '0'), ${queue}, case when n % 2 = 0 then 'Running' else 'Queued' end, 'dead',
      date_trunc('second', now()) from generate_series(1, ${count}::int) n`

  it('takes a thousand a call, and by repeated calls all [NEXT-01]', async () => {
    await many(SWEEP_LIMIT + 5)
    const ids = [await sweepSilentForASecond(), await sweepSilentForASecond(), await sweepSilentForASecond()]
    expect(ids.map(({ length }) => length)).toEqual([SWEEP_LIMIT, 5, 0])
    expect(new Set(ids.flat()).size).toBe(SWEEP_LIMIT + 5)
    expect(await database.sql`select id from apalis.jobs where status <> 'Pending' or lock_by is not null`).toEqual([])
  })

  it('leaves none to a worker that starts again under the name [NEXT-01]', async () => {
    await many(SWEEP_LIMIT + 5)
    const registration = { queue, worker: 'dead', leaseToken: 'new', storageName: 's', layers: '', thresholdMs: 1_000 }
    expect(await register(db(), registration)).toHaveLength(SWEEP_LIMIT + 5)
    expect(await database.sql`select id from apalis.jobs where status <> 'Pending' or lock_by is not null`).toEqual([])
  })

  it('finds an orphan behind thousands of dead workers', async () => {
    await database.sql`
      insert into apalis.workers (id, worker_type, storage_name, last_seen)
      select 'a dead worker ' || n, ${queue}, 's', now() - interval '1 year' from generate_series(1, 3000) n`
    await storeTasks(database.sql, 2, { queue, status: 'Running', lockBy: 'dead' })
    expect((await sweepSilentForASecond()).toSorted()).toEqual([taskId(1), taskId(2)])
  })
})

describe('sweep: after a restart of the server', () => {
  beforeEach(async () => {
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: 'dead' })
    await database.sql`update apalis.workers set last_seen = pg_postmaster_start_time() - interval '1 day'`
  })

  it('takes nothing while the server runs for less than the threshold, however old the last heartbeat', async () => {
    const threshold = (await uptimeMs(database.sql)) + 3_600_000
    expect(await sweptIds(db(), queue, threshold)).toEqual([])
  })

  it('takes the tasks of those that were silent since the restart', async () => {
    const threshold = await uptimeMs(database.sql)
    expect(await sweptIds(db(), queue, threshold)).toEqual([taskId(1)])
  })
})
