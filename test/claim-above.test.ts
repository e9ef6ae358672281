/**
 * Shows what a claim costs while a session holds an old snapshot, and that a claim above a floor takes what is behind the
 * floor and nothing else. What is not behind it is found as soon as a worker looks everywhere again.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import { ScanFloor } from '../src/processes/scan-floor.js'
import { claim, claimAbove, type ClaimRequest } from '../src/statements/claim.js'
import { nextDueMs } from '../src/statements/next-due.js'
import type { ClaimedRow } from '../src/vocabulary/claimed-row.js'
import type { Db } from '../src/vocabulary/db.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import { explain } from './support/plan.js'
import { clearTasks, storeTask, storeTasks, storeWorker, taskId } from './support/rows.js'

const database = useDatabase()
const { queue, worker } = { queue: 'emails', worker: 'mailer#1' }
const LIMIT = 10
const claimer = { queue, worker, leaseToken: `token of ${worker}`, thresholdMs: 60_000, limit: LIMIT, running: 10 }

beforeEach(async () => {
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: worker, queue })
})

const now = () => database.db as unknown as Db
const idsOf = (rows: readonly ClaimedRow[]) => rows.map(({ id }) => id)

async function claimBehind(floors: readonly ClaimedRow[], request: Partial<ClaimRequest> = {}): Promise<string[]> {
  return idsOf(await claimAbove(now(), { ...claimer, ...request }, floors))
}

/** Claims one task. */
async function claimOne(): Promise<ClaimedRow> {
  const [first] = await claim(now(), { ...claimer, limit: 1 })
  return first!
}

describe('under a snapshot that is older than 30,000 worked tasks', () => {
  const WORKED = 30_000
  const snapshot = 'set transaction isolation level repeatable read; select count(*) from apalis.jobs'

  it('a claim walks what they left behind once, and one above the floor not at all', async () => {
    const held = await hold(database.sql, snapshot)
    try {
      await database.sql`insert into apalis.jobs (job, id, job_type, run_at)
        select '{}', 'P' || lpad(n::text, 25, '0'), ${queue}, now() - interval '1 hour' from generate_series(1, ${WORKED + 100}::int) n`
      const worked = database.sql`id in (select id from apalis.jobs order by id limit ${WORKED}::int)`
      await database.sql`update apalis.jobs set status = 'Running', lock_by = ${worker}, lock_at = now() where ${worked}`
      await database.sql`update apalis.jobs set status = 'Done', done_at = now() where ${worked}`
      await database.sql`analyze apalis.jobs`
      const first = `select from apalis.jobs where job_type = '${queue}' and priority = 0 and status = 'Pending'
        and attempts < max_attempts order by run_at, id limit 1`
      const [plan] = await database.sql.unsafe(`explain (analyze, buffers, format json) ${first}`)
      const [{ Plan: walk }] = plan?.['QUERY PLAN'] as [
        { Plan: { 'Shared Hit Blocks': number; 'Shared Read Blocks': number } },
      ]
      const once = walk['Shared Hit Blocks'] + walk['Shared Read Blocks']
      // Otherwise this shows nothing.
      expect(once).toBeGreaterThan(600)

      const forTasks = 25 * LIMIT
      const everywhere = await explain(database, (db) => claim(db, claimer))
      expect(everywhere.buffers, everywhere.text).toBeLessThan(once + forTasks)
      const due = await explain(database, (db) => nextDueMs(db, queue))
      expect(due.buffers, due.text).toBeLessThan(once + 20)
      const floor = await claimOne()
      const above = await explain(database, (db) => claimAbove(db, claimer, [floor]))
      expect(above.buffers, above.text).toBeLessThan(20 + forTasks)
      expect(await claimBehind([floor])).toHaveLength(LIMIT)
    } finally {
      await held.release()
    }
  })
})

