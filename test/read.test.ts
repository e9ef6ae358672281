/**
 * Shows what the reads of tasks, workers and queues answer, in which order, page by page, and what they refuse.
 */
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { setup } from '../src/processes/setup.js'
import {
  fetchById,
  listAllTasks,
  listAllWorkers,
  listQueues,
  listTasks,
  listWorkers,
  queueStatsSnapshot,
} from '../src/reads.js'
import { STATUSES } from '../src/schema.js'
import { jsonCodec } from '../src/vocabulary/codec.js'
import type { Db } from '../src/vocabulary/db.js'
import { definitionOf } from '../src/vocabulary/definition.js'
import { defineQueue } from '../src/vocabulary/queue.js'
import type { Status } from '../src/vocabulary/row.js'
import type { StandardSchema } from '../src/vocabulary/standard-schema.js'
import type { StoredTask } from '../src/vocabulary/stored-task.js'
import { taskPage, type TaskFilter } from '../src/vocabulary/task-filter.js'
import { useDatabase } from './support/database.js'
import { load } from './support/fixtures.js'
import { clearTasks, storeTask, storeTasks, storeWorker, taskId } from './support/rows.js'

const database = useDatabase()
const queue = 'emails'
const emails = definitionOf(defineQueue<unknown>(queue))
const reports = definitionOf(defineQueue<unknown>('reports'))

const db = () => database.db as unknown as Db
const list = (filter?: TaskFilter) => listTasks(db(), emails, filter)
const listAll = (filter?: TaskFilter) => listAllTasks(db(), filter)
const ids = (tasks: readonly StoredTask<unknown>[]) => tasks.map(({ id }) => id)

beforeEach(() => clearTasks(database.sql))

/** A task in the state that the contract gives a status. */
async function storeWithStatus(n: number, status: Status, fields: { queue?: string; runAt?: string } = {}) {
  const taskQueue = fields.queue ?? queue
  const owned = status === 'Running' || status === 'Queued'
  if (owned)
    await database.sql`
    insert into apalis.workers (id, worker_type, storage_name) values ('mailer#1', ${taskQueue}, 'test') on conflict do nothing`
  await storeTask(database.sql, {
    ...fields,
    id: taskId(n),
    queue: taskQueue,
    status,
    attempts: status === 'Pending' ? 0 : 1,
    ...(owned && { lockBy: 'mailer#1' }),
    ...(['Done', 'Failed', 'Killed'].includes(status) && { doneAt: '-1 second' }),
  })
}

describe('fetchById', () => {
  it.each<[Status, unknown, string | null]>([
    ['Failed', { Err: 'no answer' }, 'no answer'],
    ['Killed', { Err: 'no answer' }, 'no answer'],
    ['Running', { Err: 'of an earlier attempt' }, 'of an earlier attempt'],
    ['Pending', { Err: 'of an earlier attempt' }, 'of an earlier attempt'],
    ['Done', { Ok: { Err: 'a result' } }, null],
    ['Failed', 'of a stranger', null],
  ])('shows the last failure of a %s task whose result is %j, and lists it', async (status, result, error) => {
    await storeWorker(database.sql, { id: 'mailer#1', queue })
    await storeTask(database.sql, {
      id: taskId(1),
      queue: 'emails',
      status,
      attempts: 1,
      doneAt: '-1 minute',
      result,
      lockBy: 'mailer#1',
    })
    expect(await fetchById(db(), emails, taskId(1))).toMatchObject({ status, error })
    expect(await listTasks(db(), emails, { status })).toMatchObject([{ error }])
  })

  it('finds a task with all that is known of it [READ-24] [READ-29]', async () => {
    await storeWorker(database.sql, { id: 'mailer#1', queue })
    await storeTask(database.sql, {
      id: taskId(1),
      queue,
      status: 'Running',
      attempts: 2,
      maxAttempts: 7,
      priority: 3,
      lockBy: 'mailer#1',
      metadata: { trace: 'abc' },
      idempotencyKey: 'order-1',
      job: '{"to":"a@example.com"}',
    })
    const [row] = await database.sql`select run_at, lock_at from apalis.jobs`
    expect(await fetchById(db(), emails, taskId(1))).toEqual({
      id: taskId(1),
      queue,
      status: 'Running',
      attempts: 2,
      maxAttempts: 7,
      priority: 3,
      runAt: row?.['run_at'],
      lockBy: 'mailer#1',
      lockAt: row?.['lock_at'],
      doneAt: null,
      error: null,
      metadata: { trace: 'abc' },
      idempotencyKey: 'order-1',
      payload: { ok: true, args: { to: 'a@example.com' } },
      cursor: expect.any(String) as string,
    })
  })

  it('finds no task of another queue [READ-01]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue: 'reports' })
    expect(await fetchById(db(), emails, taskId(1))).toBeUndefined()
    expect(await fetchById(db(), reports, taskId(1))).toMatchObject({ id: taskId(1) })
  })

  it('finds nothing under an id that is not stored [READ-02]', async () => {
    expect(await fetchById(db(), emails, taskId(1))).toBeUndefined()
  })

  it.each(['', 'abc', taskId(1).toLowerCase(), `${taskId(1)}0`])('refuses %j, which is no id', async (id) => {
    await expect(fetchById(db(), emails, id)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'id' })
  })
})

