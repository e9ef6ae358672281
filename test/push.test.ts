/**
 * Shows what the push methods of a storage store, what they refuse before any SQL, and how a conflict or an error of the
 * database is told. How concurrent pushes share statements is in push-group.test.ts.
 */
import { withReplicas } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/postgres-js'
import { inspect } from 'node:util'
import { beforeEach, describe, expect, it } from 'vitest'
import {
  defineQueue,
  BatchFailedError,
  IdempotencyConflictError,
  InvalidArgumentError,
  PostgresStorage,
  type Task,
  type TaskOptions,
} from '../src/index.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { clearTasks, rowOf, storedIn, taskId } from './support/rows.js'

const database = useDatabase()
const emails = defineQueue<{ to: string }>('emails', { maxAttempts: 8, priority: 2 })
const invoices = defineQueue<{ order: number }>('invoices')
const storageOf = () => new PostgresStorage(database.db, emails)

beforeEach(() => clearTasks(database.sql))

const stored = (queue = 'emails') => storedIn(database.sql, queue)
const allTasks = async () => (await database.sql`select from apalis.jobs`).length

describe('push', () => {
  it("stores one task, in the storage's queue and no other [PUSH-01]", async () => {
    const id = await storageOf().push({ to: 'a' })
    expect(await stored()).toEqual([id])
    expect(await allTasks()).toBe(1)
    const row = await rowOf(database.sql, id)
    expect(row).toMatchObject({ status: 'Pending', attempts: 0, max_attempts: 8, priority: 2, metadata: {} })
    expect(Buffer.from(row?.['job'] as Buffer).toString()).toBe('{"to":"a"}')
  })

  it('stores each task that has no key [PUSH-02]', async () => {
    const storage = storageOf()
    const ids = [await storage.push({ to: 'a' }), await storage.push({ to: 'a' })]
    expect((await stored()).sort()).toEqual(ids)
  })

  it('takes the options of a task, and a task made before', async () => {
    const storage = storageOf()
    const runAt = new Date('2030-01-01T00:00:00.123Z')
    const ids = [
      await storage.push({ to: 'a' }, { id: taskId(1), priority: 7, maxAttempts: 1, runAt, metadata: { a: 1 } }),
      await storage.pushTask(emails.task({ to: 'b' }, { idempotencyKey: 'b', delayMs: 60_000 })),
    ]
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({
      priority: 7,
      max_attempts: 1,
      run_at: runAt,
      metadata: { a: 1 },
    })
    const [delay] =
      await database.sql`select run_at - now() > '50 seconds' as due_later from apalis.jobs where id = ${ids[1]!}`
    expect(delay).toEqual({ due_later: true })
  })

  it('goes to the primary of a database with replicas', async () => {
    const { client, db } = database.connect()
    await client.end()
    const replicas = withReplicas(database.db, [db])
    const id = await new PostgresStorage(replicas, emails).push({ to: 'a' }, { idempotencyKey: 'a' })
    expect(await stored()).toEqual([id])
  })

  it('works for a role that may only insert what a producer writes', async () => {
    const role = `producer_${process.pid}`
    await database.sql.unsafe(`
      create role ${role};
      grant usage on schema apalis to ${role};
      grant insert (job, id, job_type, max_attempts, run_at, priority, metadata, idempotency_key) on apalis.jobs to ${role};
      grant select (id, job_type, idempotency_key) on apalis.jobs to ${role}`)
    try {
      const { client, db } = database.connect({ connection: { role }, max: 1 })
      const storage = new PostgresStorage(db, emails)
      const ids = [
        await storage.push({ to: 'a' }),
        ...(await storage.pushTasks([emails.task({ to: 'b' }, { idempotencyKey: 'b' }), emails.task({ to: 'c' })])),
        await db.transaction((tx) => storage.pushWithTx(tx, { to: 'd' }, { idempotencyKey: 'd' })),
      ]
      expect((await stored()).sort()).toEqual([...ids].sort())
      expect(await caught(storage.push({ to: 'b' }, { idempotencyKey: 'b' }))).toBeInstanceOf(IdempotencyConflictError)
      await client.end()
    } finally {
      await database.sql.unsafe(`drop owned by ${role}; drop role ${role}`)
    }
  })
})

