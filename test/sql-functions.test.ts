/**
 * Shows what the functions in the database do for programs in other languages: apalis.get_jobs claims tasks, and
 * apalis.notify_new_jobs announces new ones.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import { announcements } from './support/announcements.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'

const database = useDatabase()
beforeEach(() => database.sql`truncate apalis.jobs, apalis.workers`)

interface TaskRow {
  id: string
  queue?: string
  runIn?: string
  key?: string
  status?: string
  attempts?: number
  priority?: number
}

async function insert(rows: TaskRow[], sql: Pick<typeof database.sql, 'unsafe'> = database.sql): Promise<void> {
  await sql.unsafe(
    `insert into apalis.jobs (job, id, job_type, run_at, idempotency_key, status, attempts, max_attempts, priority)
     select '', id, coalesce(queue, 'q'), now() + coalesce("runIn", '0')::interval, key, coalesce(status, 'Pending'),
       coalesce(attempts, 0), 3, coalesce(priority, 0)
     from json_to_recordset($1::text::json)
       as t (id text, queue text, "runIn" text, key text, status text, attempts int, priority int)
     on conflict (job_type, idempotency_key) where idempotency_key is not null do nothing`,
    [JSON.stringify(rows)],
  )
}

const many = (count: number, queue = 'q'): TaskRow[] =>
  Array.from({ length: count }, (_, n) => ({ id: `${queue}-${String(n).padStart(4, '0')}`, queue }))
const payloads = (texts: string[]) => texts.map((text) => JSON.parse(text) as { job_type: string; ids: string[] })

describe('notify_new_jobs', () => {
  it('announces one due task once, by its id in a list [NOTIFY-01] [NOTIFY-02] [NOTIFY-03]', async () => {
    const texts = await announcements(database.sql, () => insert([{ id: 'a' }]))
    expect(texts).toEqual(['{"job_type" : "q", "ids" : ["a"]}'])
  })

  it('announces what is due within 5 s, and nothing later [NOTIFY-04]', async () => {
    const texts = await announcements(database.sql, () =>
      insert([
        { id: 'soon', runIn: '3 s' },
        { id: 'later', runIn: '1 min' },
      ]),
    )
    expect(payloads(texts)).toEqual([{ job_type: 'q', ids: ['soon'] }])
    expect(await announcements(database.sql, () => insert([{ id: 'much later', runIn: '1 h' }]))).toEqual([])
  })

  it('announces a run_at of the client in a transaction that began before it', async () => {
    const texts = await announcements(database.sql, () =>
      database.sql.begin(async (tx) => {
        await tx`select pg_sleep(0.02)`
        await tx`insert into apalis.jobs (job, id, job_type, run_at) values ('', 'a', 'q', clock_timestamp())`
      }),
    )
    expect(payloads(texts)).toEqual([{ job_type: 'q', ids: ['a'] }])
  })

  it('announces 150 tasks as 100 and 50, in the order of their ids [NOTIFY-05] [NOTIFY-06]', async () => {
    const tasks = many(150)
    const texts = await announcements(database.sql, () => insert([...tasks].reverse()))
    const ids = tasks.map(({ id }) => id)
    expect(payloads(texts)).toEqual([
      { job_type: 'q', ids: ids.slice(0, 100) },
      { job_type: 'q', ids: ids.slice(100) },
    ])
  })

  it('announces each queue of a statement by itself', async () => {
    const texts = await announcements(database.sql, () => insert([...many(2, 'a"\\'), ...many(101, 'b')]))
    expect(payloads(texts).map(({ job_type, ids }) => [job_type, ids.length])).toEqual([
      ['a"\\', 2],
      ['b', 100],
      ['b', 1],
    ])
  })

  it('does not announce what a conflict kept out [NOTIFY-07]', async () => {
    await insert([{ id: 'a', key: 'k' }])
    expect(await announcements(database.sql, () => insert([{ id: 'b', key: 'k' }]))).toEqual([])
  })

  it('does not announce what is rolled back, nor updates', async () => {
    await insert([{ id: 'a', runIn: '1 h' }])
    const texts = await announcements(database.sql, async () => {
      await database.sql
        .begin((tx) => insert([{ id: 'b' }], tx).then(() => Promise.reject(new Error('no'))))
        .catch(() => undefined)
      await database.sql`update apalis.jobs set run_at = now()`
    })
    expect(texts).toEqual([])
  })

  it('keeps a batch of 100 ULIDs in a queue with the longest name under the limit of a payload', async () => {
    const rows = many(100, '\u0001'.repeat(255)).map((row, n) => ({ ...row, id: String(n).padStart(26, '0') }))
    const [text = ''] = await announcements(database.sql, () => insert(rows))
    expect(Buffer.byteLength(text)).toBeLessThan(8_000)
    expect(payloads([text])[0]?.ids).toHaveLength(100)
  })

  describe('the switch apalis.notify_once', () => {
    it('silences one INSERT and is taken back by it, so that the next one is announced', async () => {
      const texts = await announcements(database.sql, () =>
        database.sql.begin(async (tx) => {
          await tx`select set_config('apalis.notify_once', 'off', true)`
          await insert([{ id: 'silent' }], tx)
          await insert([{ id: 'announced' }], tx)
        }),
      )
      expect(payloads(texts)).toEqual([{ job_type: 'q', ids: ['announced'] }])
    })

    it('is taken back by an INSERT of no row too', async () => {
      await insert([{ id: 'a', key: 'k' }])
      const texts = await announcements(database.sql, () =>
        database.sql.begin(async (tx) => {
          await tx`select set_config('apalis.notify_once', 'off', true)`
          await insert([{ id: 'b', key: 'k' }], tx)
          await insert([{ id: 'announced' }], tx)
        }),
      )
      expect(payloads(texts)).toEqual([{ job_type: 'q', ids: ['announced'] }])
    })

    it('works inside the very statement, and not beyond its transaction', async () => {
      const texts = await announcements(database.sql, async () => {
        await database.sql`
          insert into apalis.jobs (job, id, job_type) select '', 'silent', 'q'
          where (select set_config('apalis.notify_once', 'off', true)) is not null`
        await insert([{ id: 'announced' }])
      })
      expect(payloads(texts)).toEqual([{ job_type: 'q', ids: ['announced'] }])
    })

    it('is undone with the savepoint it was set in', async () => {
      const texts = await announcements(database.sql, () =>
        database.sql.begin(async (tx) => {
          const undone = tx.savepoint(async (inner) => {
            await inner`select set_config('apalis.notify_once', 'off', true)`
            throw new Error('undo')
          })
          await undone.catch(() => undefined)
          await insert([{ id: 'announced' }], tx)
        }),
      )
      expect(payloads(texts)).toEqual([{ job_type: 'q', ids: ['announced'] }])
    })
  })
})

describe('get_jobs', () => {
  beforeEach(() => database.sql`insert into apalis.workers (id, worker_type, storage_name) values ('w', 'q', 'test')`)

  const states = () => database.sql`select id, status, lock_by from apalis.jobs order by id`

  it('sets Queued, the owner and the second of the claim, and returns whole rows in order [NEXT-39]', async () => {
    await insert([
      { id: 'low' },
      { id: 'high', priority: 2 },
      { id: 'older', runIn: '-1 min' },
      { id: 'retry', status: 'Failed', attempts: 2, priority: 1 },
    ])
    await database.sql`update apalis.jobs set done_at = now() where id = 'retry'`
    const rows = await database.sql`select * from apalis.get_jobs('w', 'q', 3)`
    expect(rows.map(({ id }) => id as string)).toEqual(['high', 'retry', 'older'])
    const stored = await database.sql`select * from apalis.jobs where id <> 'low' order by priority desc, run_at, id`
    expect([...rows]).toEqual([...stored])
    const [second] = await database.sql`select date_trunc('second', min(lock_at)) = min(lock_at) as whole,
      min(lock_at) > now() - interval '10 s' as now from apalis.jobs where lock_at is not null`
    expect(second).toEqual({ whole: true, now: true })
    for (const row of stored) expect(row).toMatchObject({ status: 'Queued', lock_by: 'w', done_at: null })
    expect(await database.sql`select status, lock_by, lock_at from apalis.jobs where id = 'low'`).toEqual([
      { status: 'Pending', lock_by: null, lock_at: null },
    ])
  })

  it('takes five unless told how many', async () => {
    await insert(many(7))
    expect(await database.sql`select * from apalis.get_jobs('w', 'q')`).toHaveLength(5)
  })

  it('leaves alone what is not due, used up, finished, of another queue or locked', async () => {
    await insert([
      { id: 'due' },
      { id: 'locked' },
      { id: 'later', runIn: '1 min' },
      { id: 'used up', status: 'Failed', attempts: 3 },
      { id: 'used up and pending', attempts: 3 },
      { id: 'done', status: 'Done', attempts: 1 },
      { id: 'killed', status: 'Killed', attempts: 1 },
      { id: 'elsewhere', queue: 'p' },
    ])
    const held = await hold(database.sql, `select 1 from apalis.jobs where id = 'locked' for update`)
    const rows = await database.sql`select id from apalis.get_jobs('w', 'q', 100)`
    expect(rows.map(({ id }) => id as string)).toEqual(['due'])
    await held.release()
  })

  it.each([
    { worker: null, queue: 'q', sqlState: '22004' },
    { worker: 'stranger', queue: 'q', sqlState: '23503' },
    { worker: 'w', queue: 'p', sqlState: '23503' },
  ])('fails for worker $worker in queue $queue and changes nothing [NEXT-39]', async ({ worker, queue, sqlState }) => {
    await insert([{ id: 'a' }, { id: 'b', queue: 'p' }])
    const before = await states()
    await expect(database.sql`select * from apalis.get_jobs(${worker}, ${queue}, 5)`).rejects.toMatchObject({
      code: sqlState,
    })
    expect([...(await states())]).toEqual([...before])
  })

  it('does not wait for the heartbeat of its worker', async () => {
    await insert([{ id: 'a' }])
    const held = await hold(database.sql, `update apalis.workers set last_seen = now() where id = 'w'`)
    expect(await database.sql`select id from apalis.get_jobs('w', 'q')`).toEqual([{ id: 'a' }])
    await held.release()
  })

  it('uses the dequeue index of either generation', async () => {
    await insert(many(2_000))
    await database.sql`insert into apalis.jobs (job, id, job_type, status, attempts) select '', 'done-' || n, 'q', 'Done', 1 from generate_series(1, 8000) n`
    await database.sql`analyze apalis.jobs`
    const session = await database.sql.reserve()
    const scans = async () => {
      await session`select pg_stat_force_next_flush()`
      const [row] = await session`select pg_stat_get_numscans('apalis.jobs_dequeue_idx'::regclass)::int as scans`
      return row?.['scans'] as number
    }
    for (const predicate of [
      `status = 'Pending' or (status = 'Failed' and attempts < max_attempts)`,
      `status in ('Pending', 'Failed') and attempts < max_attempts`,
    ]) {
      await database.sql.unsafe(`drop index apalis.jobs_dequeue_idx;
        create index jobs_dequeue_idx on apalis.jobs (job_type, priority desc, run_at, id) where ${predicate}`)
      expect(await scans()).toBe(0)
      await session`select from apalis.get_jobs('w', 'q')`
      expect(await scans()).toBe(1)
    }
    session.release()
  })
})