describe('lists of tasks', () => {
  it('show one queue, or all [READ-03] [READ-04]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, runAt: '-2 minutes' })
    await storeTask(database.sql, { id: taskId(2), queue: 'reports', runAt: '-1 minute' })
    expect(ids(await list())).toEqual([taskId(1)])
    expect(ids(await listAll())).toEqual([taskId(2), taskId(1)])
    expect((await listAll()).map((task) => task.queue)).toEqual(['reports', queue])
  })

  it.each(STATUSES)(
    'show only what is %s when asked for it [READ-05] [READ-06] [READ-07] [READ-08]',
    async (status) => {
      for (const [n, other] of STATUSES.entries()) await storeWithStatus(n, other)
      for (const [n, other] of STATUSES.entries()) await storeWithStatus(10 + n, other, { queue: 'reports' })
      const index = STATUSES.indexOf(status)
      expect(await list({ status })).toMatchObject([{ id: taskId(index), status }])
      expect((await listAll({ status })).map((task) => task.status)).toEqual([status, status])
    },
  )

  it('show what is Pending when no status is given [READ-09]', async () => {
    for (const [n, status] of STATUSES.entries()) await storeWithStatus(n, status)
    expect(ids(await list())).toEqual([taskId(0)])
    expect(ids(await listAll({}))).toEqual([taskId(0)])
  })

  it.each(STATUSES)('show ten tasks when no size is given, of those that are %s [READ-10]', async (status) => {
    for (let n = 1; n <= 12; n++) await storeWithStatus(n, status, { runAt: `-${n} minutes` })
    expect(await list({ status })).toHaveLength(10)
    expect(await listAll({ status })).toHaveLength(10)
  })

  it.each(STATUSES)('show the newest run_at first, of those that are %s [READ-11]', async (status) => {
    // Finished at the same time.
    await database.sql.begin(async () => {
      for (const n of [2, 4, 1, 3]) await storeWithStatus(n, status, { runAt: `${n - 10} minutes` })
    })
    await database.sql`update apalis.jobs set done_at = '2026-01-01' where done_at is not null`
    expect(ids(await list({ status }))).toEqual([4, 3, 2, 1].map(taskId))
    expect(ids(await listAll({ status }))).toEqual([4, 3, 2, 1].map(taskId))
  })

  it.each(['Done', 'Failed', 'Killed'] as const)('show what ended last first, of those that are %s', async (status) => {
    for (const n of [2, 4, 1, 3]) {
      await storeTask(database.sql, { id: taskId(n), queue, status, doneAt: `${n - 10} minutes`, runAt: `-${n} hours` })
    }
    expect(ids(await list({ status }))).toEqual([4, 3, 2, 1].map(taskId))
    expect(ids(await listAll({ status }))).toEqual([4, 3, 2, 1].map(taskId))
  })

  it.each([
    [1, [5, 4]],
    [2, [3, 2]],
    [3, [1]],
    [4, []],
  ])('show page %i of five tasks in pages of two [READ-12] [READ-13] [READ-14]', async (page, expected) => {
    await storeTasks(database.sql, 5, { queue })
    expect(ids(await list({ page, pageSize: 2 }))).toEqual(expected.map(taskId))
    expect(ids(await listAll({ page, pageSize: 2 }))).toEqual(expected.map(taskId))
  })

  it('show nothing in pages of no task', async () => {
    await storeTasks(database.sql, 1, { queue })
    expect(await list({ pageSize: 0 })).toEqual([])
    expect(await listAll({ pageSize: 0, status: 'Done' })).toEqual([])
  })

  it('show Pending tasks of all priorities in one order, and none that waits for a retry', async () => {
    for (let n = 1; n <= 9; n++) {
      const failed = n % 3 === 0
      await storeTask(database.sql, {
        id: taskId(n),
        queue: n % 2 === 0 ? queue : 'reports',
        runAt: `${n} minutes`,
        priority: n % 4,
        ...(failed && { status: 'Failed', attempts: 1, doneAt: '-1 minute' }),
      })
    }
    expect(ids(await listAll())).toEqual([8, 7, 5, 4, 2, 1].map(taskId))
    expect(ids(await list())).toEqual([8, 4, 2].map(taskId))
    expect(ids(await listAll({ page: 2, pageSize: 4 }))).toEqual([2, 1].map(taskId))
  })

  it('show Pending tasks also among more tasks that wait for a retry than are looked up', async () => {
    await database.sql`
      insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, priority, run_at, done_at)
      select '0A' || lpad(n::text, 24, '0'), ${queue}, '{}', case when n % 300 = 0 then 'Pending' else 'Failed' end, 1, 5,
        n % 2, now() + n * interval '1 second', case when n % 300 > 0 then now() end
      from generate_series(1, 1200) n`
    const expected = [1200, 900, 600, 300].map((n) => `0A${String(n).padStart(24, '0')}`)
    expect(ids(await list())).toEqual(expected)
    expect(ids(await listAll({ page: 2, pageSize: 3 }))).toEqual(expected.slice(3))
    const [, second] = await list()
    expect(ids(await list({ after: second?.cursor }))).toEqual(expected.slice(2))
  })

  it('page in a total order, also where only the ids differ [NEXT-35]', async () => {
    for (const status of STATUSES) {
      await clearTasks(database.sql)
      for (let n = 1; n <= 20; n++) await storeWithStatus(n, status)
      await database.sql`update apalis.jobs set run_at = '2026-01-01', done_at = case when done_at is not null then '2026-01-02'::timestamptz end`
      for (const read of [list, listAll]) {
        const pages: string[][] = []
        for (let page = 1; page <= 11; page++) pages.push(ids(await read({ status, page, pageSize: 2 })))
        expect(pages.flat()).toEqual(Array.from({ length: 20 }, (_, n) => taskId(20 - n)))
        expect(pages.at(-1)).toEqual([])
      }
    }
  })

  it('read every row with the attempts that an acknowledgement has to name [NEXT-38]', async () => {
    await storeWorker(database.sql, { id: 'mailer#1', queue })
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', attempts: 3, lockBy: 'mailer#1' })
    const fields = { attempts: 3, maxAttempts: 5, lockBy: 'mailer#1' }
    expect(await fetchById(db(), emails, taskId(1))).toMatchObject(fields)
    expect(await list({ status: 'Running' })).toMatchObject([fields])
    expect(await listAll({ status: 'Running' })).toMatchObject([fields])
  })

  it("run in a caller's transaction", async () => {
    const asking = database.db.transaction(async (tx) => {
      await tx.execute(`insert into apalis.jobs (id, job_type, job) values ('${taskId(1)}', '${queue}', '{}')`)
      expect(ids(await listTasks(tx as unknown as Db, emails))).toEqual([taskId(1)])
      expect(await list()).toEqual([])
      tx.rollback()
    })
    await expect(asking).rejects.toThrow('Rollback')
  })
})