describe('an idempotency key', () => {
  it('is taken once per queue [PUSH-03] [PUSH-04] [PUSH-05] [PUSH-06]', async () => {
    const storage = storageOf()
    const first = await storage.push({ to: 'a' }, { idempotencyKey: 'order-1' })
    const error = await caught(storage.push({ to: 'b' }, { idempotencyKey: 'order-1' }))
    expect(error).toBeInstanceOf(IdempotencyConflictError)
    expect(error).toMatchObject({
      code: 'IDEMPOTENCY_CONFLICT',
      queue: 'emails',
      conflictingKeys: ['order-1'],
      total: 1,
    })
    expect(await stored()).toEqual([first])
    expect(await stored('invoices')).toEqual([])

    const other = await new PostgresStorage(database.db, invoices).push({ order: 1 }, { idempotencyKey: 'order-1' })
    expect(await stored('invoices')).toEqual([other])
    expect(await stored()).toEqual([first])
  })

  it('may be empty, and is one then too [PUSH-07]', async () => {
    const storage = storageOf()
    const id = await storage.push({ to: 'a' }, { idempotencyKey: '' })
    expect(await caught(storage.push({ to: 'b' }, { idempotencyKey: '' }))).toMatchObject({ conflictingKeys: [''] })
    expect(await stored()).toEqual([id])
  })

  it('that is taken fails its whole batch, which tells how many of how many [PUSH-08] [PUSH-09] [NEXT-46]', async () => {
    const storage = storageOf()
    const id = await storage.push({ to: 'a' }, { idempotencyKey: 'taken' })
    const keys = ['taken', 'taken', 'taken', 'twice', 'twice', 'free', undefined]
    const tasks = keys.map((idempotencyKey) => emails.task({ to: 'b' }, { idempotencyKey }))
    const error = await caught(storage.pushTasks(tasks.slice(0, 3)))
    expect(error).toMatchObject({ code: 'IDEMPOTENCY_CONFLICT', conflictingKeys: ['taken'], total: 3 })
    expect((error as Error).message).toContain('3 of 3 tasks refused')

    const mixed = (await caught(storage.pushTasks(tasks))) as IdempotencyConflictError
    expect(mixed).toMatchObject({ conflictingKeys: ['taken', 'twice'], total: 7 })
    expect(mixed.message).toContain('4 of 7 tasks refused')
    expect(await stored()).toEqual([id])
  })

  it('that is repeated in a batch fails it, also when no key is taken [NEXT-46]', async () => {
    const tasks = ['twice', 'once', 'twice'].map((idempotencyKey) => emails.task({ to: 'a' }, { idempotencyKey }))
    const error = await caught(storageOf().pushTasks(tasks))
    expect(error).toMatchObject({ conflictingKeys: ['twice'], total: 3 })
    expect((error as Error).message).toContain('1 of 3 tasks refused')
    expect(await allTasks()).toBe(0)
  })
})

