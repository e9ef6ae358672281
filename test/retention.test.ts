/**
 * Shows that what ended long ago is deleted, by a call or by the workers themselves, once, in batches and without waiting
 * for anybody, and that nothing else is.
 */
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { admin, type PruneOptions, type Pruned } from 'apalis-drizzle'
import { RetentionLoop } from '../src/processes/retention-loop.js'
import { sqlStateOf } from '../src/vocabulary/database-error.js'
import type { Db } from '../src/vocabulary/db.js'
import type { Retention } from '../src/vocabulary/retention.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import { clearTasks, storedIn, storeTask, storeWorker, taskId, type StoredTask } from './support/rows.js'
import { gate, idle, useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)
const queue = 'emails'
const HOUR = 3_600_000

const prune = (options: Partial<PruneOptions> = {}) => admin(database.db).prune({ olderThanMs: HOUR, ...options })

async function storeAll(...tasks: Partial<StoredTask>[]): Promise<void> {
  for (const [n, task] of tasks.entries()) await storeTask(database.sql, { id: taskId(n), queue, ...task })
}

/** That ended two hours ago, the first one first. */
async function storeDone(count: number, name = queue): Promise<void> {
  await database.sql`
    insert into apalis.jobs (id, job_type, job, status, attempts, done_at)
    select 'D' || lpad(${name} || n::text, 25, '0'), ${name}, '{}', 'Done', 1, now() - interval '2 hours' + n * interval '1 ms'
    from generate_series(1, ${count}) n`
}

beforeEach(() => clearTasks(database.sql))

