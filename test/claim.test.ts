/**
 * Shows which tasks the claim statement takes, in which order, as what, for whom, and what it leaves alone.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import { claim, type ClaimRequest } from '../src/statements/claim.js'
import type { Db } from '../src/vocabulary/db.js'
import { workerSettings } from '../src/vocabulary/settings.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import { clearTasks, rowOf, storeTask, storeTasks, storeWorker, taskId } from './support/rows.js'

const database = useDatabase()
const { queue, worker } = { queue: 'emails', worker: 'mailer#1' }

beforeEach(async () => {
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: worker, queue })
})

function claimRows(request: Partial<ClaimRequest> = {}, db: unknown = database.db) {
  const defaults = { queue, worker, leaseToken: `token of ${worker}`, thresholdMs: 60_000, limit: 10, running: 10 }
  return claim(db as Db, { ...defaults, ...request })
}

/** A due task of each priority from 1. */
async function storePriorities(count: number): Promise<void> {
  await database.sql`
    insert into apalis.jobs (job, id, job_type, priority, run_at)
    select '{}', 'P' || lpad(n::text, 25, '0'), ${queue}, n, now() - interval '1 hour'
    from generate_series(1, ${count}::int) n`
}

async function claimIds(request: Partial<ClaimRequest> = {}): Promise<string[]> {
  return (await claimRows(request)).map(({ id }) => id)
}

describe('claim: which tasks', () => {
  it('finds none in an empty queue [CLAIM-09]', async () => {
    expect(await claimRows()).toEqual([])
  })

  it('takes all when there are fewer than asked for [CLAIM-10]', async () => {
    await storeTasks(database.sql, 3, { queue })
    expect(await claimRows({ limit: 10 })).toHaveLength(3)
  })

  it('takes no more than asked for [CLAIM-11]', async () => {
    await storeTasks(database.sql, 5, { queue })
    expect(await claimRows({ limit: 2 })).toHaveLength(2)
    expect(await database.sql`select id from apalis.jobs where status = 'Pending'`).toHaveLength(3)
  })

  it('is asked for at least one task, however small the buffer [CLAIM-12]', () => {
    expect(workerSettings({ bufferSize: 0 }, { concurrency: 1 })).toMatchObject({ bufferSize: 1 })
    expect(workerSettings({ bufferSize: 2 }, { concurrency: 5 })).toMatchObject({ bufferSize: 5 })
  })

  it('leaves other queues alone [CLAIM-13]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue })
    await storeTask(database.sql, { id: taskId(2), queue: 'other' })
    expect(await claimIds()).toEqual([taskId(1)])
    expect(await rowOf(database.sql, taskId(2))).toMatchObject({ status: 'Pending', lock_by: null })
  })

  it('takes a task that is due this very moment [CLAIM-14]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue })
    const claimed = await database.db.transaction(async (tx) => {
      // Within a transaction now() stands still.
      await tx.execute(`update apalis.jobs set run_at = now()`)
      return claimRows({}, tx)
    })
    expect(claimed).toHaveLength(1)
  })

  it('leaves a task alone until it is due; it stays readable [CLAIM-02] [CLAIM-03] [CLAIM-16]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, runAt: '1 hour' })
    const before = await rowOf(database.sql, taskId(1))
    expect(await claimRows()).toEqual([])
    expect(await rowOf(database.sql, taskId(1))).toEqual(before)

    await database.sql`update apalis.jobs set run_at = now()`
    expect(await claimIds()).toEqual([taskId(1)])
  })

  it.each([
    ['takes', 'Failed', 1, '[CLAIM-17]'],
    ['takes', 'Failed', 2, '[CLAIM-18]'],
    ['leaves', 'Failed', 3, '[CLAIM-19]'],
    ['takes', 'Pending', 2, ''],
    ['leaves', 'Pending', 3, '[NEXT-04]'],
    ['leaves', 'Queued', 0, '[CLAIM-20]'],
    ['leaves', 'Running', 0, '[CLAIM-21]'],
    ['leaves', 'Done', 1, '[CLAIM-22]'],
    ['leaves', 'Killed', 1, '[CLAIM-23]'],
  ])('%s a task that is %s with %i of 3 attempts charged %s', async (verb, status, attempts, _ids) => {
    await storeWorker(database.sql, { id: 'before', queue })
    const owner = status === 'Pending' ? {} : { lockBy: 'before', lockAt: '-1 minute' }
    await storeTask(database.sql, { id: taskId(1), queue, status, attempts, maxAttempts: 3, ...owner })
    const before = await rowOf(database.sql, taskId(1))
    expect(await claimIds()).toEqual(verb === 'takes' ? [taskId(1)] : [])
    const after = await rowOf(database.sql, taskId(1))
    if (verb === 'takes') expect(after).toMatchObject({ status: 'Running', lock_by: worker, attempts })
    else expect(after).toEqual(before)
  })

  it('skips a task that another transaction has locked', async () => {
    await storeTasks(database.sql, 3, { queue })
    const held = await hold(database.sql, `select from apalis.jobs where id = '${taskId(1)}' for key share`)
    expect(await claimIds({ limit: 2 })).toEqual([taskId(2), taskId(3)])
    await held.release()
    expect(await claimIds()).toEqual([taskId(1)])
  })
})