describe('limits', () => {
  /** Metadata of exactly so many bytes of JSON. */
  const metadata = (bytes: number) => ({ text: 'x'.repeat(bytes - '{"text":""}'.length) })

  it.each([
    ['metadata of 1,024 bytes [PUSH-10]', { metadata: metadata(1_024) }],
    ['metadata of 8,000 bytes [PUSH-10]', { metadata: metadata(8_000) }],
    ['metadata of 8,192 bytes [PUSH-11]', { metadata: metadata(8_192) }],
    ['a key of 36 bytes [PUSH-14]', { idempotencyKey: 'x'.repeat(36) }],
    ['a key of 1,024 bytes [PUSH-14]', { idempotencyKey: 'ä'.repeat(512) }],
  ])('accepts %s', async (_, options) => {
    const id = await storageOf().push({ to: 'a' }, options)
    const row = await rowOf(database.sql, id)
    expect({ metadata: row?.['metadata'] as unknown, idempotencyKey: row?.['idempotency_key'] as unknown }).toEqual({
      metadata: {},
      idempotencyKey: null,
      ...options,
    })
  })

  it.each([
    ['metadata of 8,193 bytes [PUSH-12]', { metadata: metadata(8_193) }, 'metadata'],
    ['metadata of 16,384 bytes [PUSH-13]', { metadata: metadata(16_384) }, 'metadata'],
    ['a key of 4,096 bytes [PUSH-15]', { idempotencyKey: 'x'.repeat(4_096) }, 'idempotencyKey'],
    ['a date no column can hold [PUSH-18]', { runAt: new Date(8.64e15) }, 'runAt'],
    ['runAt together with delayMs', { runAt: new Date(), delayMs: 1 }, 'delayMs'],
    ['an id that is no ULID', { id: 'order-1' }, 'id'],
    ['an option that there is not', { idempotency_key: 'order 1' } as TaskOptions, 'options'],
  ])('refuses %s, alone and with others', async (_, options, argument) => {
    const storage = storageOf()
    const task = emails.task({ to: 'a' }, options)
    const refused = { code: 'INVALID_ARGUMENT', argument }
    expect(await caught(storage.pushTask(task))).toMatchObject(refused)
    expect(await caught(storage.pushTasks([emails.task({ to: 'b' }), task]))).toMatchObject(refused)
    expect(await caught(storage.pushAll([task]))).toMatchObject({ code: 'BATCH_FAILED', cause: refused })
    expect(await allTasks()).toBe(0)
  })

  it.each([64, 255])('accepts a queue name of %i bytes [PUSH-16]', async (bytes) => {
    const queue = defineQueue<string>('q'.repeat(bytes))
    const id = await new PostgresStorage(database.db, queue).push('a')
    expect(await stored(queue.name)).toEqual([id])
  })

  it('refuses a queue name of 1,024 bytes [PUSH-17]', async () => {
    expect(() => defineQueue('q'.repeat(1_024))).toThrow(InvalidArgumentError)
    expect(await allTasks()).toBe(0)
  })

  it('accepts a payload of 1 MiB and refuses one above [NEXT-45]', async () => {
    const files = defineQueue<string>('files')
    const storage = new PostgresStorage(database.db, files)
    const quotes = '""'.length
    const id = await storage.push('x'.repeat(1_048_576 - quotes))
    const [row] = await database.sql`select length(job) from apalis.jobs where id = ${id}`
    expect(row).toEqual({ length: 1_048_576 })
    expect(await caught(storage.push('x'.repeat(1_048_577 - quotes)))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      argument: 'args',
    })
    expect(await allTasks()).toBe(1)
  })
})

describe('pushTasks', () => {
  it('returns the ids in the order of the tasks', async () => {
    const tasks = ['z', undefined, 'a', 'm'].map((key) => emails.task({ to: `${key}` }, { idempotencyKey: key }))
    const ids = await storageOf().pushTasks(tasks.values())
    const payloads = await Promise.all(
      ids.map(async (id) => Buffer.from((await rowOf(database.sql, id))?.['job'] as Buffer).toString()),
    )
    expect(payloads).toEqual(['{"to":"z"}', '{"to":"undefined"}', '{"to":"a"}', '{"to":"m"}'])
  })

  it.each([
    ['a task', emails.task({ to: 'a' })],
    ['an object', {}],
    ['nothing', undefined],
    ['text', 'emails'],
  ])('refuses %s in place of a series, as pushAll does', async (_, tasks) => {
    const refused = { code: 'INVALID_ARGUMENT', argument: 'tasks' }
    expect(await caught(storageOf().pushTasks(tasks as never))).toMatchObject(refused)
    expect(await caught(storageOf().pushAll(tasks as never))).toMatchObject(refused)
  })

  it('refuses payloads in place of tasks, as pushTask and a sink do', async () => {
    const payload = { to: 'a' } as never
    const refused = { code: 'INVALID_ARGUMENT', argument: 'task' }
    expect(await caught(storageOf().pushTasks([payload]))).toMatchObject(refused)
    expect(await caught(storageOf().pushTask(payload))).toMatchObject(refused)
    const writer = storageOf().sink().getWriter()
    writer.closed.catch(() => undefined)
    expect(await caught(writer.write(payload))).toMatchObject({ cause: refused })
  })

  it('may be empty', async () => {
    expect(await storageOf().pushTasks([])).toEqual([])
  })

  it('stores all or none when they need several statements', async () => {
    const files = defineQueue<string>('files')
    const storage = new PostgresStorage(database.db, files)
    const tasks = ['a', 'b', 'c', 'd', 'e'].map((key) => files.task('x'.repeat(1_000_000), { idempotencyKey: key }))
    const last = await storage.push('small', { idempotencyKey: 'e' })
    expect(await caught(storage.pushTasks(tasks))).toMatchObject({ conflictingKeys: ['e'], total: 5 })
    expect(await stored('files')).toEqual([last])

    await clearTasks(database.sql)
    const ids = await storage.pushTasks(tasks)
    expect((await stored('files')).sort()).toEqual([...ids].sort())
  })

  it('refuses an id that stands twice, and tasks of another queue', async () => {
    const task = emails.task({ to: 'a' }, { id: taskId(1) })
    expect(await caught(storageOf().pushTasks([task, task]))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      argument: 'id',
    })
    const foreign = invoices.task({ order: 1 }) as never as Task<{ to: string }>
    expect(await caught(storageOf().pushTasks([task, foreign]))).toMatchObject({ argument: 'task' })
    expect(await caught(storageOf().pushTask(foreign))).toMatchObject({ argument: 'task' })
    expect(await allTasks()).toBe(0)
  })
})