describe.each([
  ['of this library', []],
  ['that Rust 0.6 made', ['rust-g8', 'rust-g14']],
] as const)('lists in a database %s', (_whose, fixtures) => {
  const other = useDatabase({ migrated: fixtures.length === 0 })

  beforeAll(async () => {
    await load(other.sql, ...fixtures)
    await setup(other.db)
    await other.sql`
      insert into apalis.workers (id, worker_type, storage_name)
      select 'w', name, 'test' from unnest(array['a', 'b', 'c']) name`
    await other.sql`
      insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, priority, run_at, done_at, lock_by, lock_at)
      select lpad(n::text, 26, '0'), (array['a', 'b', 'c'])[1 + n / 7 % 3], '{}', status, n % 4, 5, n % 5,
        now() + (random() * 50)::int * interval '1 minute',
        case when status in ('Done', 'Failed', 'Killed') then now() - (random() * 50)::int * interval '1 minute' end,
        case when owned then 'w' end, case when owned then now() end
      from generate_series(1, 1000) n,
        lateral (select (array['Pending', 'Failed', 'Done', 'Killed', 'Running', 'Queued'])[1 + n / 5 % 6] as status) task,
        lateral (select status in ('Running', 'Queued') as owned) state`
  })

  it.each(STATUSES)("keep the contract's order for what is %s", async (status) => {
    for (const only of [undefined, 'b']) {
      const rows = await other.sql<{ id: string }[]>`
        select id from apalis.jobs where status = ${status} and (${only ?? null}::text is null or job_type = ${only ?? null})
        order by done_at desc, run_at desc, id desc`
      const expected = rows.map(({ id }) => id)
      const definition = only === undefined ? undefined : definitionOf(defineQueue<unknown>(only))
      const read = (filter: TaskFilter) => {
        const from = other.db as unknown as Db
        return definition === undefined ? listAllTasks(from, filter) : listTasks(from, definition, filter)
      }
      expect(expected.length).toBeGreaterThan(20)
      expect(ids(await read({ status, pageSize: 1_000 }))).toEqual(expected)
      expect(ids(await read({ status, page: 3, pageSize: 7 }))).toEqual(expected.slice(14, 21))
      expect(await walk(read, { status, pageSize: 9 })).toEqual(expected)
    }
  })
})

