/**
 * Shows what an acknowledgement writes, and that one which is not of the task's present claim writes nothing.
 */
import { admin } from 'apalis-drizzle'
import { beforeEach, describe, expect, it } from 'vitest'
import { ackUnlessLocked, statusOfClaims } from '../src/statements/ack.js'
import { claim } from '../src/statements/claim.js'
import { register } from '../src/statements/register.js'
import { MAX_DELAY_MS, MAX_INT4, MAX_RUN_AT_MS } from '../src/vocabulary/limits.js'
import type { Db } from '../src/vocabulary/db.js'
import type { AckEntry, AckOutcome, Fence } from '../src/vocabulary/outcome.js'
import { useDatabase } from './support/database.js'
import { expectBetween } from './support/expect-between.js'
import { clearTasks, rowOf, storeTask, storeTasks, storeWorker, taskId, type StoredTask } from './support/rows.js'

const database = useDatabase()
const { queue, worker } = { queue: 'emails', worker: 'mailer#1' }

const done = { status: 'Done', result: '{"Ok": {"sent": true}}' } as const
const failed = { status: 'Failed', result: '{"Err": "no route to host"}', due: { delayMs: 60_000 } } as const
const killed = { status: 'Killed', result: '{"Err": "gave up"}' } as const

beforeEach(async () => {
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: worker, queue })
})

const db = () => database.db as unknown as Db

async function claimAll(leaseToken = `token of ${worker}`): Promise<Fence[]> {
  return claim(db(), { queue, worker, leaseToken, thresholdMs: 60_000, limit: 1000, running: 1000 })
}

async function claimOne(task: Partial<StoredTask> = {}): Promise<Fence> {
  await storeTask(database.sql, { id: taskId(1), queue, ...task })
  const [fence] = await claimAll()
  if (fence === undefined) throw new Error('The task was not claimed.')
  return fence
}

/** The statuses written, by id. */
async function acknowledge(...entries: AckEntry[]): Promise<Record<string, string>> {
  return Object.fromEntries(await ackUnlessLocked(db(), queue, worker, entries))
}

/** Milliseconds from the server's now to the task's due time. */
async function dueInMs(id: string): Promise<number> {
  const [row] = await database.sql`
    select (extract(epoch from run_at - now()) * 1000)::float8 as ms from apalis.jobs where id = ${id}`
  return row?.['ms'] as number
}

describe('ack: what it writes', () => {
  it('ends a task as Done with its result, and keeps owner and lock time as history [ACK-11] [ACK-12]', async () => {
    const fence = await claimOne()
    const before = await rowOf(database.sql, fence.id)
    expect(await acknowledge({ fence, outcome: done })).toEqual({ [fence.id]: 'Done' })
    expect(await rowOf(database.sql, fence.id)).toEqual({
      ...before,
      status: 'Done',
      attempts: 1,
      last_result: { Ok: { sent: true } },
      done_at: expect.any(Date) as Date,
    })
  })

  it.each<[string, number, number, AckOutcome & { result: string }, string]>([
    ['Done', 0, 2, done, '[ACK-22]'],
    ['Failed', 0, 2, failed, '[ACK-01] [ACK-02] [ACK-03]'],
    ['Killed', 1, 2, failed, '[ACK-04] [ACK-05] [ACK-06]'],
    ['Killed', 0, 1, failed, ''],
    ['Killed', 0, 2, killed, ''],
    ['Done', 1, 2, done, ''],
  ])('writes %s after %i of %i attempts: %o %s', async (status, attempts, maxAttempts, outcome, _ids) => {
    const fence = await claimOne({ attempts, maxAttempts })
    expect(await acknowledge({ fence, outcome })).toEqual({ [fence.id]: status })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({
      status,
      attempts: attempts + 1,
      last_result: JSON.parse(outcome.result) as unknown,
      done_at: expect.any(Date) as Date,
    })
  })

  it.each([3, MAX_INT4])('never retries a task whose budget of %i is used up already [ACK-23]', async (maxAttempts) => {
    // Claimed by a program that does not look at the budget.
    const used = { status: 'Running', attempts: maxAttempts, maxAttempts, lockBy: worker }
    await storeTask(database.sql, { id: taskId(1), queue, ...used })
    const [row] = await database.sql`select extract(epoch from lock_at)::float8 as lock_at from apalis.jobs`
    const fence = { id: taskId(1), attempts: maxAttempts, lockAt: row?.['lock_at'] as number }
    expect(await acknowledge({ fence, outcome: failed })).toEqual({ [fence.id]: 'Killed' })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Killed', attempts: maxAttempts })
  })

  it.each([
    [MAX_INT4 - 2, 'Failed'],
    [MAX_INT4 - 1, 'Killed'],
  ])('counts on from %i of the largest budget [NEXT-17]', async (attempts, status) => {
    const fence = await claimOne({ attempts, maxAttempts: MAX_INT4 })
    expect(await acknowledge({ fence, outcome: failed })).toEqual({ [fence.id]: status })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status, attempts: attempts + 1 })
  })

  it('records a Queued task as well as a Running one', async () => {
    const fence = await claimOne()
    await database.sql`update apalis.jobs set status = 'Queued'`
    expect(await acknowledge({ fence, outcome: done })).toEqual({ [fence.id]: 'Done' })
  })

  it('clears the owner of a row that no task can be made of', async () => {
    const fence = await claimOne()
    await acknowledge({ fence, outcome: { ...killed, unlock: true } })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({
      status: 'Killed',
      attempts: 1,
      lock_by: null,
      lock_at: null,
      done_at: expect.any(Date) as Date,
    })
  })

  it.each([
    ['quotes', `a "quoted" 'text' with \\ and {braces}, commas`],
    ['line ends', 'one\ntwo\r\n\tthree'],
    ['characters of four bytes', 'größer 🚀 漢字'],
    ['nothing', ''],
    ['the word of a missing value', 'NULL'],
  ])('keeps an error text with %s', async (_, text) => {
    const fence = await claimOne()
    await acknowledge({ fence, outcome: { ...failed, result: JSON.stringify({ Err: text }) } })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ last_result: { Err: text } })
  })
})

