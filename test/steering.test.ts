/** What `admin` changes: cancel, retryNow, reschedule, setPriority and remove, by id and by queue. */
import { beforeEach, describe, expect, it } from 'vitest'
import { admin, type Change, type Selection } from 'apalis-drizzle'
import { announcements } from './support/announcements.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import {
  clearTasks,
  rowOf,
  storedIn,
  storeTask,
  storeTasks,
  storeWorker,
  taskId,
  type StoredTask,
} from './support/rows.js'

const database = useDatabase()
const queue = 'emails'
const worker = 'mailer#1'

/** One task of each kind that there is, as `taskId(1)` and so on. */
const KINDS = {
  due: {},
  delayed: { runAt: '1 hour' },
  stuck: { attempts: 5 },
  queued: { status: 'Queued', lockBy: worker },
  running: { status: 'Running', lockBy: worker, attempts: 1 },
  done: { status: 'Done', attempts: 1, lockBy: worker, doneAt: '-1 minute', result: { Ok: 7 } },
  failedDue: { status: 'Failed', attempts: 1, lockBy: worker, doneAt: '-1 minute', result: { Err: 'x' } },
  failedLater: {
    status: 'Failed',
    attempts: 1,
    lockBy: worker,
    doneAt: '-1 minute',
    result: { Err: 'x' },
    runAt: '1 hour',
  },
  exhausted: { status: 'Failed', attempts: 5, lockBy: worker, doneAt: '-1 minute', result: { Err: 'x' } },
  killed: { status: 'Killed', attempts: 2, lockBy: worker, doneAt: '-1 minute', result: { Err: 'x' } },
  killedLast: { status: 'Killed', attempts: 5, lockBy: worker, doneAt: '-1 minute', result: { Err: 'x' } },
} as const satisfies Record<string, Partial<StoredTask>>
type Kind = keyof typeof KINDS
const kinds = Object.keys(KINDS) as Kind[]
const idOf = (kind: Kind) => taskId(kinds.indexOf(kind) + 1)

const CALLS = {
  cancel: (which: Selection, on = admin(database.db)) => on.cancel(which),
  retryNow: (which: Selection, on = admin(database.db)) => on.retryNow(which),
  reschedule: (which: Selection, on = admin(database.db)) => on.reschedule(which, new Date('2100-01-01')),
  setPriority: (which: Selection, on = admin(database.db)) => on.setPriority(which, 9),
  remove: (which: Selection, on = admin(database.db)) => on.remove(which),
}
type Call = keyof typeof CALLS

const CHANGED: Record<Call, readonly Kind[]> = {
  cancel: ['due', 'delayed', 'stuck', 'queued', 'running', 'failedDue', 'failedLater'],
  retryNow: ['delayed', 'stuck', 'failedLater', 'exhausted', 'killed', 'killedLast'],
  reschedule: ['due', 'delayed', 'stuck', 'failedDue', 'failedLater'],
  setPriority: ['due', 'delayed', 'stuck', 'failedDue', 'failedLater'],
  remove: ['done', 'exhausted', 'killed', 'killedLast'],
}
/** Of a queue without a status, where that is not the same. */
const MEANT: Partial<Record<Call, readonly Kind[]>> = { retryNow: ['failedLater', 'exhausted', 'killed', 'killedLast'] }

const REASONS: Record<Kind, string> = {
  due: 'it waits to be run (Pending)',
  delayed: 'it waits to be run (Pending)',
  stuck: 'it waits to be run (Pending)',
  queued: 'a worker holds it (Queued)',
  running: 'a worker holds it (Running)',
  done: 'it has ended (Done)',
  failedDue: 'it waits to be run (Failed)',
  failedLater: 'it waits to be run (Failed)',
  exhausted: 'it has ended (Failed)',
  killed: 'it has ended (Killed)',
  killedLast: 'it has ended (Killed)',
}

const calls = Object.keys(CALLS) as Call[]

beforeEach(async () => {
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: worker, queue })
})

async function storeAllKinds(): Promise<void> {
  for (const kind of kinds) await storeTask(database.sql, { id: idOf(kind), queue, ...KINDS[kind] })
}

/** Each kind's row, without those that are as they were stored. */
async function changedRows(before: Map<Kind, unknown>): Promise<Kind[]> {
  const after = await allRows()
  return kinds.filter((kind) => JSON.stringify(after.get(kind)) !== JSON.stringify(before.get(kind)))
}

async function allRows(): Promise<Map<Kind, unknown>> {
  const rows = new Map<Kind, unknown>()
  for (const kind of kinds) rows.set(kind, await rowOf(database.sql, idOf(kind)))
  return rows
}