describe('admin.prune', () => {
  it('deletes what ended long enough ago, in all queues, and frees its key', async () => {
    await storeWorker(database.sql, { id: 'w', queue })
    await storeAll(
      { status: 'Done', doneAt: '-2 hours', lockBy: 'w', idempotencyKey: 'order 7' },
      { status: 'Killed', doneAt: '-2 hours', attempts: 5, queue: 'reports' },
      { status: 'Failed', doneAt: '-2 hours', attempts: 5 },
      { status: 'Failed', doneAt: '-2 hours', attempts: 4 },
      { status: 'Done', doneAt: '-59 minutes' },
      { status: 'Running', lockBy: 'w', runAt: '-2 hours' },
      { status: 'Pending', runAt: '-2 hours' },
      { status: 'Pending', runAt: '2 hours' },
    )
    expect(await prune()).toEqual({ jobs: 3, workers: 0 })
    expect(await storedIn(database.sql, 'reports')).toEqual([])
    expect((await storedIn(database.sql, queue)).sort()).toEqual([3, 4, 5, 6, 7].map(taskId))
    await expect(storeAll({ idempotencyKey: 'order 7' })).resolves.toBeUndefined()
  })

  it('of the named statuses only', async () => {
    await storeAll({ status: 'Done', doneAt: '-2 hours' }, { status: 'Killed', doneAt: '-2 hours', attempts: 5 })
    expect(await prune({ statuses: ['Killed', 'Killed'] })).toEqual({ jobs: 1, workers: 0 })
    expect(await storedIn(database.sql, queue)).toEqual([taskId(0)])
  })

  it('keeps fresh ones, then deletes exactly the finished ones, and then the released worker [NEXT-30]', async () => {
    await database.sql`create index jobs_job_type_lock_by_idx on apalis.jobs (job_type, lock_by) where lock_by is not null`
    onTestFinished(async () => {
      await database.sql`drop index apalis.jobs_job_type_lock_by_idx`
    })
    const { queue, storage, events, started } = work<number>()
    const worker = await started(idle)
    await storage.pushTasks([1, 2, 3].map((n) => queue.task(n)))
    const later = await storage.push(4, { delayMs: HOUR })
    for (let n = 0; n < 3; n++) await events.next('task.done')
    await worker.stop()

    expect(await prune()).toEqual({ jobs: 0, workers: 0 })
    // While tasks name it, a worker stays.
    await database.sql`update apalis.workers set last_seen = now() - interval '25 hours'`
    expect(await prune()).toEqual({ jobs: 0, workers: 0 })
    expect(await prune({ olderThanMs: 0 })).toEqual({ jobs: 3, workers: 1 })
    expect(await storedIn(database.sql, queue.name)).toEqual([later])
  })

  it('leaves a worker that was seen within a day, whatever the age', async () => {
    await database.sql`create index jobs_job_type_lock_by_idx on apalis.jobs (job_type, lock_by) where lock_by is not null`
    onTestFinished(async () => {
      await database.sql`drop index apalis.jobs_job_type_lock_by_idx`
    })
    for (let n = 0; n < 15; n++) await storeWorker(database.sql, { id: `old#${n}`, queue, silentFor: '25 hours' })
    await storeWorker(database.sql, { id: 'live', queue, silentFor: '23 hours' })
    const progress: Pruned[] = []
    expect(await prune({ olderThanMs: 0, onProgress: (soFar) => void progress.push(soFar) })).toEqual({
      jobs: 0,
      workers: 15,
    })
    expect(progress).toEqual([
      { jobs: 0, workers: 10 },
      { jobs: 0, workers: 15 },
    ])
    const rows = await database.sql`select id from apalis.workers`
    expect([...rows]).toEqual([{ id: 'live' }])
  })

  it('goes in batches of 1,000 and tells how far it is, and waits for whoever is told', async () => {
    await storeDone(2_500)
    await storeDone(3, 'reports')
    const progress: number[] = []
    let told = 0
    const onProgress = async ({ jobs }: Pruned) => {
      expect(told).toBe(progress.length)
      progress.push(jobs)
      const left = (await storedIn(database.sql, queue)).length + (await storedIn(database.sql, 'reports')).length
      expect(left).toBe(2_503 - jobs)
      told += 1
    }
    expect(await prune({ onProgress })).toEqual({ jobs: 2_503, workers: 0 })
    expect(
      progress
        .slice(1)
        .map((jobs, n) => jobs - progress[n]!)
        .concat(progress[0]!)
        .sort((a, b) => a - b),
    ).toEqual([3, 500, 1_000, 1_000])
  })

  it('ends with the reason of its signal before the next batch', async () => {
    await storeDone(1_500)
    const reason = new Error('enough')
    const ending = new AbortController()
    const pruned = prune({ signal: ending.signal, onProgress: () => ending.abort(reason) })
    await expect(pruned).rejects.toBe(reason)
    expect(await storedIn(database.sql, queue)).toHaveLength(500)
    await expect(prune({ signal: ending.signal })).rejects.toBe(reason)
    expect(await storedIn(database.sql, queue)).toHaveLength(500)
  })

  it('ends with what its callback throws', async () => {
    await storeDone(1_500)
    const failure = new Error('The pipe is closed.')
    const onProgress = () => {
      throw failure
    }
    await expect(prune({ onProgress })).rejects.toBe(failure)
  })

  it('happens in the transaction that it is given', async () => {
    await storeDone(3)
    const rolledBack = database.db.transaction(async (tx) => {
      expect(await admin(tx).prune({ olderThanMs: HOUR })).toEqual({ jobs: 3, workers: 0 })
      tx.rollback()
    })
    await expect(rolledBack).rejects.toThrow()
    expect(await storedIn(database.sql, queue)).toHaveLength(3)
  })

  it('waits for nobody, and leaves what others lock', async () => {
    await storeAll({ status: 'Done', doneAt: '-3 hours' }, { status: 'Done', doneAt: '-2 hours' })
    const held = await hold(database.sql, `select from apalis.jobs where id = '${taskId(0)}' for key share`)
    try {
      expect(await prune()).toEqual({ jobs: 1, workers: 0 })
    } finally {
      await held.release()
    }
    expect(await prune()).toEqual({ jobs: 1, workers: 0 })
  })

  it('may run several times at once: each task is deleted and counted once', async () => {
    await storeDone(4_500)
    const others = Array.from({ length: 4 }, () => database.connect({ max: 1, connection: { lock_timeout: 2_000 } }).db)
    const pruned = await Promise.all(others.map((db) => admin(db).prune({ olderThanMs: HOUR })))
    expect(pruned.reduce((sum, { jobs }) => sum + jobs, 0)).toBe(4_500)
    expect(await storedIn(database.sql, queue)).toEqual([])
  })

  it.each<[unknown, string]>([
    [undefined, 'options'],
    [{}, 'olderThanMs'],
    [{ olderThanMs: -1 }, 'olderThanMs'],
    [{ olderThanMs: Number.NaN }, 'olderThanMs'],
    [{ olderThanMs: '1 day' }, 'olderThanMs'],
    [{ olderThanMs: 0, statuses: [] }, 'statuses'],
    [{ olderThanMs: 0, statuses: 'Done' }, 'statuses'],
    [{ olderThanMs: 0, statuses: ['Done', 'Pending'] }, 'statuses'],
    [{ olderThanMs: 0, statuses: ['done'] }, 'statuses'],
    [{ olderThanMs: 0, onProgress: 'print' }, 'onProgress'],
  ])('refuses %j', async (options, argument) => {
    await storeDone(1)
    await expect(admin(database.db).prune(options as PruneOptions)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      argument,
    })
    expect(await storedIn(database.sql, queue)).toHaveLength(1)
  })
})