describe('claim: what becomes of a task', () => {
  it('makes it Running, with owner, lock time in whole seconds and no end [CLAIM-15]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, doneAt: '-1 hour' })
    await claimRows()
    const row = await rowOf(database.sql, taskId(1))
    expect(row).toMatchObject({ status: 'Running', lock_by: worker, done_at: null, attempts: 0 })
    const [clock] = await database.sql`select lock_at = date_trunc('second', lock_at) as whole,
      now() - lock_at < interval '10 seconds' as recent from apalis.jobs`
    expect(clock).toEqual({ whole: true, recent: true })
  })

  it('keeps attempts and the last result of a failed task [CLAIM-24]', async () => {
    const result = { Err: 'first failure' }
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Failed', attempts: 1, result })
    expect(await claimRows()).toMatchObject([{ id: taskId(1), attempts: 1 }])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ attempts: 1, last_result: result })
  })

  it('answers with the row as stored', async () => {
    await storeTask(database.sql, {
      id: taskId(1),
      queue,
      job: '{"to":"a"}',
      attempts: 2,
      maxAttempts: 7,
      priority: 3,
      metadata: { snake_case: { camelCase: 1 } },
      idempotencyKey: 'key',
    })
    const [row] = await claimRows()
    const [stored] = await database.sql`
      select run_at, (extract(epoch from run_at) * 1e6)::float8 as run_at_us, extract(epoch from lock_at)::int as lock_at
      from apalis.jobs where id = ${taskId(1)}`
    expect(row).toEqual({
      id: taskId(1),
      queue,
      job: expect.any(Uint8Array) as Uint8Array,
      status: 'Running',
      attempts: 2,
      maxAttempts: 7,
      priority: 3,
      runAt: stored?.['run_at'] as Date,
      runAtUs: stored?.['run_at_us'] as number,
      lockAt: stored?.['lock_at'] as number,
      metadata: '{"snake_case": {"camelCase": 1}}',
      idempotencyKey: 'key',
      foundInMs: expect.any(Number) as number,
    })
    expect(new TextDecoder().decode(row?.job)).toBe('{"to":"a"}')
  })

  it('makes those Running for which a slot is free and the rest Queued, the first ones first', async () => {
    await storeTasks(database.sql, 4, { queue })
    await storeTask(database.sql, { id: taskId(9), queue, priority: 1 })
    const claimed = await claimRows({ running: 2 })
    expect(claimed.map(({ id, status }) => [id, status])).toEqual([
      [taskId(9), 'Running'],
      [taskId(1), 'Running'],
      [taskId(2), 'Queued'],
      [taskId(3), 'Queued'],
      [taskId(4), 'Queued'],
    ])
    for (const { id, status } of claimed) expect(await rowOf(database.sql, id)).toMatchObject({ status })
  })

  it('makes all Queued when no slot is free', async () => {
    await storeTasks(database.sql, 2, { queue })
    expect(await claimRows({ running: 0 })).toMatchObject([{ status: 'Queued' }, { status: 'Queued' }])
  })

  it('agrees with itself on the order where a Date cannot tell: the first ones are the Running ones', async () => {
    await storeTasks(database.sql, 2, { queue })
    await database.sql`update apalis.jobs set run_at = '2026-01-01 00:00:00.000100+00' where id = ${taskId(2)}`
    await database.sql`update apalis.jobs set run_at = '2026-01-01 00:00:00.000200+00' where id = ${taskId(1)}`
    expect((await claimRows({ running: 1 })).map(({ id, status }) => [id, status])).toEqual([
      [taskId(2), 'Running'],
      [taskId(1), 'Queued'],
    ])
  })
})

