/**
 * Shows what one batch of pruning deletes, in which order, and what it leaves alone.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import { endedQueues, pruneTasks, pruneWorkers, type PruneRequest } from '../src/statements/prune.js'
import type { Db } from '../src/vocabulary/db.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import { clearTasks, storeTask, storeWorker, taskId, type StoredTask } from './support/rows.js'

const database = useDatabase()
const queue = 'emails'
const HOUR = 3_600_000

const DONE = { queue, status: 'Done', olderThanMs: HOUR } as const

const db = () => database.db as unknown as Db
const prune = (request: Partial<PruneRequest> = {}) => pruneTasks(db(), { ...DONE, limit: 100, ...request })

beforeEach(() => clearTasks(database.sql))

async function storeAll(...tasks: Partial<StoredTask>[]): Promise<void> {
  for (const [n, task] of tasks.entries()) await storeTask(database.sql, { id: taskId(n), queue, ...task })
}

async function stored(): Promise<number[]> {
  const rows = await database.sql<{ id: string }[]>`select id from apalis.jobs order by id`
  return rows.map(({ id }) => Number(id.slice(-3)))
}

describe('pruneTasks', () => {
  it('deletes the finished tasks of a queue that ended long enough ago', async () => {
    await storeAll(
      { status: 'Done', doneAt: '-2 hours' },
      { status: 'Done', doneAt: '-3 hours' },
      { status: 'Done', doneAt: '-59 minutes' },
      { status: 'Done', doneAt: '-2 hours', queue: 'reports' },
      { status: 'Killed', attempts: 5, doneAt: '-2 hours' },
      { status: 'Pending', runAt: '-2 hours' },
      { status: 'Pending', runAt: '2 hours' },
    )
    expect(await prune()).toMatchObject({ tasks: 2 })
    expect(await stored()).toEqual([2, 3, 4, 5, 6])
    expect(await prune()).toEqual({ tasks: 0, endedAtUs: undefined })
  })

  it('never deletes a failed task that has an attempt left: it is still to run', async () => {
    await storeAll(
      { status: 'Failed', attempts: 1, doneAt: '-2 hours' },
      { status: 'Failed', attempts: 5, doneAt: '-2 hours' },
    )
    expect(await prune({ status: 'Failed' })).toMatchObject({ tasks: 1 })
    expect(await stored()).toEqual([0])
  })

  it('deletes killed tasks', async () => {
    await storeAll({ status: 'Killed', doneAt: '-2 hours' }, { status: 'Done', doneAt: '-2 hours' })
    expect(await prune({ status: 'Killed' })).toMatchObject({ tasks: 1 })
    expect(await stored()).toEqual([1])
  })

  it('deletes what ended first, in batches that go on where the one before ended', async () => {
    for (const n of [3, 1, 4, 0, 2]) {
      await storeTask(database.sql, { id: taskId(n), queue, status: 'Done', doneAt: `${n - 10} hours` })
    }
    const first = await prune({ limit: 2 })
    expect(first.tasks).toBe(2)
    expect(await stored()).toEqual([2, 3, 4])
    // What came in behind that place belongs to the next round.
    await storeTask(database.sql, { id: taskId(9), queue, status: 'Done', doneAt: '-20 hours' })
    expect(await prune({ limit: 2, fromUs: first.endedAtUs })).toMatchObject({ tasks: 2 })
    expect(await stored()).toEqual([4, 9])
  })

  it('goes on among tasks that ended in the same microsecond', async () => {
    await database.sql`
      insert into apalis.jobs (id, job_type, job, status, done_at)
      select lpad(n::text, 26, '0'), ${queue}, '{}', 'Done', now() - interval '2 hours' from generate_series(0, 4) n`
    const { endedAtUs } = await prune({ limit: 3 })
    expect(await prune({ limit: 3, fromUs: endedAtUs })).toMatchObject({ tasks: 2 })
  })

  it('deletes what ended before all time, as other programs may have written', async () => {
    await database.sql`
      insert into apalis.jobs (id, job_type, job, status, done_at) values (${taskId(1)}, ${queue}, '{}', 'Done', '-infinity')`
    await storeTask(database.sql, { id: taskId(2), queue, status: 'Done', doneAt: '-2 hours' })
    const { endedAtUs } = await prune({ limit: 1 })
    expect(await stored()).toEqual([2])
    expect(await prune({ limit: 1, fromUs: endedAtUs })).toMatchObject({ tasks: 1 })
  })

  it('waits for nobody: a locked task is left for the next call', async () => {
    await storeAll({ status: 'Done', doneAt: '-3 hours' }, { status: 'Done', doneAt: '-2 hours' })
    const held = await hold(database.sql, `select from apalis.jobs where id = '${taskId(0)}' for update`)
    try {
      expect(await prune()).toMatchObject({ tasks: 1 })
    } finally {
      await held.release()
    }
    expect(await stored()).toEqual([0])
    expect(await prune()).toMatchObject({ tasks: 1 })
  })

  it('deletes alone where told to: while another batch of the queue is under way, nothing', async () => {
    await storeAll({ status: 'Done', doneAt: '-3 hours' }, { status: 'Done', doneAt: '-2 hours' })
    await database.db.transaction(async (tx) => {
      expect(await pruneTasks(tx as unknown as Db, { ...DONE, limit: 1, alone: true })).toMatchObject({ tasks: 1 })
      expect(await prune({ alone: true })).toMatchObject({ tasks: 0 })
    })
    expect(await prune({ alone: true })).toMatchObject({ tasks: 1 })
    expect(await stored()).toEqual([])
  })

  it('passes over what has been old for long, where told to', async () => {
    await storeAll(
      { status: 'Done', doneAt: '-121 minutes' },
      { status: 'Done', doneAt: '-119 minutes' },
      { status: 'Done', doneAt: '-59 minutes' },
    )
    expect(await prune({ newlyOldMs: HOUR })).toMatchObject({ tasks: 1 })
    expect(await stored()).toEqual([0, 2])
  })

  it('frees the idempotency key', async () => {
    await storeAll({ status: 'Done', doneAt: '-2 hours', idempotencyKey: 'order-1' })
    await prune()
    await expect(storeAll({ idempotencyKey: 'order-1' })).resolves.toBeUndefined()
  })
})

describe('endedQueues', () => {
  it('names the queues in which something ended', async () => {
    await storeAll(
      { status: 'Done', doneAt: '-1 minute' },
      { queue: 'reports', status: 'Killed', doneAt: '-1 minute' },
      { queue: 'idle' },
    )
    expect((await endedQueues(db())).sort()).toEqual([queue, 'reports'])
  })
})

describe('pruneWorkers', () => {
  const names = async () =>
    (await database.sql`select id from apalis.workers order by id`).map((row) => row['id'] as string)

  beforeEach(async () => {
    await storeWorker(database.sql, { id: 'silent', queue, silentFor: '2 hours' })
    await storeWorker(database.sql, { id: 'history', queue, silentFor: '2 hours' })
    await storeWorker(database.sql, { id: 'live', queue, silentFor: '1 minute' })
    await storeAll({ status: 'Done', doneAt: '-1 minute', lockBy: 'history' })
  })

  it('deletes nothing where it would read all tasks for each row', async () => {
    expect(await pruneWorkers(db(), HOUR)).toBe(0)
    expect(await names()).toEqual(['history', 'live', 'silent'])
  })

  describe('with the index of Rust 0.6', () => {
    beforeEach(async () => {
      await database.sql`
        create index if not exists jobs_job_type_lock_by_idx on apalis.jobs (job_type, lock_by) where lock_by is not null`
    })

    it('deletes silent workers that no task names', async () => {
      expect(await pruneWorkers(db(), HOUR)).toBe(1)
      expect(await names()).toEqual(['history', 'live'])
    })

    it('tells namesakes of different queues apart', async () => {
      await storeWorker(database.sql, { id: 'history', queue: 'reports', silentFor: '2 hours' })
      expect(await pruneWorkers(db(), HOUR)).toBe(2)
      const rows = await database.sql`select id, worker_type from apalis.workers order by id`
      expect(rows.map(({ id, worker_type }) => `${String(id)} in ${String(worker_type)}`)).toEqual([
        `history in ${queue}`,
        `live in ${queue}`,
      ])
    })

    it('deletes nothing while that index is not complete', async () => {
      const index = `'apalis.jobs_job_type_lock_by_idx'::regclass`
      const mark = (isValid: boolean) =>
        database.sql.unsafe(`update pg_index set indisvalid = ${isValid} where indexrelid = ${index}`)
      await mark(false)
      try {
        expect(await pruneWorkers(db(), HOUR)).toBe(0)
      } finally {
        await mark(true)
      }
    })

    it('deletes at most ten at a time, and waits for nobody', async () => {
      await database.sql`
        insert into apalis.workers (id, worker_type, storage_name, last_seen)
        select 'old#' || n, ${queue}, 'test', now() - interval '1 day' from generate_series(1, 15) n`
      const held = await hold(database.sql, `select from apalis.workers where id in ('old#1', 'old#2') for key share`)
      try {
        expect(await pruneWorkers(db(), HOUR)).toBe(10)
        expect(await pruneWorkers(db(), HOUR)).toBe(4)
        expect(await names()).toEqual(['history', 'live', 'old#1', 'old#2'])
      } finally {
        await held.release()
      }
    })
  })
})