describe('the retention of a worker', () => {
  it('has no options but those that there are', () => {
    const retention = { done: HOUR } as Retention
    expect(() => work<number>().worker(idle, { retention })).toThrow(
      'Invalid retention: there is no option "done" here, but doneMs, failedMs, killedMs.',
    )
  })

  it('deletes what is old, in its queue, and says how much', async () => {
    const { queue, events, started } = work<number>()
    const own = (n: number, task: Partial<StoredTask>) =>
      storeTask(database.sql, { id: taskId(n), queue: queue.name, ...task })
    await own(1, { status: 'Done', doneAt: '-2 hours' })
    await own(2, { status: 'Done', doneAt: '-59 minutes' })
    await own(3, { status: 'Killed', attempts: 5, doneAt: '-2 hours' })
    await own(4, { status: 'Failed', attempts: 1, doneAt: '-2 hours', runAt: '2 hours' })
    await own(5, { status: 'Failed', attempts: 5, doneAt: '-2 hours' })
    await own(6, { runAt: '2 hours' })
    await storeTask(database.sql, { id: taskId(7), queue: 'another', status: 'Done', doneAt: '-2 hours' })
    const worker = await started(idle, { retention: { doneMs: HOUR, failedMs: HOUR } })
    const first = await events.next('tasks.pruned')
    expect(first).toMatchObject({ level: 'info', queue: queue.name, worker: worker.name, status: 'Done', count: 1 })
    expect(await events.next('tasks.pruned')).toMatchObject({ status: 'Failed', count: 1 })
    await worker.stop()
    expect((await storedIn(database.sql, queue.name)).sort()).toEqual([2, 3, 4, 6].map(taskId))
    expect(await storedIn(database.sql, 'another')).toEqual([taskId(7)])
  })

  it('is none unless asked for', async () => {
    const { queue, storage, worker } = work<number>()
    await storeTask(database.sql, { id: taskId(1), queue: queue.name, status: 'Done', doneAt: '-20 years' })
    await storage.push(1)
    await worker(idle, { retention: {} }).run({ untilIdle: true })
    expect(await storedIn(database.sql, queue.name)).toHaveLength(2)
  })
})

