/**
 * Shows with held locks what two sessions that meet at the same task or worker row do to each other: who waits, who does
 * not, and what is stored in the end.
 */
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { admin, type Admin } from 'apalis-drizzle'
import { ack } from '../src/statements/ack.js'
import { claim } from '../src/statements/claim.js'
import { heartbeat } from '../src/statements/heartbeat.js'
import { markRunning } from '../src/statements/mark-running.js'
import { register } from '../src/statements/register.js'
import { sweep } from '../src/statements/sweep.js'
import type { Db } from '../src/vocabulary/db.js'
import type { AckOutcome, Fence } from '../src/vocabulary/outcome.js'
import { announcements } from './support/announcements.js'
import { useDatabase } from './support/database.js'
import { hold, waitingFor, type Held } from './support/held.js'
import { clearTasks, rowOf, storeTask, storeTasks, storeWorker, taskId, workerRow } from './support/rows.js'
import { until } from './support/until.js'
import { serverHasRunForASecond } from './support/uptime.js'

const database = useDatabase()
const { queue, worker } = { queue: 'emails', worker: 'mailer#1' }
const leaseToken = `token of ${worker}`

const done: AckOutcome = { status: 'Done', result: '{"Ok":null}' }

interface Session {
  readonly db: Db
  readonly pid: number
  end(how: 'commit' | 'rollback'): Promise<void>
}

beforeEach(async () => {
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: worker, queue })
})

/** A session whose statements fail instead of waiting for long. */
function impatient(): Db {
  return database.connect({ max: 1, connection: { lock_timeout: 2_000 } }).db as unknown as Db
}

/** A transaction that stays open. */
async function begin(): Promise<Session> {
  const { client, db } = database.connect({ max: 1 })
  await client.unsafe('begin')
  const [row] = await client<{ pid: number }[]>`select pg_backend_pid() as pid`
  const end = async (how: 'commit' | 'rollback') => {
    await client.unsafe(how)
  }
  onTestFinished(() => end('rollback'))
  return { db: db as unknown as Db, pid: row?.pid ?? 0, end }
}

/** The locks of a statement that is not the library's. */
async function lockedBy(statement: string): Promise<Held> {
  const held = await hold(database.sql, statement)
  onTestFinished(() => held.release())
  return held
}

const now = () => database.db as unknown as Db

function claimWith(db: Db, token = leaseToken, thresholdMs = 86_400_000) {
  return claim(db, { queue, worker, leaseToken: token, thresholdMs, limit: 10, running: 10 })
}

async function claimOne(): Promise<Fence> {
  await storeTask(database.sql, { id: taskId(1), queue })
  const [fence] = await claimWith(now())
  if (fence === undefined) throw new Error('The task was not claimed.')
  return fence
}

async function ackWith(db: Db, fence: Fence, outcome: AckOutcome = done): Promise<string | undefined> {
  return (await ack(db, queue, worker, [{ fence, outcome }])).get(fence.id)
}

async function fallSilent(): Promise<void> {
  await serverHasRunForASecond(database.sql)
  await database.sql`update apalis.workers set last_seen = now() - interval '1 hour' where id = ${worker}`
}

const sweepWith = async (db: Db) => (await sweep(db, queue, 1_000)).map(({ id }) => id)

async function takeOver(db: Db) {
  const registration = { queue, worker, leaseToken: 'token of the successor', storageName: 's', layers: '' }
  const orphans = await register(db, { ...registration, thresholdMs: 1_000 })
  return orphans?.map(({ id }) => id)
}

