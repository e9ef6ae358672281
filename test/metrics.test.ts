/**
 * Shows the statistics of queues: which there are, how each is counted, and the snapshot that is kept of some.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import { listQueues, metrics, queueStatsSnapshot, refreshQueueStatsSnapshot } from '../src/reads.js'
import type { Db } from '../src/vocabulary/db.js'
import type { Statistic } from '../src/vocabulary/statistics.js'
import { useDatabase } from './support/database.js'
import { clearTasks, storeTask, storeWorker, taskId, type StoredTask } from './support/rows.js'

const database = useDatabase()
const queue = 'emails'

const db = () => database.db as unknown as Db

beforeEach(() => clearTasks(database.sql))

async function storeAll(...tasks: Omit<StoredTask, 'id' | 'queue'>[]): Promise<void> {
  for (const [n, task] of tasks.entries()) await storeTask(database.sql, { ...task, id: taskId(n), queue })
}

function values(statistics: readonly Statistic[]): Record<string, string> {
  return Object.fromEntries(statistics.map(({ title, value }) => [title, value]))
}

const ofQueue = async () => values(await metrics(db(), queue))
const ofAll = async () => values(await metrics(db()))
const listed = async () => values((await listQueues(db()))[0]?.statistics ?? [])

const METRICS: [number, Statistic['type'], string][] = [
  [1, 'Number', 'PENDING_JOBS'],
  [1, 'Number', 'RUNNING_JOBS'],
  [2, 'Number', 'ACTIVE_JOBS'],
  [2, 'Number', 'FAILED_JOBS'],
  [2, 'Percentage', 'KILL_RATE'],
  [2, 'Number', 'STALE_RUNNING_JOBS'],
  [3, 'Decimal', 'AVG_JOBS_PER_MINUTE_PAST_HOUR'],
  [3, 'Number', 'JOBS_PAST_HOUR'],
  [3, 'Number', 'JOBS_TODAY'],
  [3, 'Number', 'KILLED_JOBS_TODAY'],
  [4, 'Number', 'COMPLETED_JOBS'],
  [4, 'Number', 'DONE_JOBS'],
  [4, 'Number', 'KILLED_JOBS'],
  [4, 'Percentage', 'SUCCESS_RATE'],
  [4, 'Number', 'TOTAL_JOBS'],
  [5, 'Decimal', 'AVG_JOB_DURATION_MINS'],
  [5, 'Decimal', 'LONGEST_RUNNING_JOB_MINS'],
  [5, 'Number', 'QUEUE_BACKLOG'],
  [6, 'Number', 'JOBS_PAST_24_HOURS'],
  [6, 'Number', 'JOBS_PAST_7_DAYS'],
  [6, 'Number', 'KILLED_JOBS_PAST_7_DAYS'],
  [6, 'Percentage', 'SUCCESS_RATE_PAST_24H'],
  [7, 'Decimal', 'AVG_JOBS_PER_DAY_PAST_7D'],
  [7, 'Decimal', 'AVG_JOBS_PER_HOUR_PAST_24H'],
  [8, 'Timestamp', 'MOST_RECENT_JOB'],
  [8, 'Timestamp', 'OLDEST_PENDING_JOB'],
  [8, 'Number', 'PEAK_HOUR_JOBS'],
  [9, 'Number', 'DB_PAGE_COUNT'],
  [9, 'Number', 'DB_PAGE_SIZE'],
  [9, 'Number', 'DB_SIZE'],
]

const QUEUE_STATISTICS: [number, Statistic['type'], string][] = [
  [1, 'Number', 'FAILED_JOBS'],
  [1, 'Number', 'PENDING_JOBS'],
  [1, 'Number', 'RUNNING_JOBS'],
  [2, 'Number', 'ACTIVE_JOBS'],
  [2, 'Percentage', 'KILL_RATE'],
  [2, 'Number', 'STALE_RUNNING_JOBS'],
  [3, 'Decimal', 'AVG_JOBS_PER_MINUTE_PAST_HOUR'],
  [3, 'Number', 'JOBS_PAST_HOUR'],
  [3, 'Number', 'JOBS_TODAY'],
  [3, 'Number', 'KILLED_JOBS_TODAY'],
  [4, 'Number', 'DONE_JOBS'],
  [4, 'Number', 'KILLED_JOBS'],
  [4, 'Percentage', 'SUCCESS_RATE'],
  [4, 'Number', 'TOTAL_JOBS'],
  [5, 'Decimal', 'AVG_JOB_DURATION_MINS'],
  [5, 'Decimal', 'LONGEST_RUNNING_JOB_MINS'],
  [6, 'Number', 'JOBS_PAST_7_DAYS'],
  [8, 'Timestamp', 'MOST_RECENT_JOB'],
]

describe('metrics', () => {
  it('are all there, by priority and then by title, with zeros where there is nothing [METRIC-06] [METRIC-07] [NEXT-37]', async () => {
    for (const statistics of [await metrics(db()), await metrics(db(), queue)]) {
      expect(statistics.map(({ priority, type, title }) => [priority, type, title])).toEqual(METRICS)
      const counted = statistics.filter(({ priority }) => priority < 9)
      expect(new Set(counted.map(({ value }) => value))).toEqual(new Set(['0']))
    }
  })

  it('count what is in each status [METRIC-01] [METRIC-02] [METRIC-03]', async () => {
    await storeAll(
      { status: 'Pending' },
      { status: 'Pending' },
      { status: 'Done', doneAt: '0 seconds' },
      { status: 'Failed', attempts: 1 },
      { status: 'Killed', attempts: 5 },
    )
    const expected = {
      PENDING_JOBS: '2',
      DONE_JOBS: '1',
      FAILED_JOBS: '1',
      KILLED_JOBS: '1',
      TOTAL_JOBS: '5',
      COMPLETED_JOBS: '3',
      ACTIVE_JOBS: '2',
      SUCCESS_RATE: '20',
      KILL_RATE: '20',
    }
    expect(await ofQueue()).toMatchObject(expected)
    expect(await ofAll()).toMatchObject(expected)
    const { COMPLETED_JOBS: _, ...shown } = expected
    expect(await listed()).toMatchObject(shown)
  })

  it('are of one queue, or of all', async () => {
    await storeAll({})
    await storeTask(database.sql, { id: taskId(9), queue: 'reports' })
    expect(await ofQueue()).toMatchObject({ TOTAL_JOBS: '1', PEAK_HOUR_JOBS: '1' })
    expect(await ofAll()).toMatchObject({ TOTAL_JOBS: '2', PEAK_HOUR_JOBS: '2' })
    expect(values(await metrics(db(), 'invoices'))).toMatchObject({ TOTAL_JOBS: '0', PEAK_HOUR_JOBS: '0' })
  })

  it('tell the size of the table [METRIC-04] [METRIC-05]', async () => {
    await storeAll({})
    const [row] = await database.sql`select pg_total_relation_size('apalis.jobs')::text as size`
    const { DB_PAGE_SIZE, DB_PAGE_COUNT, DB_SIZE } = await ofAll()
    expect(DB_SIZE).toBe(row?.['size'])
    expect(Number(DB_PAGE_SIZE)).toBeGreaterThan(0)
    expect(Number(DB_PAGE_SIZE) * Number(DB_PAGE_COUNT)).toBe(Number(DB_SIZE))
  })

  it('round percentages and means to two places, and nothing else', async () => {
    await storeAll(
      { status: 'Done', runAt: '-100 seconds', doneAt: '0 seconds' },
      { status: 'Done', runAt: '-40 seconds', doneAt: '0 seconds' },
      { status: 'Killed', attempts: 5, runAt: '-10 seconds', doneAt: '0 seconds' },
    )
    expect(await ofQueue()).toMatchObject({
      SUCCESS_RATE: '66.67',
      KILL_RATE: '33.33',
      AVG_JOB_DURATION_MINS: '0.83',
      AVG_JOBS_PER_MINUTE_PAST_HOUR: '0.05',
      AVG_JOBS_PER_HOUR_PAST_24H: '0.13',
      AVG_JOBS_PER_DAY_PAST_7D: '0.43',
      SUCCESS_RATE_PAST_24H: '66.67',
    })
  })

  it('count by periods that end now: what is scheduled for later belongs to none', async () => {
    await storeAll(
      { runAt: '-30 minutes' },
      { runAt: '-3 hours' },
      { runAt: '-2 days', status: 'Killed', attempts: 5 },
      { runAt: '-8 days', status: 'Killed', attempts: 5 },
      { runAt: '2 days' },
      { runAt: '1 minute' },
    )
    expect(await ofQueue()).toMatchObject({
      JOBS_PAST_HOUR: '1',
      JOBS_PAST_24_HOURS: '2',
      JOBS_PAST_7_DAYS: '3',
      KILLED_JOBS_PAST_7_DAYS: '1',
      QUEUE_BACKLOG: '2',
      TOTAL_JOBS: '6',
    })
    expect(await listed()).toMatchObject({ JOBS_PAST_HOUR: '1', JOBS_PAST_7_DAYS: '3' })
  })

  it("count the calendar day of the session's time zone", async () => {
    await storeAll({}, { status: 'Killed', attempts: 5 }, {}, { status: 'Killed', attempts: 5 })
    await database.sql`update apalis.jobs set run_at = current_date + interval '1 day' where id = ${taskId(2)}`
    await database.sql`update apalis.jobs set run_at = current_date - interval '1 second' where id = ${taskId(3)}`
    await database.sql`update apalis.jobs set run_at = current_date where id in (${taskId(0)}, ${taskId(1)})`
    expect(await ofQueue()).toMatchObject({ JOBS_TODAY: '2', KILLED_JOBS_TODAY: '1' })
  })

  it('find the hour of the day with most tasks', async () => {
    await storeAll({}, {}, {}, {})
    await database.sql`update apalis.jobs set run_at = date_trunc('hour', now()) - interval '3 hours' where id < ${taskId(3)}`
    expect(await ofQueue()).toMatchObject({ PEAK_HOUR_JOBS: '3' })
  })

  it('measure running tasks from their claim, not from when they were due', async () => {
    await storeWorker(database.sql, { id: 'w', queue })
    await storeAll(
      { status: 'Running', lockBy: 'w', lockAt: '-90 minutes', runAt: '-90 minutes' },
      { status: 'Running', lockBy: 'w', lockAt: '-1 minute', runAt: '-3 days' },
      { status: 'Queued', lockBy: 'w', lockAt: '-3 hours', runAt: '-3 days' },
    )
    const { LONGEST_RUNNING_JOB_MINS, ...others } = await ofQueue()
    expect(others).toMatchObject({ RUNNING_JOBS: '2', ACTIVE_JOBS: '3', STALE_RUNNING_JOBS: '1' })
    expect(Number(LONGEST_RUNNING_JOB_MINS)).toBeCloseTo(90, 0)
  })

  it('leave tasks that wait for a retry out of the mean duration: their run_at is that of the next run', async () => {
    await storeAll(
      { status: 'Done', runAt: '-120 seconds', doneAt: '0 seconds' },
      { status: 'Failed', attempts: 1, runAt: '1 day', doneAt: '0 seconds' },
    )
    expect(await ofQueue()).toMatchObject({ AVG_JOB_DURATION_MINS: '2' })
  })

  it('are exact where floating point is not [NEXT-37]', async () => {
    await storeAll({}, {})
    await database.sql`update apalis.jobs set run_at = to_timestamp(1700000001) where id = ${taskId(0)}`
    await database.sql`update apalis.jobs set run_at = now() + interval '1 day' where id = ${taskId(1)}`
    const exact = { MOST_RECENT_JOB: '1700000001', OLDEST_PENDING_JOB: '1700000001' }
    expect(await ofQueue()).toMatchObject(exact)
    expect(await ofAll()).toMatchObject(exact)
    expect(await listed()).toMatchObject({ MOST_RECENT_JOB: '2023-11-14T22:13:21.000000Z' })
  })

  it('stand times without end, which other programs may have written', async () => {
    await database.sql`
      insert into apalis.jobs (id, job_type, job, status, run_at, done_at) values
        (${taskId(1)}, ${queue}, '{}', 'Done', '-infinity', now()), (${taskId(2)}, ${queue}, '{}', 'Done', now(), 'infinity'),
        (${taskId(3)}, ${queue}, '{}', 'Done', now() - interval '3 minutes', now()), (${taskId(4)}, ${queue}, '{}', 'Pending', 'infinity', null)`
    expect(await ofQueue()).toMatchObject({ DONE_JOBS: '3', AVG_JOB_DURATION_MINS: '3', JOBS_PAST_HOUR: '2' })
    expect(await listed()).toMatchObject({ DONE_JOBS: '3', AVG_JOB_DURATION_MINS: '3' })
  })
})

describe('the statistics in the list of queues', () => {
  it('are all there for a queue with no finished task [METRIC-08] [NEXT-41]', async () => {
    await storeAll({})
    await storeWorker(database.sql, { id: 'w', queue: 'idle' })
    for (const { statistics } of await listQueues(db())) {
      expect(statistics.map(({ priority, type, title }) => [priority, type, title])).toEqual(QUEUE_STATISTICS)
    }
    expect(await listed()).toMatchObject({ PENDING_JOBS: '1', SUCCESS_RATE: '0', AVG_JOB_DURATION_MINS: '0' })
  })

  it('are those of each queue', async () => {
    await storeAll({}, {})
    await storeTask(database.sql, { id: taskId(9), queue: 'reports', status: 'Done', doneAt: '0 seconds' })
    const queues = await listQueues(db())
    expect(queues.map(({ name, statistics }) => [name, values(statistics)['TOTAL_JOBS']])).toEqual([
      [queue, '2'],
      ['reports', '1'],
    ])
  })
})

describe('refreshQueueStatsSnapshot', () => {
  const total = async () => (await queueStatsSnapshot(db())).map((row) => [row.queue, row.total])

  it('fills a snapshot that was never filled [METRIC-09] [METRIC-10]', async () => {
    await storeAll({})
    await database.sql`refresh materialized view apalis.queue_stats_snapshot with no data`
    expect(await total()).toEqual([])
    await refreshQueueStatsSnapshot(db())
    expect(await total()).toEqual([[queue, 1]])
    expect(await database.sql`select ispopulated from pg_matviews`).toMatchObject([{ ispopulated: true }])
  })

  it('renews a filled one while others read it', async () => {
    await refreshQueueStatsSnapshot(db())
    await storeAll({}, {})
    const reader = await database.sql.reserve()
    try {
      await reader`begin`
      await reader`select * from apalis.queue_stats_snapshot`
      // The other form of refresh would wait for this transaction.
      await refreshQueueStatsSnapshot(db())
      expect(await total()).toEqual([[queue, 2]])
    } finally {
      await reader`rollback`
      reader.release()
    }
  })

  it("works in a caller's transaction", async () => {
    await storeAll({})
    await database.db.transaction((tx) => refreshQueueStatsSnapshot(tx as unknown as Db))
    expect(await total()).toEqual([[queue, 1]])
  })
})