describe('payloads', () => {
  it('that cannot be decoded are listed with the reason, and spoil nothing', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, job: 'secret{', runAt: '-1 minute' })
    await storeTask(database.sql, { id: taskId(2), queue, job: '{"to":"b"}', runAt: '-2 minutes' })
    for (const read of [list, listAll]) {
      const [bad, good] = await read()
      expect(bad).toMatchObject({
        id: taskId(1),
        payload: { ok: false, error: { code: 'DECODE', taskId: taskId(1), queue } },
      })
      expect(bad?.payload).toMatchObject({ error: { message: expect.not.stringContaining('secret') as string } })
      expect(good).toMatchObject({ id: taskId(2), payload: { ok: true, args: { to: 'b' } } })
    }
  })

  it.each([
    ['at once', (value: unknown) => checked(value)],
    ['later', (value: unknown) => Promise.resolve(checked(value))],
  ])('are parsed by a schema that answers %s', async (_when, validate) => {
    const args: StandardSchema<unknown, string> = { '~standard': { version: 1, vendor: 'test', validate } }
    const parsed = definitionOf(defineQueue(queue, { args }))
    await storeTask(database.sql, { id: taskId(1), queue, job: '"a"', runAt: '-1 minute' })
    await storeTask(database.sql, { id: taskId(2), queue, job: '1', runAt: '-2 minutes' })
    const tasks = await listTasks(db(), parsed)
    expect(tasks.map(({ payload }) => payload)).toMatchObject([
      { ok: true, args: 'A' },
      { ok: false, error: { code: 'DECODE' } },
    ])
    expect(await fetchById(db(), parsed, taskId(2))).toMatchObject({ payload: { ok: false } })
  })

  it('are read by the codec of the queue, or across queues by the default one', async () => {
    const envelope = '{"json":"1","meta":{"values":["bigint"],"v":1}}'
    await storeTask(database.sql, { id: taskId(1), queue, job: envelope })
    const json = definitionOf(defineQueue<unknown>(queue, { codec: jsonCodec }))
    expect(await listTasks(db(), json)).toMatchObject([{ payload: { args: JSON.parse(envelope) as unknown } }])
    expect(await listAll()).toMatchObject([{ payload: { args: 1n } }])
  })

  function checked(value: unknown) {
    return typeof value === 'string' ? { value: value.toUpperCase() } : { issues: [{ message: 'no text' }] }
  }
})