describe('an acknowledgement and a sweep', () => {
  it('the task that is being acknowledged stays its worker’s, and nobody waits [NEXT-42]', async () => {
    const fence = await claimOne()
    await fallSilent()
    const first = await begin()
    expect(await ackWith(first.db, fence)).toBe('Done')
    expect(await sweepWith(impatient())).toEqual([])
    await first.end('commit')
    expect(await sweepWith(now())).toEqual([])
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Done', attempts: 1, lock_by: worker })
  })

  it('the acknowledgement of a task that is being swept waits, and then changes nothing', async () => {
    const fence = await claimOne()
    await fallSilent()
    const first = await begin()
    expect(await sweepWith(first.db)).toEqual([fence.id])
    const acknowledged = ackWith(now(), fence)
    await waitingFor(database.sql, first)
    await first.end('commit')
    expect(await acknowledged).toBeUndefined()
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Pending', attempts: 1, lock_by: null })
  })

  it('the acknowledgement counts after a sweep that was undone', async () => {
    const fence = await claimOne()
    await fallSilent()
    const first = await begin()
    await sweepWith(first.db)
    const acknowledged = ackWith(now(), fence)
    await waitingFor(database.sql, first)
    await first.end('rollback')
    expect(await acknowledged).toBe('Done')
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it('what the answer says is what is stored, whoever comes first', async () => {
    await fallSilent()
    const sweeper = impatient()
    for (let round = 0; round < 30; round++) {
      await storeTasks(database.sql, 5, { queue })
      const fences = await claimWith(now())
      const entries = fences.map((fence) => ({ fence, outcome: done })).reverse()
      const [written, swept] = await Promise.all([ack(now(), queue, worker, entries), sweepWith(sweeper)])
      expect([...written.keys(), ...swept].toSorted()).toEqual(fences.map(({ id }) => id))
      for (const id of written.keys()) expect(await rowOf(database.sql, id)).toMatchObject({ status: 'Done' })
      for (const id of swept) expect(await rowOf(database.sql, id)).toMatchObject({ status: 'Pending', attempts: 1 })
      await database.sql`delete from apalis.jobs`
    }
  })
})

describe('two sweeps', () => {
  it('charge one attempt, and nobody waits', async () => {
    const fence = await claimOne()
    await fallSilent()
    const first = await begin()
    expect(await sweepWith(first.db)).toEqual([fence.id])
    expect(await sweepWith(impatient())).toEqual([])
    await first.end('commit')
    expect(await sweepWith(now())).toEqual([])
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Pending', attempts: 1 })
  })
})

describe('a heartbeat and a sweep', () => {
  it('a worker whose heartbeat is under way keeps its tasks, and nobody waits', async () => {
    const fence = await claimOne()
    await fallSilent()
    const first = await begin()
    expect(await heartbeat(first.db, queue, worker, leaseToken)).toEqual({ registered: true, owned: [fenceOf(fence)] })
    expect(await sweepWith(impatient())).toEqual([])
    await first.end('commit')
    expect(await sweep(now(), queue, 60_000)).toEqual([])
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Running', attempts: 0, lock_by: worker })
  })

  it('a worker whose tasks are being swept learns of it', async () => {
    await claimOne()
    await fallSilent()
    const first = await begin()
    await sweepWith(first.db)
    const beat = heartbeat(now(), queue, worker, leaseToken)
    await waitingFor(database.sql, first)
    await first.end('commit')
    expect(await beat).toMatchObject({ registered: true })
    expect(await heartbeat(now(), queue, worker, leaseToken)).toEqual({ registered: true, owned: [] })
  })
})

describe('a long transaction of a user that holds a task', () => {
  const HOLD_TASK = `select from apalis.jobs where id = '${taskId(1)}' for update`

  it('keeps neither heartbeat, claim, sweep nor mark of its worker waiting', async () => {
    const fence = await claimOne()
    await database.sql`update apalis.jobs set status = 'Queued'`
    await storeTask(database.sql, { id: taskId(2), queue })
    await fallSilent()
    const held = await lockedBy(HOLD_TASK)
    const db = impatient()
    expect(await sweepWith(db)).toEqual([])
    expect(await claimWith(db)).toMatchObject([{ id: taskId(2) }])
    await markRunning(db, queue, worker, [fence])
    expect(await heartbeat(db, queue, worker, leaseToken)).toMatchObject({ registered: true })
    await held.release()
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Queued', attempts: 0, lock_by: worker })
    await markRunning(db, queue, worker, [fence])
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Running', attempts: 0, lock_by: worker })
  })

  it('does not hide the other tasks of a dead worker', async () => {
    await claimOne()
    await storeTask(database.sql, { id: taskId(2), queue, status: 'Running', lockBy: worker })
    await fallSilent()
    const held = await lockedBy(HOLD_TASK)
    expect(await sweepWith(impatient())).toEqual([taskId(2)])
    await held.release()
    expect(await sweepWith(now())).toEqual([taskId(1)])
  })

  it('does not keep a successor from the name; the task follows by its heartbeat', async () => {
    const fence = await claimOne()
    await fallSilent()
    const held = await lockedBy(HOLD_TASK)
    expect(await takeOver(impatient())).toEqual([])
    await held.release()
    expect(await heartbeat(now(), queue, worker, 'token of the successor')).toEqual({
      registered: true,
      owned: [fenceOf(fence)],
    })
  })

  it('keeps the acknowledgement waiting, which then counts', async () => {
    const fence = await claimOne()
    const held = await lockedBy(HOLD_TASK)
    const acknowledged = ackWith(now(), fence)
    await waitingFor(database.sql, held)
    await held.release()
    expect(await acknowledged).toBe('Done')
  })
})

describe('a takeover of the name and an acknowledgement', () => {
  it('do not block each other when the acknowledgement comes first, and it counts [NEXT-07]', async () => {
    const fence = await claimOne()
    await fallSilent()
    const first = await begin()
    expect(await ackWith(first.db, fence)).toBe('Done')
    expect(await takeOver(impatient())).toEqual([])
    await first.end('commit')
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Done', attempts: 1 })
    expect(await workerRow(database.sql, worker, queue)).toMatchObject({ lease_token: 'token of the successor' })
  })

  it('do not deadlock when the takeover comes first: it gets the task, and the acknowledgement is stale [NEXT-07]', async () => {
    const fence = await claimOne()
    await fallSilent()
    const first = await begin()
    expect(await takeOver(first.db)).toEqual([fence.id])
    const acknowledged = ackWith(now(), fence)
    await waitingFor(database.sql, first)
    await first.end('commit')
    expect(await acknowledged).toBeUndefined()
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Pending', attempts: 1, lock_by: null })
  })
})

describe('a locked worker row', () => {
  it('keeps no claim waiting while a sweep, a heartbeat or a takeover holds it', async () => {
    await storeTask(database.sql, { id: taskId(1), queue })
    const held = await lockedBy(`update apalis.workers set layers = 'changed' where id = '${worker}'`)
    expect(await claimWith(impatient())).toHaveLength(1)
    await held.release()
  })

  it('keeps no acknowledgement waiting, whoever holds it', async () => {
    const fence = await claimOne()
    const held = await lockedBy(`select from apalis.workers where id = '${worker}' for update`)
    expect(await ackWith(impatient(), fence)).toBe('Done')
    await held.release()
  })

  it('by a claim under way neither hides orphans nor keeps a heartbeat waiting', async () => {
    await claimOne()
    await fallSilent()
    await storeTask(database.sql, { id: taskId(2), queue })
    const first = await begin()
    expect(await claimWith(first.db)).toMatchObject([{ id: taskId(2) }])
    expect(await sweepWith(impatient())).toEqual([taskId(1)])
    expect(await heartbeat(impatient(), queue, worker, leaseToken)).toMatchObject({ registered: true })
    await first.end('rollback')
  })
})

/** A session with the plans of a large table: in a small one the planner may read all of it instead. */
function lookingUpById(): Db {
  const connection = { enable_seqscan: 'off', enable_hashjoin: 'off', enable_mergejoin: 'off' }
  return database.connect({ max: 1, connection }).db as unknown as Db
}

/** The same in a transaction that stays open. */
const adminIn = ({ db }: Session): Admin => admin(db)
const adminNow = (): Admin => admin(database.db)

describe('a cancellation and an acknowledgement', () => {
  it('the acknowledgement under way counts: the cancellation waits, and is refused', async () => {
    const { id, ...fence } = await claimOne()
    const first = await begin()
    expect(await ackWith(first.db, { id, ...fence })).toBe('Done')
    const cancelled = adminNow().cancel({ ids: [id] })
    await waitingFor(database.sql, first)
    await first.end('commit')
    expect(await cancelled).toEqual({ changed: [], refused: [{ id, reason: 'it has ended (Done)' }] })
    expect(await rowOf(database.sql, id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: null } })
  })

  it('of a failure under way that leaves attempts: the cancellation waits, and ends the task without charging it again', async () => {
    const fence = await claimOne()
    const first = await begin()
    await ackWith(first.db, fence, { status: 'Failed', result: '{"Err":"x"}', due: { delayMs: 0 } })
    const cancelled = adminNow().cancel({ queue })
    await waitingFor(database.sql, first)
    await first.end('commit')
    expect((await cancelled).changed).toEqual([fence.id])
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Killed', attempts: 1 })
  })

  it('the acknowledgement waits for the cancellation under way, and then changes nothing', async () => {
    const fence = await claimOne()
    const first = await begin()
    expect((await adminIn(first).cancel({ ids: [fence.id] })).changed).toEqual([fence.id])
    const acknowledged = ackWith(now(), fence)
    await waitingFor(database.sql, first)
    await first.end('commit')
    expect(await acknowledged).toBeUndefined()
    expect(await rowOf(database.sql, fence.id)).toMatchObject({ status: 'Killed', attempts: 1, lock_by: worker })
  })

  it('the acknowledgement counts after a cancellation that was undone', async () => {
    const fence = await claimOne()
    const first = await begin()
    await adminIn(first).cancel({ ids: [fence.id] })
    const acknowledged = ackWith(now(), fence)
    await waitingFor(database.sql, first)
    await first.end('rollback')
    expect(await acknowledged).toBe('Done')
  })

  it('of many tasks do not deadlock, in whatever order they were asked for', async () => {
    const acknowledging = lookingUpById()
    for (let round = 0; round < 30; round++) {
      await storeTasks(database.sql, 5, { queue })
      const fences = await claimWith(now())
      const ids = fences.map(({ id }) => id)
      const entries = fences.map((fence) => ({ fence, outcome: done })).reverse()
      const [written, cancelled, again] = await Promise.all([
        ack(acknowledging, queue, worker, entries),
        adminNow().cancel({ ids }),
        adminNow().cancel({ ids: ids.toReversed() }),
      ])
      expect([...written.keys(), ...cancelled.changed, ...again.changed].toSorted()).toEqual(ids)
      for (const id of written.keys()) expect(await rowOf(database.sql, id)).toMatchObject({ status: 'Done' })
      await database.sql`delete from apalis.jobs`
    }
  })

  it('take their tasks in the order of the ids: while it waits for the first, the acknowledgement has not locked the others', async () => {
    await storeTasks(database.sql, 2, { queue })
    const fences = await claimWith(now())
    const held = await lockedBy(`select from apalis.jobs where id = '${taskId(1)}' for update`)
    const entries = fences.map((fence) => ({ fence, outcome: done })).reverse()
    const acknowledged = ack(lookingUpById(), queue, worker, entries)
    await waitingFor(database.sql, held)
    expect((await adminNow().cancel({ ids: [taskId(2)] })).changed).toEqual([taskId(2)])
    await held.release()
    expect([...(await acknowledged).keys()]).toEqual([taskId(1)])
  })

  it('take them in this order also of a whole queue', async () => {
    for (const n of [3, 2, 1]) await storeTask(database.sql, { id: taskId(n), queue })
    const held = await lockedBy(`select from apalis.jobs where id = '${taskId(1)}' for update`)
    const cancelled = adminNow().cancel({ queue })
    await waitingFor(database.sql, held)
    await database.sql`select from apalis.jobs where id in (${taskId(2)}, ${taskId(3)}) for update nowait`
    await held.release()
    expect((await cancelled).changed).toHaveLength(3)
  })

  it('that end in a deadlock all the same: the cancellation is tried again', async () => {
    await storeTasks(database.sql, 3, { queue })
    const lock = (n: number) => `select from apalis.jobs where id = '${taskId(n)}' for update`
    const [second, third] = [await lockedBy(lock(2)), await lockedBy(lock(3))]
    // It is the one that closes the circle, and the first to look whether there is one.
    const { db } = database.connect({ max: 1, connection: { deadlock_timeout: '10ms' } })
    const cancelled = admin(db).cancel({ queue })
    await waitingFor(database.sql, second)
    const crossing = third.session.unsafe(lock(1)).execute()
    const [cancelling] = await database.sql<{ pid: number }[]>`
      select pid from pg_stat_activity where ${second.pid} = any (pg_blocking_pids(pid))`
    await waitingFor(database.sql, cancelling!)
    await second.release()
    await crossing
    await third.release()
    expect((await cancelled).changed.toSorted()).toEqual([taskId(1), taskId(2), taskId(3)])
  })
})

describe('a cancellation and a sweep', () => {
  it('the sweep passes over a task that is being cancelled, which stays so', async () => {
    const { id } = await claimOne()
    await fallSilent()
    const first = await begin()
    await adminIn(first).cancel({ queue })
    expect(await sweepWith(impatient())).toEqual([])
    await first.end('commit')
    expect(await sweepWith(now())).toEqual([])
    expect(await rowOf(database.sql, id)).toMatchObject({ status: 'Killed', attempts: 1 })
  })

  it('a task that is being swept is cancelled in the end, and charged once', async () => {
    const { id } = await claimOne()
    await fallSilent()
    const first = await begin()
    expect(await sweepWith(first.db)).toEqual([id])
    const cancelled = adminNow().cancel({ ids: [id] })
    await waitingFor(database.sql, first)
    await first.end('commit')
    expect((await cancelled).changed).toEqual([id])
    expect(await rowOf(database.sql, id)).toMatchObject({ status: 'Killed', attempts: 1, lock_by: null })
    expect(await claimWith(now())).toEqual([])
  })
})

describe('a cancellation and a claim', () => {
  it('a task that is being claimed is cancelled when that is done, and its worker is told', async () => {
    await storeTask(database.sql, { id: taskId(1), queue })
    const first = await begin()
    const told = await announcements(
      database.sql,
      async () => {
        expect(await claimWith(first.db)).toHaveLength(1)
        const cancelled = adminNow().cancel({ queue })
        await waitingFor(database.sql, first)
        await first.end('commit')
        expect((await cancelled).changed).toEqual([taskId(1)])
      },
      'apalis_drizzle::cancel',
    )
    expect(told).toHaveLength(1)
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Killed', attempts: 1, lock_by: worker })
  })

  it('a task that is being cancelled is not claimed, and nobody waits', async () => {
    await storeTask(database.sql, { id: taskId(1), queue })
    const first = await begin()
    await adminIn(first).cancel({ queue })
    expect(await claimWith(impatient())).toEqual([])
    await first.end('commit')
    expect(await claimWith(now())).toEqual([])
  })
})

describe.each(['retryNow', 'reschedule', 'setPriority'] as const)('%s and a claim', (call) => {
  const later = new Date('2100-01-01')
  const steer = (on: Admin) => {
    const which = { ids: [taskId(1)] }
    return call === 'retryNow'
      ? on.retryNow(which)
      : call === 'reschedule'
        ? on.reschedule(which, later)
        : on.setPriority(which, 7)
  }

  it('the task that is being claimed stays as it is', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Failed', attempts: 1, doneAt: '-1 minute' })
    const first = await begin()
    expect(await claimWith(first.db)).toHaveLength(1)
    const steered = steer(adminNow())
    await waitingFor(database.sql, first)
    await first.end('commit')
    expect(await steered).toEqual({ changed: [], refused: [{ id: taskId(1), reason: 'a worker holds it (Running)' }] })
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Running', attempts: 1, priority: 0 })
  })

  it('the claim passes over the task that is being changed', async () => {
    await storeTask(database.sql, {
      id: taskId(1),
      queue,
      ...(call === 'retryNow' && { status: 'Killed', attempts: 1, doneAt: '-1 minute' }),
    })
    const first = await begin()
    expect((await steer(adminIn(first))).changed).toEqual([taskId(1)])
    expect(await claimWith(impatient())).toEqual([])
    await first.end('commit')
    if (call === 'reschedule') expect(await claimWith(now())).toEqual([])
    else await until(async () => (await claimWith(now())).length === 1, 'the task is claimed')
  })
})