describe('claim: order', () => {
  it('goes by age within a priority [CLAIM-01] [CLAIM-06]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, runAt: '-1 minute' })
    await storeTask(database.sql, { id: taskId(2), queue, runAt: '-3 minutes' })
    await storeTask(database.sql, { id: taskId(3), queue, runAt: '-2 minutes' })
    expect(await claimIds({ limit: 1 })).toEqual([taskId(2)])
    expect(await claimIds()).toEqual([taskId(3), taskId(1)])
  })

  it('goes by priority first, whatever the age [CLAIM-04] [CLAIM-05]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, priority: 5, runAt: '-3 hours' })
    await storeTask(database.sql, { id: taskId(2), queue, priority: 0, runAt: '-9 hours' })
    await storeTask(database.sql, { id: taskId(3), queue, priority: 2_147_483_647, runAt: '-1 minute' })
    expect(await claimIds({ limit: 2 })).toEqual([taskId(3), taskId(1)])
    expect(await claimIds()).toEqual([taskId(2)])
  })

  it('goes by id where all else is equal', async () => {
    for (const n of [3, 1, 2]) await storeTask(database.sql, { id: taskId(n), queue })
    await database.sql`update apalis.jobs set run_at = '2026-01-01 00:00:00+00'`
    expect(await claimIds()).toEqual([taskId(1), taskId(2), taskId(3)])
  })

  it('passes delayed tasks of a higher priority', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, priority: 9, runAt: '1 hour' })
    await storeTask(database.sql, { id: taskId(2), queue, priority: 1 })
    expect(await claimIds()).toEqual([taskId(2)])
  })

  it('keeps the order over more priorities than it looks for one by one', async () => {
    await database.sql`
      insert into apalis.jobs (job, id, job_type, priority, run_at)
      select '{}', 'P' || lpad((200 - n)::text, 25, '0'), ${queue}, n, now() - interval '1 hour'
      from generate_series(1, 150) n`
    const claimed = [
      ...(await claimRows({ limit: 20 })),
      ...(await claimRows({ limit: 100 })),
      ...(await claimRows({ limit: 100 })),
    ]
    expect(claimed.map(({ priority }) => priority)).toEqual(Array.from({ length: 150 }, (_, n) => 150 - n))
  })

  it.each([63, 64, 65])('finds everything when there are %i priorities', async (priorities) => {
    await database.sql`
      insert into apalis.jobs (job, id, job_type, priority, run_at)
      select '{}', 'P' || lpad(n::text, 25, '0'), ${queue}, n % ${priorities}, now() - interval '1 hour'
      from generate_series(1, ${priorities * 2}::int) n`
    expect(new Set(await claimIds({ limit: 1000 })).size).toBe(priorities * 2)
  })

  it('leaves delayed tasks alone beyond the priorities that it looks for one by one, too', async () => {
    await database.sql`
      insert into apalis.jobs (job, id, job_type, priority, run_at)
      select '{}', 'P' || lpad(n::text, 25, '0'), ${queue}, n, now() + interval '1 hour' from generate_series(1, 80) n`
    await storeTask(database.sql, { id: taskId(1), queue, priority: 0 })
    expect(await claimIds({ limit: 1000 })).toEqual([taskId(1)])
  })
})