describe('pushAll', () => {
  const series = function* (count: number) {
    for (let n = 0; n < count; n++) yield emails.task({ to: String(n) })
  }

  it('stores a series in batches and counts it', async () => {
    expect(await storageOf().pushAll(series(2_500))).toBe(2_500)
    expect(await allTasks()).toBe(2_500)
    expect(await storageOf().pushAll([])).toBe(0)
  })

  it('reads no further than the batch it stores', async () => {
    let read = 0
    const counted = async function* () {
      for (const task of series(1_500)) {
        if (read === 1_000) expect(await allTasks()).toBe(1_000)
        read++
        yield task
      }
    }
    await storageOf().pushAll(counted())
    expect(read).toBe(1_500)
    expect.assertions(2)
  })

  it('stores large tasks in batches that fit one statement each', async () => {
    const files = defineQueue<string>('files')
    const { client } = database.connect()
    const statements: string[] = []
    const db = drizzle({ client, logger: { logQuery: (query) => statements.push(query) } })
    const tasks = Array.from({ length: 6 }, () => files.task('x'.repeat(1_000_000)))
    expect(await new PostgresStorage(db, files).pushAll(tasks)).toBe(6)
    expect(statements.map((text) => text.slice(0, 6))).toEqual(['insert', 'insert'])
  })

  it('keeps what was stored before a batch that fails, and reports the batch with its tasks', async () => {
    const twice = emails.task({ to: 'secret' }, { idempotencyKey: 'twice' })
    const failing = function* () {
      yield* series(1_000)
      yield* [twice, twice]
    }
    const error = await caught(storageOf().pushAll(failing()))
    expect(error).toBeInstanceOf(BatchFailedError)
    expect(error).toMatchObject({ stored: 1_000, cause: { code: 'IDEMPOTENCY_CONFLICT' } })
    const { tasks, taskIds } = error as BatchFailedError
    expect(tasks).toEqual([twice, twice])
    expect(new Set(taskIds).size).toBe(2)
    expect(inspect(error, { depth: 10 })).not.toContain('secret')
    expect(await allTasks()).toBe(1_000)
  })

  it('stores what comes before a task that cannot be stored, and reports that task', async () => {
    const bad = emails.task({ to: 'bad' }, { priority: -1 })
    const error = await caught(storageOf().pushAll([...series(3), bad, ...series(3)]))
    expect(error).toMatchObject({ code: 'BATCH_FAILED', stored: 3, taskIds: [], cause: { argument: 'priority' } })
    expect((error as BatchFailedError).tasks).toEqual([bad])
    expect(await allTasks()).toBe(3)
  })

  it('stores what a series gave before it failed', async () => {
    const broken = new Error('no such line')
    const failing = function* () {
      yield* series(1_500)
      throw broken
    }
    expect(await caught(storageOf().pushAll(failing()))).toBe(broken)
    expect(await allTasks()).toBe(1_500)
  })

  it('ends when its signal aborts, stores what it has read, and closes the series', async () => {
    const controller = new AbortController()
    let read = 0
    let closed = false
    const endless = async function* () {
      try {
        for (; ; read++) {
          if (read === 1_100) controller.abort(new Error('enough'))
          yield emails.task({ to: String(read) })
        }
      } finally {
        closed = true
      }
    }
    const { signal } = controller
    expect(await caught(storageOf().pushAll(endless(), { signal }))).toBe(signal.reason)
    expect(closed).toBe(true)
    expect(await allTasks()).toBe(1_101)
    expect(await caught(storageOf().pushAll(series(1), { signal }))).toBe(signal.reason)
    expect(await allTasks()).toBe(1_101)
  })
})