describe('a removal', () => {
  it('waits for the acknowledgement that ends the task', async () => {
    const fence = await claimOne()
    const first = await begin()
    await ackWith(first.db, fence)
    const removed = adminNow().remove({ ids: [fence.id] })
    await waitingFor(database.sql, first)
    await first.end('commit')
    expect((await removed).changed).toEqual([fence.id])
    expect(await rowOf(database.sql, fence.id)).toBeUndefined()
  })

  it.each([{ ids: [taskId(1)] }, { queue }])('leaves a task that is being retried: %o', async (which) => {
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Killed', attempts: 1, doneAt: '-1 minute' })
    const first = await begin()
    await adminIn(first).retryNow({ queue })
    const removed = adminNow().remove(which)
    await waitingFor(database.sql, first)
    await first.end('commit')
    expect((await removed).changed).toEqual([])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Pending' })
  })

  it.each(['remove', 'retryNow', 'cancel'] as const)('leaves nothing to %s', async (call) => {
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Killed', attempts: 1, doneAt: '-1 minute' })
    const first = await begin()
    await adminIn(first).remove({ queue })
    const other = adminNow()[call]({ ids: [taskId(1)] })
    await waitingFor(database.sql, first)
    await first.end('commit')
    expect(await other).toEqual({ changed: [], refused: [{ id: taskId(1), reason: 'no task has this id' }] })
  })
})