describe('rows that no program of the contract writes', () => {
  it.each([
    ['an id that is no ULID', 'id', { id: 'job-1 "ünïcode" \\' }],
    ['a run_at without end', 'run_at', { runAt: 'infinity' }],
    ['a run_at before everything', 'run_at', { runAt: '-infinity' }],
  ])(
    'are listed with the reason: %s',
    async (_what, column, { id = taskId(2), runAt = '2026-01-02' }: { id?: string; runAt?: string }) => {
      await database.sql`
      insert into apalis.jobs (id, job_type, job, attempts, run_at) values
        (${taskId(3)}, ${queue}, '{}', 0, '2026-01-03'), (${id}, ${queue}, '{}', 2, ${runAt}::text::timestamptz), (${taskId(1)}, ${queue}, '{}', 0, '2026-01-01')`
      const tasks = await list()
      expect(ids(tasks).sort()).toEqual([taskId(3), id, taskId(1)].sort())
      const odd = tasks.find((task) => task.id === id)
      expect(odd).toMatchObject({
        attempts: 2,
        status: 'Pending',
        queue,
        payload: { ok: false, error: { code: 'ROW', column } },
      })
      const cursors = await walk(list, { pageSize: 1 })
      expect(cursors).toEqual(ids(tasks))
    },
  )

  it.each(['Failed', 'Killed'] as const)('are listed first without done_at, if they are %s', async (status) => {
    await database.sql`
      insert into apalis.jobs (id, job_type, job, status, run_at, done_at) values
        (${taskId(1)}, ${queue}, '{}', ${status}, '2026-01-01', null), (${taskId(2)}, ${queue}, '{}', ${status}, '2026-01-02', null),
        (${taskId(3)}, ${queue}, '{}', ${status}, '2026-01-03', '2026-01-03'), (${taskId(4)}, ${queue}, '{}', ${status}, '2026-01-01', '2026-01-04')`
    expect(ids(await list({ status }))).toEqual([2, 1, 4, 3].map(taskId))
    for (const read of [list, listAll]) {
      expect(await walk(read, { status, pageSize: 1 })).toEqual([2, 1, 4, 3].map(taskId))
    }
  })

  it.each([[['a']], ['text'], [7], [null]])('count as without metadata where it is %j', async (metadata) => {
    await storeTask(database.sql, { id: taskId(1), queue, metadata })
    expect(await list()).toMatchObject([{ metadata: {}, payload: { ok: true } }])
  })
})

