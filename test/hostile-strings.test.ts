/**
 * Shows that any text, as queue name, key, metadata, payload or worker name, is stored and read back exactly, or refused
 * before SQL. One statement carries many tasks as array literals, so each must also leave its neighbours intact.
 */
import { drizzle } from 'drizzle-orm/postgres-js'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  admin,
  defineQueue,
  InvalidArgumentError,
  isApalisError,
  PostgresStorage,
  pushTasksWithTx,
  superjsonCodec,
  type PgDb,
  type Task,
} from '../src/index.js'
import { newLeaseToken, registerWorker } from '../src/processes/registration.js'
import type { Db } from '../src/vocabulary/db.js'
import { useDatabase } from './support/database.js'
import { caught } from './support/caught.js'
import { clearTasks, taskId } from './support/rows.js'

const database = useDatabase()

const TROUBLE = [
  ...['', '"', "'", '\\', '\\\\', '{', '}', '{}', '{"', ',', '(', ')', ' ', '\t', '\n', '\r\n', '\u2028', '\ufeff'],
  ...['NULL', 'null', '"NULL"', '\\N', '\\x00', '\\u0000', '$1', ':id', '--', '/*', ';', '%', '_', '#1', '#', '::text'],
  ...['\0', '\ud800', '\udfff', '\udc00\ud800', '😀', 'é', 'e\u0301', 'ß', 'İ', '𝒳', '\uffff', '\u{10ffff}'],
  ...['__proto__', 'constructor', "'); drop table apalis.jobs; --"],
]
const anyUnit = fc.oneof(fc.integer({ min: 0, max: 0x7f }), fc.integer({ min: 0, max: 0xffff }))
const hostile = fc
  .array(
    fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom(...TROUBLE) },
      anyUnit.map((code) => String.fromCharCode(code)),
    ),
    {
      maxLength: 8,
    },
  )
  .map((parts) => parts.join(''))
/** About one in three cannot be stored, so that every property sees both kinds. */
const anyText = fc.oneof(
  hostile,
  hostile.map((text) => text.replaceAll('\0', '').toWellFormed()),
  fc.tuple(hostile, fc.constantFrom('\0', '\ud800', '\udfff'), hostile).map((parts) => parts.join('')),
)

const isName = (text: string) => text !== '' && isStorable(text)
const isStorable = (text: string) => !text.includes('\0') && text.isWellFormed()
const entries = (record: object) => Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1))

interface Row {
  readonly id: string
  readonly queue: string
  readonly key: string | null
  readonly metadata: string
  readonly job: Uint8Array
}

/** In the order of the ids. */
async function readRows(ids: readonly (string | undefined)[]): Promise<(Row | undefined)[]> {
  const rows = await database.sql<Row[]>`
    select id, job_type as queue, idempotency_key as key, metadata::text, job from apalis.jobs`
  return ids.map((id) => rows.find((row) => row.id === id))
}