describe('claim: for whom', () => {
  beforeEach(() => storeTasks(database.sql, 2, { queue }))

  it.each([
    ['with another token than its own', { leaseToken: 'token of another process' }],
    ['that is not registered', { worker: 'stranger' }],
    ['that is registered in another queue', { worker: 'elsewhere', leaseToken: 'token of elsewhere' }],
  ])('gives nothing to a worker %s', async (_, request) => {
    await storeWorker(database.sql, { id: 'elsewhere', queue: 'other' })
    expect(await claimRows(request)).toEqual([])
    expect(await claimIds()).toHaveLength(2)
  })

  it('gives nothing to a worker whose name another process has taken over [NEXT-02]', async () => {
    await database.sql`update apalis.workers set lease_token = 'token of the successor', last_seen = now()`
    expect(await claimRows()).toEqual([])
    expect(await claimRows({ leaseToken: 'token of the successor' })).toHaveLength(2)
  })

  it('gives nothing to others beyond the priorities that it looks for one by one either', async () => {
    await storePriorities(100)
    expect(await claimRows({ leaseToken: 'token of another process', limit: 1_000 })).toEqual([])
  })

  it('gives nothing to a worker whose row has no token', async () => {
    await database.sql`update apalis.workers set lease_token = null`
    expect(await claimRows()).toEqual([])
  })

  it('gives nothing to a worker that others may take for dead', async () => {
    await database.sql`update apalis.workers set last_seen = now() - interval '61 seconds'`
    expect(await claimRows({ thresholdMs: 60_000 })).toEqual([])
    expect(await claimRows({ thresholdMs: 62_000 })).toHaveLength(2)
  })
})

describe('claim: at the same time as others', () => {
  it('gives two workers different tasks, and together all of them [CLAIM-07] [CLAIM-08]', async () => {
    await storeWorker(database.sql, { id: 'mailer#2', queue })
    await storeTasks(database.sql, 8, { queue })
    const others = { worker: 'mailer#2', leaseToken: 'token of mailer#2' }
    const claims = Array.from({ length: 8 }, (_, n) => claimIds({ limit: 2, ...(n % 2 === 0 ? {} : others) }))
    const ids = (await Promise.all(claims)).flat()
    expect(ids.toSorted()).toEqual(Array.from({ length: 8 }, (_, n) => taskId(n + 1)))
  })

  it('locks the tasks it takes and no others', async () => {
    await storeTasks(database.sql, 10, { queue })
    await storeTask(database.sql, { id: taskId(11), queue, priority: 1 })
    await database.db.transaction(async (tx) => {
      expect(await claimRows({ limit: 3 }, tx)).toHaveLength(3)
      const free = await database.sql`select id from apalis.jobs for update skip locked`
      expect(free).toHaveLength(8)
    })
  })

  it('skips a task that another transaction has locked beyond the priorities it looks for one by one, too', async () => {
    await storePriorities(100)
    const held = await hold(database.sql, 'select from apalis.jobs where priority = 1 for update')
    try {
      expect(await claimRows({ limit: 1_000 })).toHaveLength(99)
    } finally {
      await held.release()
    }
  })

  it('locks no others beyond the priorities it looks for one by one', async () => {
    await storePriorities(100)
    await database.db.transaction(async (tx) => {
      expect(await claimRows({ limit: 70 }, tx)).toHaveLength(70)
      expect(await database.sql`select id from apalis.jobs for update skip locked`).toHaveLength(30)
    })
  })

  it('never takes more than its limit, with no statistics and a plan for any parameters', async () => {
    await database.sql`insert into apalis.jobs (job, id, job_type, priority, run_at)
      select '{}', 'P' || lpad(n::text, 25, '0'), ${queue}, n % 3, now() - interval '1 hour' from generate_series(1, 500) n`
    const { db } = database.connect({ max: 1, connection: { plan_cache_mode: 'force_generic_plan' } })
    for (const limit of [1, 2, 7, 40]) expect(await claimRows({ limit }, db)).toHaveLength(limit)
    expect(await database.sql`select id from apalis.jobs where lock_by is not null`).toHaveLength(50)
  })
})