describe('retention loops', () => {
  interface Loop {
    readonly loop: RetentionLoop
    pruned: number
    /** Their SQLSTATEs. */
    failures: unknown[]
    /** Those that went through. */
    rounds: number
  }

  /** In a session of its own, as of a process of its own. */
  function start(
    retention: Retention,
    settings: Record<string, number> = {},
    told: () => void = () => undefined,
    roundMs = 20,
  ): Loop {
    const db = database.connect({ max: 1, connection: settings }).db as unknown as Db
    const hooks = {
      onPruned: (_status: string, count: number) => {
        started.pruned += count
        told()
      },
      onFailure: (error: unknown) => {
        started.failures.push(sqlStateOf(error))
        told()
      },
      onSuccess: () => {
        started.rounds += 1
      },
    }
    const loop = new RetentionLoop({ run: (statement) => statement(db) }, queue, retention, hooks, roundMs)
    const started: Loop = { loop, pruned: 0, failures: [], rounds: 0 }
    onTestFinished(() => loop.stop())
    return started
  }

  it('of several processes delete everything once, in several batches, without a failure', async () => {
    await storeDone(2_500)
    const all = gate()
    const loops: Loop[] = []
    const sum = () => loops.reduce((total, { pruned }) => total + pruned, 0)
    const told = () => sum() >= 2_500 && all.open()
    for (let n = 0; n < 4; n++) loops.push(start({ doneMs: HOUR }, { lock_timeout: 2_000 }, told))
    await all.opened
    await Promise.all(loops.map(({ loop }) => loop.stop()))
    expect(sum()).toBe(2_500)
    expect(loops.flatMap(({ failures }) => failures)).toEqual([])
    expect(await storedIn(database.sql, queue)).toEqual([])
  })

  it('look at everything at first, and then at what has become old since', async () => {
    await storeAll({ status: 'Done', doneAt: '-20 hours' })
    const [first, second] = [gate(), gate()]
    const told = () => (loop.pruned > 1 ? second.open() : first.open())
    const loop = start({ doneMs: HOUR }, {}, told)
    await first.opened
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Done', doneAt: '-19 hours' })
    await storeTask(database.sql, { id: taskId(2), queue, status: 'Done', doneAt: '-61 minutes' })
    await second.opened
    await loop.loop.stop()
    expect(await storedIn(database.sql, queue)).toEqual([taskId(1)])
  })

  it('end when told to: after the batch under way, without the next one', async () => {
    await storeDone(2_000)
    const { loop } = start({ doneMs: HOUR }, {}, undefined, 86_400_000)
    await loop.stop()
    expect(await storedIn(database.sql, queue)).toHaveLength(1_000)
  })

  it('end at once between two rounds', async () => {
    await storeDone(1)
    const deleted = gate()
    const { loop } = start({ doneMs: HOUR }, {}, () => deleted.open(), 86_400_000)
    await deleted.opened
    await loop.stop()
    expect(await storedIn(database.sql, queue)).toEqual([])
  })

  it('report an error and go on', async () => {
    await storeDone(1)
    await database.sql.unsafe(`
      create function refuse() returns trigger language plpgsql as $$begin raise 'not now'; end$$;
      create trigger refuse before delete on apalis.jobs for each row execute function refuse()`)
    const [failed, deleted] = [gate(), gate()]
    const told = () => (loop.pruned > 0 ? deleted.open() : failed.open())
    const loop = start({ doneMs: HOUR }, {}, told)
    await failed.opened
    await database.sql.unsafe('drop function refuse cascade')
    await deleted.opened
    await loop.loop.stop()
    expect(loop.failures[0]).toBe('P0001')
    expect(loop.rounds).toBe(1)
  })

  it('take less where a batch takes too long', async () => {
    await storeDone(1_000)
    await database.sql.unsafe(`
      create function slow() returns trigger language plpgsql as
        $$begin if (select count(*) from gone) > 100 then perform pg_sleep(60); end if; return null; end$$;
      create trigger slow after delete on apalis.jobs referencing old table as gone for each statement execute function slow()`)
    onTestFinished(async () => {
      await database.sql`drop function slow cascade`
    })
    const deleted = gate()
    const told = () => loop.pruned > 0 && deleted.open()
    const loop = start({ doneMs: HOUR }, { statement_timeout: 1_100 }, told)
    await deleted.opened
    await loop.loop.stop()
    expect(loop.failures[0]).toBe('57014')
    expect((await storedIn(database.sql, queue)).length).toBe(1_000 - loop.pruned)
  })
})