describe('ack: when the task is due again', () => {
  it('moves a failed task by its delay', async () => {
    const fence = await claimOne()
    await acknowledge({ fence, outcome: failed })
    expectBetween(await dueInMs(fence.id), 50_000, 60_000)
  })

  it('moves a failed task to its instant', async () => {
    const fence = await claimOne()
    const at = new Date('2031-02-03T04:05:06.789Z')
    await acknowledge({ fence, outcome: { ...failed, due: { atMs: at.getTime() } } })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ run_at: at })
  })

  it('leaves the due time of a task that has ended', async () => {
    const fence = await claimOne({ attempts: 4 })
    const before = await rowOf(database.sql, fence.id)
    await acknowledge({ fence, outcome: failed })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Killed', run_at: before?.['run_at'] as Date })
  })

  it('returns a deferred task uncharged, unowned and later, with the result of an earlier attempt', async () => {
    const result = { Err: 'of an earlier attempt' }
    const fence = await claimOne({ attempts: 1, result })
    expect(await acknowledge({ fence, outcome: { status: 'Pending', due: { delayMs: 30_000 } } })).toEqual({
      [fence.id]: 'Pending',
    })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({
      status: 'Pending',
      attempts: 1,
      lock_by: null,
      lock_at: null,
      done_at: null,
      last_result: result,
    })
    expectBetween(await dueInMs(fence.id), 20_000, 30_000)
  })

  it('returns a task that was handed back to its old place in the queue', async () => {
    const fence = await claimOne({ runAt: '-1 hour' })
    const before = await rowOf(database.sql, fence.id)
    await database.sql`update apalis.jobs set lock_at = lock_at - interval '2 hours'`
    await acknowledge({ fence: { ...fence, lockAt: fence.lockAt - 7200 }, outcome: { status: 'Pending' } })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ run_at: before?.['run_at'] as Date })
  })

  it.each<[string, AckOutcome]>([
    ['handed back', { status: 'Pending' }],
    ['deferred by nothing', { status: 'Pending', due: { delayMs: 0 } }],
    ['deferred to the past', { status: 'Pending', due: { atMs: 0 } }],
  ])('lets a task that was %s be claimed in the second after its lock at the earliest', async (_, outcome) => {
    const fence = await claimOne()
    await acknowledge({ fence, outcome })
    const [row] = await database.sql`select extract(epoch from run_at)::float8 as due from apalis.jobs`
    expect(row?.['due']).toBeGreaterThanOrEqual(fence.lockAt + 1)
  })

  it.each<[string, AckOutcome]>([
    ['the longest delay', { ...failed, due: { delayMs: MAX_DELAY_MS } }],
    ['the last instant of a Rust reader', { ...failed, due: { atMs: MAX_RUN_AT_MS } }],
  ])('stores %s', async (_, outcome) => {
    const fence = await claimOne()
    expect(await acknowledge({ fence, outcome })).toEqual({ [fence.id]: outcome.status })
    const [row] = await database.sql`select extract(epoch from run_at)::float8 as due from apalis.jobs`
    expectBetween(row?.['due'], Date.now() / 1000, MAX_RUN_AT_MS / 1000)
  })
})