describe('the fence: after the earliest claim that can follow, the old acknowledgement changes nothing', () => {
  /** Claims as soon as the database allows it. */
  async function claimAgain(token = leaseToken): Promise<Fence> {
    let again: Fence | undefined
    await until(async () => ([again] = await claimWith(now(), token)).length > 0, 'the task is claimed again', 10_000)
    return again as Fence
  }

  async function expectOldAckToBeStale(old: Fence, token?: string): Promise<void> {
    const again = await claimAgain(token)
    expect(again.id).toBe(old.id)
    expect(fenceOf(again)).not.toEqual(fenceOf(old))
    const before = await rowOf(database.sql, old.id)
    expect(await ackWith(now(), old)).toBeUndefined()
    expect(await rowOf(database.sql, old.id)).toEqual(before)
    expect(await ackWith(now(), again)).toBe('Done')
  }

  it.each<[string, AckOutcome]>([
    ['was deferred by nothing', { status: 'Pending', due: { delayMs: 0 } }],
    ['was handed back', { status: 'Pending' }],
  ])('of a task that %s', async (_, outcome) => {
    const old = await claimOne()
    expect(await ackWith(now(), old, outcome)).toBe('Pending')
    await expectOldAckToBeStale(old)
  })

  it('of a task that failed and is due at once', async () => {
    const old = await claimOne()
    await ackWith(now(), old, { status: 'Failed', result: '{"Err":"x"}', due: { delayMs: 0 } })
    await expectOldAckToBeStale(old)
  })

  it('of a task that an administrator retries with a larger budget', async () => {
    const old = await claimOne()
    await ackWith(now(), old, { status: 'Killed', result: '{"Err":"x"}' })
    await adminNow().retryNow({ queue })
    await expectOldAckToBeStale(old)
  })

  it('of a task that was cancelled before it started, and is retried', async () => {
    const old = await claimOne()
    await database.sql`update apalis.jobs set status = 'Queued'`
    await adminNow().cancel({ queue })
    await adminNow().retryNow({ queue })
    await expectOldAckToBeStale(old)
  })

  it.each<[string, (id: string) => Promise<unknown>]>([
    ['retried', (id) => adminNow().retryNow({ ids: [id] })],
    ['rescheduled', (id) => adminNow().reschedule({ ids: [id] }, new Date(0))],
  ])('of a task that was deferred for long, and is %s', async (_, steer) => {
    const old = await claimOne()
    await ackWith(now(), old, { status: 'Pending', due: { delayMs: 3_600_000 } })
    await steer(old.id)
    await expectOldAckToBeStale(old)
  })

  it.each(['Queued', 'Running'])('of a %s task that was swept', async (status) => {
    const old = await claimOne()
    await database.sql`update apalis.jobs set status = ${status}`
    await fallSilent()
    expect(await sweepWith(now())).toEqual([old.id])
    // Not to wait for the backoff of a charged task.
    await database.sql`update apalis.jobs set run_at = now() where attempts > 0`
    await expectOldAckToBeStale(old)
  })

  it.each(['Queued', 'Running'])('of a %s task that a successor of the same name took back', async (status) => {
    const old = await claimOne()
    await database.sql`update apalis.jobs set status = ${status}`
    await fallSilent()
    expect(await takeOver(now())).toEqual([old.id])
    await database.sql`update apalis.jobs set run_at = now() where attempts > 0`
    await expectOldAckToBeStale(old, 'token of the successor')
  })
})

function fenceOf({ id, attempts, lockAt }: Fence): Fence {
  return { id, attempts, lockAt }
}