describe('cursors', () => {
  it.each(STATUSES)('lead through everything that is %s, once and in order', async (status) => {
    for (let n = 1; n <= 9; n++) {
      await storeWithStatus(n, status, {
        queue: n % 2 === 0 ? queue : 'reports',
        runAt: `${-Math.floor(n / 3)} minutes`,
      })
    }
    // Microseconds apart, which a Date does not tell.
    await database.sql`
      update apalis.jobs set run_at = '2026-01-01 00:00:00.000001'::timestamptz + right(id, 1)::int / 4 * interval '1 microsecond',
        done_at = case when done_at is not null then '2026-02-01 00:00:00.000009'::timestamptz end`
    for (const read of [list, listAll]) {
      const all = ids(await read({ status, pageSize: 100 }))
      expect(all).toHaveLength(read === list ? 4 : 9)
      expect(await walk(read, { status, pageSize: 2 })).toEqual(all)
    }
  })

  it('lead on where tasks were added and removed meanwhile', async () => {
    await storeTasks(database.sql, 5, { queue })
    const [, second] = await list({ pageSize: 2 })
    await database.sql`delete from apalis.jobs where id = ${taskId(4)}`
    await storeTask(database.sql, { id: taskId(9), queue, runAt: '1 minute' })
    expect(ids(await list({ after: second?.cursor }))).toEqual([3, 2, 1].map(taskId))
  })

  it('of a fetched task are its place in the lists', async () => {
    await storeTasks(database.sql, 3, { queue })
    const task = await fetchById(db(), emails, taskId(2))
    expect(ids(await list({ after: task?.cursor }))).toEqual([taskId(1)])
    expect(ids(await listAll({ after: task?.cursor }))).toEqual([taskId(1)])
  })

  it('of another status or queue are refused', async () => {
    await storeTask(database.sql, { id: taskId(1), queue: 'reports' })
    const [{ cursor } = { cursor: '' }] = await listAll()
    expect(cursor).toMatch(/^[\w-]+$/)
    const refusal = { code: 'INVALID_ARGUMENT', argument: 'after' }
    await expect(list({ after: cursor })).rejects.toMatchObject({
      ...refusal,
      message: expect.stringContaining('"reports"') as string,
    })
    await expect(listAll({ after: cursor, status: 'Done' })).rejects.toMatchObject(refusal)
    await expect(listTasks(db(), reports, { after: cursor })).resolves.toEqual([])
  })

  it.each([
    ['nothing', ''],
    ['no text', 7],
    ['no base64', 'a b!'],
    ['no JSON', encode('{')],
    ['a value that is no list', encode('{"length":5}')],
    ['too little', encode('["emails","Pending"]')],
    ['too much', encode(`["emails","Pending",null,"0","${taskId(1)}",1]`)],
    ['an unknown status', encode(`["emails","Waiting",null,"0","${taskId(1)}"]`)],
    ['a number for a time', encode(`["emails","Pending",null,0,"${taskId(1)}"]`)],
    ['a time of the far future', encode(`["emails","Pending",null,"9223372036854775808","${taskId(1)}"]`)],
    ['SQL for a time', encode(`["emails","Pending",null,"0'--","${taskId(1)}"]`)],
    ['NUL in an id', encode('["emails","Pending",null,"0","\\u0000"]')],
    ['half a character in an id', encode('["emails","Pending",null,"0","\\ud800"]')],
    ['white space', `${encode(`["emails","Pending",null,"0","${taskId(1)}"]`)}\n`],
    ['padding', `${encode(`["emails","Pending",null,"0","${taskId(1)}2"]`)}=`],
    ['bytes that are no UTF-8', Buffer.from([0xff, 0xfe]).toString('base64url')],
  ])('with %s in them are refused before any SQL', async (_what, after) => {
    const refusal = { code: 'INVALID_ARGUMENT', argument: 'after' }
    await expect(list({ after: after as string })).rejects.toMatchObject(refusal)
    await expect(listAll({ after: after as string })).rejects.toMatchObject(refusal)
  })

  it('that others could have made lead nowhere, and to no error', async () => {
    for (const [doneAt, runAt] of [
      [null, '-210866803200000000'],
      ['9223372036854775807', 'Infinity'],
      ['-Infinity', '0'],
    ]) {
      const after = encode(JSON.stringify([queue, 'Failed', doneAt, runAt, '']))
      expect(await list({ status: 'Failed', after })).toEqual([])
    }
  })

  function encode(text: string): string {
    return Buffer.from(text).toString('base64url')
  }
})