describe('ack: not of the present claim', () => {
  it.each<[string, (fence: Fence) => Fence]>([
    ['another lock time [ACK-15]', (fence) => ({ ...fence, lockAt: fence.lockAt - 1 })],
    ['another number of attempts [ACK-16]', (fence) => ({ ...fence, attempts: fence.attempts + 1 })],
    ['an unknown id [ACK-17]', (fence) => ({ ...fence, id: taskId(99) })],
  ])('with %s it changes nothing', async (_, change) => {
    const fence = await claimOne()
    const before = await rowOf(database.sql, fence.id)
    expect(await acknowledge({ fence: change(fence), outcome: done })).toEqual({})
    expect(await rowOf(database.sql, fence.id)).toEqual(before)
  })

  it('by another worker it changes nothing [ACK-07] [ACK-08]', async () => {
    await storeWorker(database.sql, { id: 'mailer#2', queue })
    const fence = await claimOne()
    const before = await rowOf(database.sql, fence.id)
    expect((await ackUnlessLocked(db(), queue, 'mailer#2', [{ fence, outcome: done }])).size).toBe(0)
    expect(await rowOf(database.sql, fence.id)).toEqual(before)
  })

  it('for another queue it changes nothing [ACK-18]', async () => {
    const fence = await claimOne()
    const before = await rowOf(database.sql, fence.id)
    expect((await ackUnlessLocked(db(), 'other', worker, [{ fence, outcome: done }])).size).toBe(0)
    expect(await rowOf(database.sql, fence.id)).toEqual(before)
  })

  it.each([
    ['Pending', '[ACK-09]'],
    ['Done', '[ACK-10]'],
    ['Failed', ''],
    ['Killed', ''],
  ])('on a task that is %s it changes nothing %s', async (status) => {
    const fence = await claimOne()
    const result = { Ok: 'of the other' }
    await database.sql`update apalis.jobs set status = ${status}, last_result = ${JSON.stringify(result)}::text::jsonb`
    const before = await rowOf(database.sql, fence.id)
    expect(await acknowledge({ fence, outcome: killed })).toEqual({})
    expect(await rowOf(database.sql, fence.id)).toEqual(before)
  })

  it('the second time it changes nothing', async () => {
    const fence = await claimOne()
    await acknowledge({ fence, outcome: done })
    const before = await rowOf(database.sql, fence.id)
    expect(await acknowledge({ fence, outcome: killed })).toEqual({})
    expect(await rowOf(database.sql, fence.id)).toEqual(before)
  })

  it('of a process whose name another has taken over, with its tasks, it changes nothing [ACK-13]', async () => {
    const fence = await claimOne()
    await database.sql`update apalis.workers set lease_token = null, last_seen = now() - interval '1 hour'`
    const successor = {
      queue,
      worker,
      leaseToken: 'of the successor',
      storageName: 's',
      layers: '',
      thresholdMs: 60_000,
    }
    expect(await register(db(), successor)).toMatchObject([{ id: fence.id, status: 'Pending' }])
    const before = await rowOf(database.sql, fence.id)
    expect(await acknowledge({ fence, outcome: done })).toEqual({})
    expect(await rowOf(database.sql, fence.id)).toEqual(before)

    await database.sql`update apalis.jobs set run_at = now()`
    const [again] = await claimAll(successor.leaseToken)
    expect(again).toMatchObject({ id: fence.id, attempts: 1 })
    expect(await acknowledge({ fence, outcome: done })).toEqual({})
  })
})