describe('a claim above a floor', () => {
  it('goes on behind it, in order, also between tasks that are due at the same microsecond', async () => {
    await storeTasks(database.sql, 4, { queue })
    await database.sql`update apalis.jobs set run_at = '2026-01-01 00:00:00.000101Z'`
    await database.sql`update apalis.jobs set run_at = '2026-01-01 00:00:00.000102Z' where id = ${taskId(1)}`
    const floor = await claimOne()
    expect(floor).toMatchObject({ id: taskId(2), runAtUs: 1_767_225_600_000_101 })
    await storeTask(database.sql, { id: taskId(0), queue })
    await database.sql`update apalis.jobs set run_at = '2026-01-01 00:00:00.000101Z' where id = ${taskId(0)}`
    expect(await claimBehind([floor])).toEqual([taskId(3), taskId(4), taskId(1)])
  })

  it('takes the higher priority first, and no more than asked for', async () => {
    for (const n of [1, 2, 3, 4]) await storeTask(database.sql, { id: taskId(n), queue, priority: n % 2 })
    const floors = [1, 0].map((priority) => ({ priority, runAtUs: 0, id: '' }) as ClaimedRow)
    for (const order of [floors, floors.toReversed()]) {
      expect(await claimBehind(order, { limit: 1, running: 0 })).toHaveLength(1)
      expect(await database.sql`select from apalis.jobs where priority = 0 and status = 'Pending'`).toHaveLength(2)
    }
    const rest = await claimAbove(now(), { ...claimer, running: 1 }, floors)
    expect(rest.map(({ id, status }) => [id, status])).toEqual([
      [taskId(2), 'Running'],
      [taskId(4), 'Queued'],
    ])
  })

  it('leaves priorities without a floor alone, tasks that are not due, other queues, and what is locked', async () => {
    const floor = { priority: 1, runAtUs: 0, id: '' } as ClaimedRow
    await storeTask(database.sql, { id: taskId(1), queue, priority: 0 })
    await storeTask(database.sql, { id: taskId(2), queue, priority: 2 })
    await storeTask(database.sql, { id: taskId(3), queue, priority: 1, runAt: '1 hour' })
    await storeTask(database.sql, { id: taskId(4), queue: 'other', priority: 1 })
    await storeTask(database.sql, { id: taskId(5), queue, priority: 1, status: 'Failed', attempts: 5 })
    await storeTask(database.sql, { id: taskId(6), queue, priority: 1 })
    const held = await hold(database.sql, `select from apalis.jobs where id = '${taskId(6)}' for update`)
    expect(await claimBehind([floor])).toEqual([])
    await held.release()
    expect(await claimBehind([floor])).toEqual([taskId(6)])
  })

  it.each([
    ['a worker with another token', { leaseToken: 'token of another' }],
    ['a worker that is not registered', { worker: 'stranger' }],
    ['a worker that is taken for dead', { thresholdMs: 0 }],
  ])('gives nothing to %s', async (_, request) => {
    await storeTasks(database.sql, 2, { queue })
    const floor = { priority: 0, runAtUs: 0, id: '' } as ClaimedRow
    expect(await claimBehind([floor], request)).toEqual([])
    expect(await claimBehind([floor])).toHaveLength(2)
  })

  it('gives nothing from a paused queue', async () => {
    await storeTasks(database.sql, 2, { queue })
    await database.sql`insert into apalis_drizzle.paused_queues (queue) values (${queue})`
    expect(await claimBehind([{ priority: 0, runAtUs: 0, id: '' } as ClaimedRow])).toEqual([])
    await database.sql`delete from apalis_drizzle.paused_queues`
  })
})

describe('a worker whose looks are slow', () => {
  /** Claims `limit` tasks as a session does, where every look everywhere has taken 30 ms, of a clock that only tests move. */
  function slowly() {
    const clock = { ms: 0 }
    const floor = new ScanFloor({ working: () => true, mustBeSure: () => false }, () => clock.ms)
    const next = async (limit: number) => {
      const found = await floor.claim(async (floors) => {
        const request = { ...claimer, limit }
        const rows = await (floors === undefined ? claim(now(), request) : claimAbove(now(), request, floors))
        return rows.map((row) => ({ ...row, foundInMs: 30 }))
      })
      return idsOf(found.rows)
    }
    return { clock, next }
  }

  const ABOVE_MS = 600

  it.each([
    ['a task of a higher priority that it has not met', { priority: 7, runAt: '0 seconds' }],
    ['a task that is due earlier', { priority: 0, runAt: '-1 hour' }],
  ])('finds %s when it looks everywhere again, first of all', async (_, task) => {
    const { clock, next } = slowly()
    await storeTasks(database.sql, 8, { queue })
    expect(await next(2)).toEqual([taskId(1), taskId(2)])
    await storeTask(database.sql, { id: taskId(99), queue, ...task })
    clock.ms = ABOVE_MS - 1
    expect(await next(2)).toEqual([taskId(3), taskId(4)])
    clock.ms = ABOVE_MS
    expect(await next(2)).toEqual([taskId(99), taskId(5)])
  })

  it('finds a task whose transaction was open while later ones were claimed', async () => {
    const { clock, next } = slowly()
    await storeTasks(database.sql, 8, { queue })
    const late = await hold(
      database.sql,
      `insert into apalis.jobs (job, id, job_type, run_at) values ('', '${taskId(99)}', '${queue}', now() - interval '1 h')`,
    )
    expect(await next(2)).toEqual([taskId(1), taskId(2)])
    await late.session.unsafe('commit; begin')
    await late.release()
    expect(await next(2)).toEqual([taskId(3), taskId(4)])
    clock.ms = ABOVE_MS
    expect(await next(2)).toEqual([taskId(99), taskId(5)])
  })

  it('finds them at once when nothing else is left', async () => {
    const { next } = slowly()
    await storeTasks(database.sql, 3, { queue })
    expect(await next(3)).toHaveLength(3)
    await storeTask(database.sql, { id: taskId(98), queue, priority: 7 })
    await storeTask(database.sql, { id: taskId(99), queue, runAt: '-1 hour' })
    expect(await next(3)).toEqual([taskId(98), taskId(99)])
  })

  it('finds a task of a higher priority that it has met at once, and those of one priority in their order', async () => {
    const { next } = slowly()
    await storeTask(database.sql, { id: taskId(50), queue, priority: 7 })
    await storeTasks(database.sql, 9, { queue })
    expect(await next(2)).toEqual([taskId(50), taskId(1)])
    await storeTask(database.sql, { id: taskId(51), queue, priority: 7, runAt: '0 seconds' })
    expect(await next(3)).toEqual([taskId(51), taskId(2), taskId(3)])
    expect(await next(9)).toEqual([4, 5, 6, 7, 8, 9].map(taskId))
  })
})
