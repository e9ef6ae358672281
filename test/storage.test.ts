/**
 * Shows what a storage keeps of what it was made from, what it refuses, and that making, copying and printing one opens
 * nothing and reveals nothing.
 */
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import { defineQueue, InvalidArgumentError, jsonCodec, PostgresStorage, type Codec, type Queue } from '../src/index.js'
import { useDatabase } from './support/database.js'
import { rowOf } from './support/rows.js'

const database = useDatabase()
const emails = defineQueue<{ to: string }>('emails')
const config = { bufferSize: 20, keepAliveMs: 1_000, reenqueueOrphanedAfterMs: 5_000, pollIntervalMs: 50 }
/** Nobody listens there. */
const nowhere = () => drizzle({ client: postgres('postgres://user:s3cret@localhost:1/app') })

describe('a storage', () => {
  it('keeps database, queue and settings [STORE-03] [STORE-08]', () => {
    const db = nowhere()
    const storage = new PostgresStorage(db, emails, config)
    expect(storage.db).toBe(db)
    expect(storage.queue).toBe(emails)
    expect(storage.config).toEqual(config)
    expect(new PostgresStorage(db, emails).config).toEqual({})
  })

  it.each(['always', 'never', { maxPerSecond: 10 }] as const)(
    'has the name and the settings of its queue, notified %j [STORE-04] [STORE-09]',
    (notify) => {
      const storage = new PostgresStorage(nowhere(), defineQueue('invoices', { notify }), config)
      expect(storage.queue.name).toBe('invoices')
      expect(storage.config).toEqual(config)
    },
  )

  it('does not change with the object it was configured by [STORE-05]', () => {
    const own = { ...config }
    const storage = new PostgresStorage(nowhere(), emails, own)
    own.bufferSize = 1
    expect(storage.config).toEqual(config)
    expect(() => Object.assign(storage.config, { bufferSize: 1 })).toThrow(TypeError)
    const copy = new PostgresStorage(storage.db, storage.queue, storage.config)
    expect(copy.config).toEqual(config)
  })

  it('prints its type and not its connection [STORE-06]', () => {
    const storage = new PostgresStorage(nowhere(), emails, config)
    for (const text of [inspect(storage, { depth: 10, showHidden: true }), JSON.stringify(storage)]) {
      expect(text).toContain('emails')
      expect(text).not.toMatch(/s3cret|localhost/)
    }
    expect(inspect(storage)).toMatch(/^PostgresStorage/)
  })

  it('can be had with another codec and is otherwise the same [STORE-07]', async () => {
    const storage = new PostgresStorage(database.db, emails, config)
    const upperCase: Codec<{ to: string }> = {
      encode: ({ to }) => new TextEncoder().encode(to.toUpperCase()),
      decode: () => ({ to: '' }),
    }
    const other = storage.withCodec(upperCase)
    expect(other.db).toBe(storage.db)
    expect(other.config).toEqual(config)
    expect(other.queue.name).toBe('emails')
    const ids = [
      await storage.push({ to: 'abc' }),
      await other.push({ to: 'abc' }),
      await storage.withCodec(jsonCodec).push({ to: 'abc' }),
    ]
    const payloads = await Promise.all(ids.map(async (id) => String((await rowOf(database.sql, id))?.['job'])))
    expect(payloads).toEqual(['{"to":"abc"}', 'ABC', '{"to":"abc"}'])
  })

  it('makes workers, which open nothing before they start [STORE-10]', async () => {
    const storage = new PostgresStorage(nowhere(), emails, config)
    const worker = storage.worker(() => undefined, { name: 'mailer' })
    expect(worker).toMatchObject({ name: 'mailer', queue: 'emails' })
    await worker.stop()
  })

  it('refuses what cannot work', async () => {
    const db = database.db
    expect(() => new PostgresStorage(db, emails, { keepAliveMs: 5_000, reenqueueOrphanedAfterMs: 5_000 })).toThrow(
      InvalidArgumentError,
    )
    expect(() => new PostgresStorage(db, { name: 'emails' } as Queue<unknown>)).toThrow(/defineQueue/)
    for (const wrong of [undefined, {}, database.client]) {
      expect(() => new PostgresStorage(wrong as never, emails)).toThrow(/needs a Drizzle database/)
    }
    await db.transaction(async (tx) => {
      expect(() => new PostgresStorage(tx as never, emails)).toThrow(/not a transaction/)
    })
  })
})

it('makes workers that reveal nothing either when they are printed', () => {
  const worker = new PostgresStorage(nowhere(), emails).worker(() => undefined)
  expect(inspect(worker, { depth: 10, showHidden: true })).not.toContain('s3cret')
})