describe('any text', () => {
  it('in tasks of one statement is read back exactly', async () => {
    const text = anyText.filter(isStorable)
    const task = fc.record({
      queue: anyText.filter(isName),
      key: fc.option(text),
      metadata: fc.dictionary(text, text, { maxKeys: 3, noNullPrototype: true }),
      payload: fc.oneof(anyText, fc.dictionary(anyText, anyText, { maxKeys: 3, noNullPrototype: true })),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(task, { minLength: 1, maxLength: 6 }), async (tasks) => {
        await clearTasks(database.sql)
        const pushed = tasks.map(({ queue, key, metadata, payload }): Task => {
          return defineQueue<unknown>(queue).task(payload, { idempotencyKey: key ?? undefined, metadata })
        })
        const ids = await database.db.transaction((tx) => pushTasksWithTx(tx, pushed, { onConflict: 'doNothing' }))
        const seen = new Set<string>()
        for (const [n, row] of (await readRows(ids)).entries()) {
          const { queue, key, metadata, payload } = tasks[n]!
          const taken = key !== null && seen.size === seen.add(JSON.stringify([queue, key])).size
          expect(row === undefined).toBe(taken)
          if (row === undefined) continue
          expect([row.queue, row.key]).toEqual([queue, key])
          expect(entries(JSON.parse(row.metadata) as object)).toEqual(entries(metadata))
          const decoded = superjsonCodec.decode(row.job)
          if (typeof payload === 'string') expect(decoded).toBe(payload)
          else expect(entries(decoded as object)).toEqual(entries(payload))
        }
      }),
      { numRuns: 200 },
    )
  })

  const texts = defineQueue<string>('texts')
  type Push = (db: PgDb, text: string) => Promise<string>

  it.each<[string, Push, (text: string) => boolean]>([
    ['queue name', async (db, text) => new PostgresStorage(db, defineQueue<string>(text)).push('a'), isName],
    ['key', (db, text) => new PostgresStorage(db, texts).push('a', { idempotencyKey: text }), isStorable],
    [
      'name in metadata',
      (db, text) => new PostgresStorage(db, texts).push('a', { metadata: { [text]: 1 } }),
      isStorable,
    ],
    [
      'value in metadata',
      (db, text) => new PostgresStorage(db, texts).push('a', { metadata: { a: [text] } }),
      isStorable,
    ],
    ['payload', (db, text) => new PostgresStorage(db, texts).push(text), () => true],
  ])('as %s is stored or refused before SQL', async (_, push, isAccepted) => {
    let statements = 0
    const db = drizzle({ client: database.client, logger: { logQuery: () => statements++ } })
    const seen = { accepted: 0, refused: 0 }
    await fc.assert(
      fc.asyncProperty(anyText, async (text) => {
        await clearTasks(database.sql)
        statements = 0
        const outcome = await push(db, text).catch((error: unknown) => error)
        if (isAccepted(text)) {
          seen.accepted++
          expect(await readRows([outcome as string])).toEqual([expect.objectContaining({ id: outcome })])
        } else {
          seen.refused++
          expect(outcome).toBeInstanceOf(InvalidArgumentError)
          expect(statements).toBe(0)
        }
      }),
      { numRuns: 100 },
    )
    expect(seen.accepted).toBeGreaterThan(20)
    expect(seen.refused > 10).toBe(!isAccepted('\0'))
  })

  /** Gives the text to a call, and looks what it has become. */
  type Use = (db: PgDb, text: string) => Promise<string>

  it.each<[string, Use, (text: string) => boolean]>([
    ['the name of a queue, paused', pauseAndLook, isName],
    ['the queue of a registered name', async (db, text) => (await registered(db, text, 'reporter')).queue, isName],
    ['the queue of a cancellation', cancelAndLook, isName],
    ['a registered name', async (db, text) => (await registered(db, 'texts', text)).name, isName],
    ['the owner of a locked task', lockAndLook, isName],
    ['the error of an acknowledgement', failAndLook, () => true],
  ])('as %s is taken exactly or refused before SQL', async (what, use, isAccepted) => {
    const expected = (text: string) =>
      // What a handler throws is the handler's own affair: it is stored as far as that is possible.
      what.startsWith('the error') ? text.replaceAll('\0', '\ufffd').toWellFormed() : text
    await eachText(anyText, async (db, text) => {
      if (!isAccepted(text)) return expectRefused(() => use(db, text))
      await clearTasks(database.sql)
      expect(await use(db, text)).toBe(expected(text))
    })
  })

  const OF_NO_TASK = { changed: [], refused: [expect.objectContaining({ id: expect.any(String) as string })] }
  const ULID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/
  /** Ids of tasks, and what looks like one. */
  const anyId = fc.oneof(
    anyText,
    fc.stringMatching(ULID),
    fc.tuple(fc.nat(26), hostile).map(([at, text]) => (taskId(1).slice(0, at) + text + taskId(2)).slice(0, 26)),
  )

  it.each<[string, (db: PgDb, text: string) => Promise<unknown>, unknown]>([
    ['push', (db, id) => storageOf(db).push('a', { id }), expect.stringMatching(ULID)],
    ['fetchById', (db, id) => storageOf(db).fetchById(id), undefined],
    ['checkStatus', (db, id) => storageOf(db).checkStatus([id]), []],
    ['claimByIds', (db, id) => storageOf(db).claimByIds([id], 'consumer'), []],
    ['lockTask', (db, id) => storageOf(db).lockTask(id, 'consumer').catch(absent), 'absent'],
    ['lockTask of an administrator', (db, id) => admin(db).lockTask(id, 'consumer').catch(absent), 'absent'],
    ['cancel', (db, id) => admin(db).cancel({ ids: [id] }), OF_NO_TASK],
    ['retryNow', (db, id) => admin(db).retryNow({ ids: [id] }), OF_NO_TASK],
    ['reschedule', (db, id) => admin(db).reschedule({ ids: [id] }, new Date()), OF_NO_TASK],
    ['setPriority', (db, id) => admin(db).setPriority({ ids: [id] }, 1), OF_NO_TASK],
    ['remove', (db, id) => admin(db).remove({ ids: [id] }), OF_NO_TASK],
    ['waitForSingle', (db, id) => storageOf(db).waitForSingle(id).catch(absent), 'absent'],
  ])('as id is taken by %s if it can be one, or refused before SQL', async (_, use, ofNoTask) => {
    await clearTasks(database.sql)
    await admin(database.db).registerWorker('texts', 'consumer')
    await eachText(anyId, async (db, text) => {
      await database.sql`delete from apalis.jobs`
      if (ULID.test(text)) expect(await use(db, text)).toEqual(ofNoTask)
      else await expectRefused(() => use(db, text))
    })
  })

  it('as status or cursor of a list is refused before SQL, unless it is one', async () => {
    await clearTasks(database.sql)
    const storage = storageOf(database.db)
    await storage.pushTasks([texts.task('a'), texts.task('b')])
    const cursor = (await storage.listTasks({ pageSize: 1 }))[0]!.cursor
    const nearCursor = fc
      .tuple(fc.nat(cursor.length), hostile, fc.nat(3))
      .map(([at, text, cut]) => cursor.slice(0, at) + text + cursor.slice(at + cut))
    await eachText(fc.oneof(anyText, nearCursor), async (db, after) => {
      for (const list of [() => storageOf(db).listTasks({ after }), () => admin(db).listAllTasks({ after })]) {
        statements.count = 0
        const outcome = await list().catch((error: unknown) => error)
        if (Array.isArray(outcome)) continue
        expect(outcome).toBeInstanceOf(InvalidArgumentError)
        expect(statements.count).toBe(0)
      }
      await expectRefused(() => storageOf(db).listTasks({ status: after as 'Done' }))
      await expectRefused(() => admin(db).cancel({ queue: 'texts', status: after as 'Done' }))
    })
  })

  const storageOf = (db: PgDb) => new PostgresStorage(db, texts, { onEvent: () => undefined })
  const absent = (error: unknown) => {
    if (isApalisError(error, 'TASK_NOT_FOUND')) return 'absent'
    throw error
  }

  async function pauseAndLook(db: PgDb, text: string): Promise<string> {
    await admin(db).pause(text)
    const paused = (await admin(db).queueDepths()).filter((depth) => depth.paused)
    await admin(db).resume(text)
    expect((await admin(db).queueDepths()).filter((depth) => depth.paused)).toEqual([])
    return paused.map(({ queue }) => queue).join()
  }

  async function cancelAndLook(db: PgDb, text: string): Promise<string> {
    const id = isName(text) ? await new PostgresStorage(db, defineQueue<string>(text)).push('a') : ''
    await storageOf(database.db).push('b')
    expect(await admin(db).cancel({ queue: text })).toEqual({ changed: [id], refused: [] })
    const [task, ...others] = await admin(db).listAllTasks({ status: 'Killed' })
    expect(others).toEqual([])
    return task!.queue
  }

  async function registered(db: PgDb, queue: string, name: string) {
    await admin(db).registerWorker(queue, name)
    const [worker] = await admin(db).listAllWorkers()
    return worker!
  }

  async function lockAndLook(db: PgDb, text: string): Promise<string> {
    if (isName(text)) await admin(db).registerWorker('texts', text)
    const id = isName(text) ? await storageOf(db).push('a') : taskId(1)
    const claim = await storageOf(db).lockTask(id, text)
    expect(claim.worker).toBe(text)
    return (await storageOf(db).fetchById(id))!.lockBy!
  }

  async function failAndLook(db: PgDb, text: string): Promise<string> {
    await admin(db).registerWorker('texts', 'consumer')
    const storage = storageOf(db)
    const claim = await storage.lockTask(await storage.push('a'), 'consumer')
    await storage.ack(claim, { status: 'Killed', error: text })
    const result = await storage.waitForSingle(claim.id)
    return 'error' in result ? result.error : ''
  }

  const statements = { count: 0 }

  async function eachText(arbitrary: fc.Arbitrary<string>, check: (db: PgDb, text: string) => Promise<void>) {
    const db = drizzle({ client: database.client, logger: { logQuery: () => statements.count++ } })
    await fc.assert(
      fc.asyncProperty(arbitrary, (text) => check(db, text)),
      { numRuns: 60 },
    )
  }

  async function expectRefused(use: () => Promise<unknown>): Promise<void> {
    statements.count = 0
    expect(await caught((async () => use())())).toBeInstanceOf(InvalidArgumentError)
    expect(statements.count).toBe(0)
  }

  it('as worker name is registered exactly, a number apart, or refused before SQL', async () => {
    const storage = new PostgresStorage(database.db, texts)
    const register = (name: string) =>
      registerWorker(database.db as unknown as Db, {
        ...{ queue: 'texts', name, leaseToken: newLeaseToken(), layers: '', thresholdMs: 60_000 },
      })
    await fc.assert(
      fc.asyncProperty(anyText, async (name) => {
        if (!isName(name)) {
          expect(() => storage.worker(() => undefined, { name })).toThrow(InvalidArgumentError)
          expect(() => storage.poll({ worker: name })).toThrow(InvalidArgumentError)
          return
        }
        expect(storage.worker(() => undefined, { name }).name).toBe(name)
        await clearTasks(database.sql)
        // A name that a careless pattern would take for the first one's.
        await register(`${name.replace(/./gsu, (char) => (char === 'x' ? 'y' : 'x'))}#1`)
        const names = /#\d+$/.test(name) ? [name] : [`${name}#1`, `${name}#2`]
        for (const expected of names) expect(await register(name)).toMatchObject({ worker: expected })
        const rows = await database.sql`select id from apalis.workers where id = any(${names})`
        expect(rows).toHaveLength(names.length)
      }),
      { numRuns: 100 },
    )
  })
})
