/**
 * Shows that any text, as queue name, key, metadata, payload or worker name, is stored and read back exactly, or refused
 * before SQL. One statement carries many tasks as array literals, so each must also leave its neighbours intact.
 */
import { drizzle } from 'drizzle-orm/postgres-js'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  defineQueue,
  InvalidArgumentError,
  PostgresStorage,
  pushTasksWithTx,
  superjsonCodec,
  type PgDb,
  type Task,
} from '../src/index.js'
import { newLeaseToken, registerWorker } from '../src/processes/registration.js'
import type { Db } from '../src/vocabulary/db.js'
import { useDatabase } from './support/database.js'
import { clearTasks } from './support/rows.js'

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