describe.each(calls)('%s', (call) => {
  it('by id changes what it may, and says why not the others', async () => {
    await storeAllKinds()
    const before = await allRows()
    const strange = taskId(99)
    const { changed, refused } = await CALLS[call]({ ids: [...kinds.map(idOf), strange, strange] })
    expect(changed).toEqual(CHANGED[call].map(idOf))
    const others = kinds.filter((kind) => !CHANGED[call].includes(kind))
    expect(refused).toEqual([
      ...others.map((kind) => ({ id: idOf(kind), reason: REASONS[kind] })),
      { id: strange, reason: 'no task has this id' },
    ])
    expect(await changedRows(before)).toEqual(CHANGED[call])
  })

  it('by queue changes what it may, and nothing of other queues', async () => {
    await storeAllKinds()
    await storeTask(database.sql, { id: taskId(50), queue: 'others' })
    await storeTask(database.sql, {
      id: taskId(51),
      queue: 'others',
      status: 'Killed',
      attempts: 1,
      result: { Err: 'x' },
    })
    const others = await Promise.all([50, 51].map((n) => rowOf(database.sql, taskId(n))))
    const before = await allRows()
    const meant = MEANT[call] ?? CHANGED[call]
    const { changed, refused } = await CALLS[call]({ queue })
    expect(changed.toSorted()).toEqual(meant.map(idOf))
    expect(refused).toEqual([])
    expect(await changedRows(before)).toEqual(meant)
    expect(await Promise.all([50, 51].map((n) => rowOf(database.sql, taskId(n))))).toEqual(others)
  })

  it.each(['Pending', 'Queued', 'Running', 'Done', 'Failed', 'Killed'] as const)(
    'by queue and status changes what it may, or refuses the status: %s',
    async (status) => {
      await storeAllKinds()
      const before = await allRows()
      const isOf = (kind: Kind) => (KINDS[kind] as { status?: string }).status ?? 'Pending'
      const meant = CHANGED[call].filter((kind) => isOf(kind) === status)
      const steered = CALLS[call]({ queue, status })
      if (meant.length === 0) {
        expect(await caught(steered)).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'which.status' })
      } else {
        expect((await steered).changed.toSorted()).toEqual(meant.map(idOf))
      }
      expect(await changedRows(before)).toEqual(meant)
    },
  )

  it('is one statement, in the order of the ids that it got', async () => {
    await storeAllKinds()
    const statements: string[] = []
    const { db } = database.connect({ max: 1, debug: (_, query) => statements.push(query) })
    const ids = CHANGED[call].map(idOf).reverse()
    expect(await CALLS[call]({ ids }, admin(db))).toEqual({ changed: ids, refused: [] })
    expect(statements.filter((text) => text.includes('apalis'))).toHaveLength(1)
  })

  it('of nothing asks the database nothing', async () => {
    const { db } = database.connect({ port: 1, max: 1 })
    expect(await CALLS[call]({ ids: [] }, admin(db))).toEqual({ changed: [], refused: [] })
  })

  it('happens in the transaction that it is given', async () => {
    await storeAllKinds()
    const before = await allRows()
    const rolledBack = database.db.transaction(async (tx) => {
      const { changed } = await CALLS[call]({ ids: [taskId(99), ...kinds.map(idOf)] }, admin(tx))
      expect(changed).toHaveLength(CHANGED[call].length)
      tx.rollback()
    })
    await expect(rolledBack).rejects.toThrow()
    expect(await changedRows(before)).toEqual([])
  })

  it.each<[string, unknown, string]>([
    ['no selection', undefined, 'which'],
    ['ids alone', [taskId(1)], 'which'],
    ['neither ids nor queue', {}, 'which'],
    ['both', { ids: [taskId(1)], queue }, 'which'],
    ['one id as a text', { ids: taskId(1) }, 'which.ids'],
    ['ids that are no series', { ids: 7 }, 'which.ids'],
    ['null', { ids: null }, 'which.ids'],
    ['an id that is no ULID', { ids: [taskId(1), 'abc'] }, 'which.ids'],
    ['an id in lower case', { ids: [taskId(1).toLowerCase()] }, 'which.ids'],
    ['too many ids', { ids: manyIds() }, 'which.ids'],
    ['ids with a status', { ids: [taskId(1)], status: 'Pending' }, 'which.status'],
    ['an unknown status', { queue, status: 'pending' }, 'which.status'],
    ['a queue without a name', { queue: '' }, 'which.queue'],
    ['a queue with a NUL', { queue: 'a\0b' }, 'which.queue'],
  ])('refuses %s', async (_, which, argument) => {
    const { db } = database.connect({ port: 1, max: 1 })
    expect(await caught(CALLS[call](which as Selection, admin(db)))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      argument,
    })
  })
})