describe('an error of the database', () => {
  it('is a DatabaseError for a chosen id that is stored already', async () => {
    const storage = storageOf()
    await storage.push({ to: 'a' }, { id: taskId(1) })
    expect(await caught(storage.push({ to: 'b' }, { id: taskId(1) }))).toMatchObject({
      code: 'DATABASE',
      sqlState: '23505',
      message: expect.stringContaining('A task with this id is stored already: look it up with fetchById.') as string,
      operation: 'pushing tasks',
    })
    const batch = [emails.task({ to: 'c' }), emails.task({ to: 'd' }, { id: taskId(1), idempotencyKey: 'd' })]
    expect(await caught(storage.pushTasks(batch))).toMatchObject({ code: 'DATABASE', sqlState: '23505' })
    expect(await stored()).toEqual([taskId(1)])
  })

  it('says to run setup when the tables are missing', async () => {
    const { db } = database.connect({ database: 'postgres' })
    const storage = new PostgresStorage(db, emails)
    const errors = await Promise.all([
      caught(storage.push({ to: 'a' })),
      caught(storage.push({ to: 'a' }, { idempotencyKey: 'a' })),
      caught(storage.pushTasks([emails.task({ to: 'a' })])),
      caught(db.transaction((tx) => storage.pushWithTx(tx, { to: 'a' }))),
    ])
    for (const error of errors) {
      expect(error).toMatchObject({ code: 'DATABASE', sqlState: '42P01' })
      expect((error as Error).message).toContain('Run setup(db) or `npx apalis-drizzle setup`')
    }
  })

  it('says at once that the database cannot be reached', async () => {
    const { db } = database.connect({ port: 1, max: 1 })
    const error = await caught(new PostgresStorage(db, emails).push({ to: 'a' }))
    expect(error).toMatchObject({ code: 'DATABASE', sqlState: undefined })
    expect((error as Error).message).toContain('ECONNREFUSED')
  })

  it('shows neither payload nor key nor connection string', async () => {
    const secret = 's3cret'
    await database.sql.unsafe(`
      create or replace function refuse() returns trigger language plpgsql as $$
      begin
        if new.metadata ? 'cast' then perform (convert_from(new.job, 'UTF8') || new.idempotency_key)::int; end if;
        return new;
      end $$;
      create trigger refuse before insert on apalis.jobs for each row execute function refuse();
      alter table apalis.jobs add constraint no_check check (not metadata ? 'check')`)
    try {
      const { db } = database.connect({ connection: { application_name: secret } })
      const storage = new PostgresStorage(db, emails)
      const options = (metadata: Record<string, string>) => ({
        idempotencyKey: secret,
        metadata: { ...metadata, secret },
      })
      const failing = [
        emails.task({ to: secret }, options({ cast: secret })),
        emails.task({ to: secret }, options({ check: secret })),
      ]
      const errors = await Promise.all(
        failing.flatMap((task) => [
          caught(storage.pushTask(task)),
          caught(storage.pushTasks([task, emails.task({ to: secret })])),
          caught(db.transaction((tx) => storage.pushTaskWithTx(tx, task))),
        ]),
      )
      expect(errors.map((error) => (error as { sqlState: string }).sqlState)).toEqual([
        ...['22P02', '22P02', '22P02'],
        ...['23514', '23514', '23514'],
      ])
      for (const error of errors) {
        expect(inspect(error, { depth: 10, showHidden: true })).not.toContain(secret)
        expect((error as Error).stack).not.toContain(secret)
        expect(JSON.stringify(error)).not.toContain(secret)
      }
    } finally {
      await database.sql.unsafe(`drop trigger refuse on apalis.jobs; alter table apalis.jobs drop constraint no_check`)
    }
  })
})

it('says when the client was closed before', async () => {
  const { client, db } = database.connect()
  await client.end()
  expect(await caught(new PostgresStorage(db, emails).push({ to: 'a' }))).toMatchObject({
    code: 'DATABASE',
    message: expect.stringContaining('The client was closed before; close it after the last call') as string,
  })
})