describe('a filter', () => {
  it('counts pages from one, and ten tasks to a page [READ-16]', () => {
    expect(taskPage({}, queue)).toEqual({ queue, status: 'Pending', limit: 10, offset: 0, after: undefined })
    expect(taskPage({ page: 1, pageSize: 25 }, undefined)).toMatchObject({ limit: 25, offset: 0 })
    expect(taskPage({ page: 3 }, queue)).toMatchObject({ limit: 10, offset: 20 })
  })

  it('takes sizes from 0 to 2^31-1 [READ-17]', () => {
    expect(taskPage({ pageSize: 0, page: 7 }, queue)).toMatchObject({ limit: 0, offset: 0 })
    expect(taskPage({ pageSize: 2 ** 31 - 1 }, queue)).toMatchObject({ limit: 2 ** 31 - 1 })
  })

  it.each([
    ['page', { page: 0 }],
    ['page', { page: -1 }],
    ['page', { page: 1.5 }],
    ['page', { page: NaN }],
    ['page', { page: '1' as never }],
    ['page', { page: 2 ** 31 }],
    ['page', { page: 2 ** 31 - 1, pageSize: 2 ** 31 - 1 }],
    ['pageSize', { pageSize: -1 }],
    ['pageSize', { pageSize: Infinity }],
    ['pageSize', { pageSize: 2 ** 31 }],
    ['status', { status: 'done' as never }],
    ['status', { status: null as never }],
    ['after', { page: 1, after: 'abc' }],
    ['filter', null as never],
    ['filter', 'Done' as never],
  ])('is refused for its %s: %j [READ-15] [READ-16] [READ-17]', async (argument, filter) => {
    await expect(list(filter)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument })
    await expect(listAll(filter)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument })
  })
})

describe('lists of workers', () => {
  it('show one queue, or all, the one heard of last first [READ-18] [READ-19]', async () => {
    await storeWorker(database.sql, { id: 'a', queue, silentFor: '2 minutes' })
    await storeWorker(database.sql, { id: 'b', queue, silentFor: '1 minute' })
    await storeWorker(database.sql, { id: 'a', queue: 'reports' })
    expect((await listWorkers(db(), queue)).map(({ name }) => name)).toEqual(['b', 'a'])
    expect((await listAllWorkers(db())).map((worker) => [worker.queue, worker.name])).toEqual([
      ['reports', 'a'],
      [queue, 'b'],
      [queue, 'a'],
    ])
  })

  it('have no hidden limit [READ-20]', async () => {
    await database.sql`
      insert into apalis.workers (id, worker_type, storage_name) select 'mailer#' || n, ${queue}, 'test' from generate_series(1, 110) n`
    expect(await listWorkers(db(), queue)).toHaveLength(110)
    expect(await listAllWorkers(db())).toHaveLength(110)
  })

  it('show what is known of a worker, and never its token [READ-30]', async () => {
    await database.sql`
      insert into apalis.workers (id, worker_type, storage_name, layers, started_at, last_seen, lease_token) values
        ('a', ${queue}, 'DrizzleStorage', 'Retry<Timeout>', '2026-01-01T00:00:00.123Z', '2026-01-02', 'secret')`
    await database.sql`
      insert into apalis.workers (id, worker_type, storage_name, last_seen) values ('b', ${queue}, 'PostgresStorage', '2026-01-01')`
    expect(await listWorkers(db(), queue)).toEqual([
      {
        name: 'a',
        queue,
        backend: 'DrizzleStorage',
        layers: 'Retry<Timeout>',
        startedAt: new Date('2026-01-01T00:00:00.123Z'),
        lastSeen: new Date('2026-01-02'),
      },
      { name: 'b', queue, backend: 'PostgresStorage', layers: '', startedAt: null, lastSeen: new Date('2026-01-01') },
    ])
  })
})