describe('a task that a transaction holds', () => {
  it('is waited for two seconds, after which nothing is changed; a setting of the session is not touched', async () => {
    await storeAllKinds()
    const before = await allRows()
    const { db } = database.connect({ max: 5 })
    const held = await hold(database.sql, 'select from apalis.jobs for update')
    const errors = await Promise.all(calls.map((call) => caught(CALLS[call]({ ids: [idOf('killed')] }, admin(db)))))
    await held.release()
    for (const error of errors) {
      expect(error).toMatchObject({ code: 'DATABASE', sqlState: '55P03' })
      expect((error as Error).message).toMatch(
        /^Database error while .*tasks \(55P03\).*Nothing was .*pg_blocking_pids/,
      )
    }
    expect(await changedRows(before)).toEqual([])
    const settings = await Promise.all(calls.map(() => db.execute('show lock_timeout')))
    expect(settings.flat()).toEqual(calls.map(() => ({ lock_timeout: '0' })))
  })

  it.each(calls)('is the affair of the caller’s own transaction: %s leaves its settings as they are', async (call) => {
    await storeAllKinds()
    await database.db.transaction(async (tx) => {
      await tx.execute(`set local lock_timeout = '7s'`)
      await CALLS[call]({ queue }, admin(tx))
      expect(await tx.execute('show lock_timeout')).toMatchObject([{ lock_timeout: '7s' }])
    })
  })
})

function* manyIds(): Iterable<string> {
  for (let n = 1; n <= 100_001; n++) yield taskId(n)
}

describe('reschedule', () => {
  it.each([
    ['no date', '2030-01-01'],
    ['an invalid date', new Date(Number.NaN)],
    ['a date that Rust cannot hold', new Date(8_210_266_876_800_000)],
  ])('refuses %s', async (_, runAt) => {
    const error = await caught(admin(database.db).reschedule({ queue }, runAt as Date))
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'runAt' })
  })

  it('stores the instant, to the millisecond', async () => {
    await storeTask(database.sql, { id: taskId(1), queue })
    const runAt = new Date('2031-02-03T04:05:06.789Z')
    await admin(database.db).reschedule({ ids: [taskId(1)] }, runAt)
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ run_at: runAt, status: 'Pending' })
  })

  it('brings a task that is due already to an earlier place', async () => {
    await storeTask(database.sql, { id: taskId(1), queue })
    await admin(database.db).reschedule({ ids: [taskId(1)] }, new Date(1_000))
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ run_at: new Date(1_000) })
  })

  it('keeps what is known of a failed run', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, ...KINDS.failedLater })
    const before = await rowOf(database.sql, taskId(1))
    const runAt = new Date('2031-02-03T04:05:06.789Z')
    await admin(database.db).reschedule({ queue }, runAt)
    expect(await rowOf(database.sql, taskId(1))).toEqual({ ...before, run_at: runAt })
  })
})

describe('setPriority', () => {
  it.each([-1, 1.5, 2 ** 31, Number.NaN, '1'])('refuses %s', async (priority) => {
    const error = await caught(admin(database.db).setPriority({ queue }, priority as number))
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'priority' })
  })

  it('stores it, and nothing else', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, priority: 3 })
    const before = await rowOf(database.sql, taskId(1))
    await admin(database.db).setPriority({ queue }, 2 ** 31 - 1)
    expect(await rowOf(database.sql, taskId(1))).toEqual({ ...before, priority: 2 ** 31 - 1 })
  })
})

describe('cancel', () => {
  it('ends a task with what Rust reads as an error, and charges only what ran', async () => {
    await storeAllKinds()
    const before = await allRows()
    await admin(database.db).cancel({ queue })
    for (const kind of CHANGED.cancel) {
      const row = before.get(kind) as Record<string, unknown>
      expect(await rowOf(database.sql, idOf(kind))).toEqual({
        ...row,
        status: 'Killed',
        attempts: kind === 'running' ? 2 : row['attempts'],
        last_result: { Err: 'Cancelled by an administrator.' },
        done_at: expect.any(Date),
      })
    }
  })

  it('charges no more than there is, whatever another program has left', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: worker, attempts: 5 })
    await admin(database.db).cancel({ ids: [taskId(1)] })
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Killed', attempts: 5 })
  })

  it('tells each worker once that held tasks of it, and nobody else', async () => {
    await storeWorker(database.sql, { id: 'mailer#2', queue })
    await storeTasks(database.sql, 3, { queue, status: 'Queued', lockBy: worker })
    await storeTask(database.sql, { id: taskId(4), queue, status: 'Running', lockBy: 'mailer#2' })
    await storeTask(database.sql, { id: taskId(5), queue, ...KINDS.failedDue, lockBy: 'mailer#2' })
    await storeTask(database.sql, { id: taskId(6), queue })
    const told = await announcements(database.sql, () => admin(database.db).cancel({ queue }), 'apalis_drizzle::cancel')
    expect(told.map((payload) => JSON.parse(payload) as unknown)).toEqual([
      { job_type: queue, worker },
      { job_type: queue, worker: 'mailer#2' },
    ])
    const nobody = await announcements(
      database.sql,
      () => admin(database.db).cancel({ queue }),
      'apalis_drizzle::cancel',
    )
    expect(nobody).toEqual([])
  })

  it('of very many tasks names none in the notification, which has a limit', async () => {
    await database.sql`
      insert into apalis.jobs (job, id, job_type, status, lock_by, lock_at)
      select '{}', 'Q' || lpad(n::text, 25, '0'), ${queue}, 'Queued', ${worker}, date_trunc('second', now())
      from generate_series(1, 10000) n`
    let change: Change | undefined
    const told = await announcements(
      database.sql,
      async () => (change = await admin(database.db).cancel({ queue })),
      'apalis_drizzle::cancel',
    )
    expect(change?.changed).toHaveLength(10_000)
    expect(told).toHaveLength(1)
  })
})