describe('ack: many at once', () => {
  it('writes each outcome, and says of which tasks the claim was lost', async () => {
    await storeTasks(database.sql, 6, { queue, attempts: 1, maxAttempts: 3 })
    const [first, second, third, fourth, fifth, sixth] = (await claimAll()) as [
      Fence,
      Fence,
      Fence,
      Fence,
      Fence,
      Fence,
    ]
    await database.sql`update apalis.jobs set attempts = 2 where id = ${sixth.id}`
    const written = await acknowledge(
      { fence: first, outcome: done },
      { fence: second, outcome: failed },
      { fence: third, outcome: killed },
      { fence: fourth, outcome: { status: 'Pending' } },
      { fence: fifth, outcome: { ...killed, unlock: true } },
      { fence: sixth, outcome: done },
    )
    expect(written).toEqual({
      [first.id]: 'Done',
      [second.id]: 'Failed',
      [third.id]: 'Killed',
      [fourth.id]: 'Pending',
      [fifth.id]: 'Killed',
    })
    const rows = await database.sql`select status, attempts, lock_by from apalis.jobs order by id`
    expect(rows.map((row) => [row['status'], row['attempts'], row['lock_by']] as unknown[])).toEqual([
      ['Done', 2, worker],
      ['Failed', 2, worker],
      ['Killed', 2, worker],
      ['Pending', 1, null],
      ['Killed', 2, null],
      ['Running', 2, worker],
    ])
  })

  it('writes five hundred', async () => {
    await database.sql`insert into apalis.jobs (job, id, job_type)
      select '{}', 'P' || lpad(n::text, 25, '0'), ${queue} from generate_series(1, 500) n`
    const fences = await claimAll()
    const written = await ackUnlessLocked(
      db(),
      queue,
      worker,
      fences.map((fence) => ({ fence, outcome: done })),
    )
    expect(written.size).toBe(500)
    expect(await database.sql`select id from apalis.jobs where status = 'Done'`).toHaveLength(500)
  })

  it('of two claims of one task writes the outcome of the present one', async () => {
    const fence = await claimOne()
    const former = { ...fence, lockAt: fence.lockAt - 5 }
    expect(await acknowledge({ fence: former, outcome: killed }, { fence, outcome: done })).toEqual({
      [fence.id]: 'Done',
    })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Done', attempts: 1 })
  })
})

describe('statusOfClaims', () => {
  async function statuses(...entries: AckEntry[]): Promise<Record<string, string>> {
    return Object.fromEntries(await statusOfClaims(db(), queue, worker, entries))
  }

  it.each<[string, AckOutcome, number, string]>([
    ['Done', done, 0, 'Done'],
    ['Failed', failed, 0, 'Failed'],
    ['Failed with the last attempt', failed, 4, 'Killed'],
    ['Killed', killed, 0, 'Killed'],
  ])('recognises its own %s', async (_, outcome, attempts, status) => {
    const fence = await claimOne({ attempts })
    await acknowledge({ fence, outcome })
    expect(await statuses({ fence, outcome })).toEqual({ [fence.id]: status })
  })

  it.each(['Running', 'Queued'])('is %s while the claim stands', async (status) => {
    const fence = await claimOne()
    await database.sql`update apalis.jobs set status = ${status}`
    expect(await statuses({ fence, outcome: done })).toEqual({ [fence.id]: status })
    expect(await statuses({ fence: { ...fence, lockAt: fence.lockAt - 1 }, outcome: done })).toEqual({})
    expect(await statuses({ fence: { ...fence, attempts: 1 }, outcome: done })).toEqual({})
  })

  it('of one claim may be asked for several outcomes', async () => {
    const fence = await claimOne()
    await acknowledge({ fence, outcome: done })
    const outcomes = [killed, done, failed]
    expect(await statuses(...outcomes.map((outcome) => ({ fence, outcome })))).toEqual({ [fence.id]: 'Done' })
  })

  it('does not take the acknowledgement of another claim for its own', async () => {
    const fence = await claimOne()
    await acknowledge({ fence, outcome: failed })
    expect(await statuses({ fence, outcome: done })).toEqual({})
    expect(await statuses({ fence: { ...fence, lockAt: fence.lockAt - 1 }, outcome: failed })).toEqual({})
    expect(await statuses({ fence: { ...fence, attempts: 1 }, outcome: failed })).toEqual({})
    expect((await statusOfClaims(db(), queue, 'mailer#2', [{ fence, outcome: failed }])).size).toBe(0)
    expect((await statusOfClaims(db(), 'other', worker, [{ fence, outcome: failed }])).size).toBe(0)
  })

  it('does not take a cancellation for an acknowledgement', async () => {
    const fence = await claimOne()
    await admin(database.db).cancel({ ids: [fence.id] })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Killed', attempts: 1, lock_by: worker })
    expect(await statuses({ fence, outcome: killed })).toEqual({})
    expect(await statuses({ fence, outcome: failed })).toEqual({})
  })

  it('does not take a claim for standing whose task was cancelled before it started', async () => {
    const fence = await claimOne()
    await database.sql`update apalis.jobs set status = 'Queued'`
    await admin(database.db).cancel({ ids: [fence.id] })
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Killed', attempts: 0, lock_by: worker })
    expect(await statuses({ fence, outcome: done })).toEqual({})
  })

  it('does not take the sweep of its task for an acknowledgement', async () => {
    const fence = await claimOne({ attempts: 4 })
    await database.sql`update apalis.jobs set status = 'Killed', attempts = 5, lock_by = null, lock_at = null`
    expect(await statuses({ fence, outcome: killed })).toEqual({})
  })
})