describe('listQueues', () => {
  it('shows every queue with tasks or workers, by name [READ-21] [READ-22]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue: 'b' })
    await storeWorker(database.sql, { id: 'w', queue: 'a' })
    await storeWorker(database.sql, { id: 'w', queue: 'b' })
    const queues = await listQueues(db())
    expect(queues.map(({ name }) => name)).toEqual(['a', 'b'])
    expect(queues[0]).toMatchObject({ workers: [], activity: [] })
    expect(queues[0]?.statistics.map(({ value }) => value)).toEqual(Array.from({ length: 18 }, () => '0'))
  })

  it('shows the workers that hold tasks now, each once [READ-23]', async () => {
    for (const id of ['done', 'idle', 'x', 'y']) await storeWorker(database.sql, { id, queue })
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Done', lockBy: 'done', doneAt: '-1 minute' })
    await storeTask(database.sql, { id: taskId(2), queue, status: 'Running', lockBy: 'y' })
    await storeTask(database.sql, { id: taskId(3), queue, status: 'Running', lockBy: 'x' })
    await storeTask(database.sql, { id: taskId(4), queue, status: 'Queued', lockBy: 'x' })
    expect(await listQueues(db())).toMatchObject([{ name: queue, workers: ['x', 'y'] }])
  })

  it('counts the tasks of each day with any, of the last seven and none of the future', async () => {
    await database.sql`
      insert into apalis.jobs (id, job_type, job, run_at)
      select lpad(n::text, 26, '0'), ${queue}, '{}', now() - days * interval '1 day'
      from unnest(array[8, 6, 5, 3, 3, 0, -1]) with ordinality as task(days, n)`
    expect(await listQueues(db())).toMatchObject([{ activity: [1, 1, 2, 1] }])
  })
})

describe('the snapshot of queue statistics', () => {
  it('is read with numbers and dates', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, runAt: '-2 hours' })
    await storeTask(database.sql, { id: taskId(2), queue, status: 'Done', doneAt: '-1 minute' })
    await storeTask(database.sql, { id: taskId(3), queue: 'reports', runAt: '-1 minute' })
    await database.sql`refresh materialized view apalis.queue_stats_snapshot`
    const [row] =
      await database.sql`select max(run_at) as run, max(done_at) as done from apalis.jobs where job_type = ${queue}`
    const counts = { running: 0, queued: 0, failed: 0, killed: 0 }
    expect(await queueStatsSnapshot(db())).toEqual([
      {
        ...counts,
        queue,
        total: 2,
        pending: 1,
        done: 1,
        active: 1,
        pastHour: 1,
        pastDay: 2,
        past7Days: 2,
        mostRecentRunAt: row?.['run'],
        mostRecentDoneAt: row?.['done'],
        snapshotAt: expect.any(Date) as Date,
      },
      expect.objectContaining({ queue: 'reports', total: 1, mostRecentDoneAt: null }),
    ])
  })
})

describe('a read in a database without the schema', () => {
  const empty = useDatabase({ migrated: false })

  it('says what it was about, and how to go on', async () => {
    const reading = listTasks(empty.db as unknown as Db, emails)
    await expect(reading).rejects.toMatchObject({ code: 'DATABASE', operation: 'listing tasks', sqlState: '42P01' })
    await expect(reading).rejects.toThrow(/Run setup\(db\)/)
  })
})

/** The ids of a whole list, read page by page with cursors. */
async function walk(
  read: (filter: TaskFilter) => Promise<StoredTask<unknown>[]>,
  filter: TaskFilter,
): Promise<string[]> {
  const found: string[] = []
  for (let page = await read(filter); page.length > 0; page = await read({ ...filter, after: page.at(-1)?.cursor })) {
    found.push(...ids(page))
    if (found.length > 1_000) throw new Error('The list does not end.')
  }
  return found
}