describe('retryNow', () => {
  const CLEARED = { lock_by: null, lock_at: null, done_at: null }

  it('makes a task claimable with what is left of its attempts, or with one more', async () => {
    await storeAllKinds()
    const before = await allRows()
    await admin(database.db).retryNow({ ids: kinds.map(idOf) })
    for (const kind of CHANGED.retryNow) {
      const row = before.get(kind) as Record<string, unknown>
      expect(await rowOf(database.sql, idOf(kind))).toEqual({
        ...row,
        ...(row['status'] === 'Killed' && { status: 'Pending', ...CLEARED }),
        max_attempts: row['attempts'] === 5 ? 6 : 5,
        run_at: expect.any(Date),
      })
    }
    const [later] = await database.sql`
      select count(*)::int from apalis.jobs where run_at > clock_timestamp() + interval '1 second'`
    expect(later).toEqual({ count: 0 })
  })

  it('leaves a task alone whose attempts cannot be raised', async () => {
    const attempts = 2 ** 31 - 1
    await storeTask(database.sql, { id: taskId(1), queue, ...KINDS.killed, attempts, maxAttempts: attempts })
    expect((await admin(database.db).retryNow({ queue })).changed).toEqual([])
  })
})

describe('announcing', () => {
  it.each<[Call, Kind, number]>([
    ['retryNow', 'killed', 1],
    ['retryNow', 'failedLater', 1],
    ['retryNow', 'delayed', 1],
    ['retryNow', 'due', 0],
    ['reschedule', 'delayed', 0],
    ['setPriority', 'due', 0],
    ['cancel', 'due', 0],
  ])('by %s of a task that is %s: %i', async (call, kind, expected) => {
    await storeTask(database.sql, { id: taskId(1), queue, ...KINDS[kind] })
    const announced = await announcements(database.sql, () => CALLS[call]({ ids: [taskId(1)] }))
    expect(announced.map((payload) => (JSON.parse(payload) as { job_type: string }).job_type)).toEqual(
      Array.from({ length: expected }, () => queue),
    )
  })

  it('by reschedule of tasks that become due soon: once', async () => {
    await storeTasks(database.sql, 3, { queue, runAt: '1 hour' })
    const soon = new Date(Date.now() + 2_000)
    expect(await announcements(database.sql, () => admin(database.db).reschedule({ queue }, soon))).toHaveLength(1)
  })
})

describe('remove', () => {
  it('frees the idempotency keys of the tasks', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, ...KINDS.done, idempotencyKey: 'once' })
    expect(await admin(database.db).remove({ ids: [taskId(1)] })).toEqual({ changed: [taskId(1)], refused: [] })
    expect(await storedIn(database.sql, queue)).toEqual([])
    await storeTask(database.sql, { id: taskId(2), queue, idempotencyKey: 'once' })
    expect(await storedIn(database.sql, queue)).toEqual([taskId(2)])
  })
})

describe('a task that a trigger of the application keeps', () => {
  it.each<[string, Selection]>([
    ['of a queue', { queue }],
    ['by id', { ids: [taskId(1)] }],
  ])('is not told as changed, %s', async (_, which) => {
    await storeTask(database.sql, { id: taskId(1), queue })
    await database.sql.unsafe(`
      create function keep() returns trigger language plpgsql as $$ begin return null; end $$;
      create trigger keep before update on apalis.jobs for each row execute function keep()`)
    const { changed } = await CALLS.setPriority(which)
    await database.sql.unsafe('drop function keep cascade')
    expect(changed).toEqual([])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ priority: 0 })
  })
})
