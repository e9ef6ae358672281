/** The drivers that the README names beside postgres.js: the path of a task from a transaction to its handler. */
import { PGlite } from '@electric-sql/pglite'
import {
  defineQueue,
  PostgresStorage,
  pushTasksWithTx,
  pushTaskWithTx,
  setup,
  verifySchema,
  type PgDb,
} from 'apalis-drizzle'
import { jobs } from 'apalis-drizzle/schema'
import { asc } from 'drizzle-orm'
import { drizzle as drizzleNodePostgres } from 'drizzle-orm/node-postgres'
import { drizzle as drizzlePglite } from 'drizzle-orm/pglite'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { useDatabase } from './support/database.js'

interface Driver {
  /** Both databases have the builders that this file uses; their types differ in what raw queries return. */
  readonly db: ReturnType<typeof drizzleNodePostgres>
  close(): Promise<void>
}

const database = useDatabase({ migrated: false })
const drivers: Record<string, () => Driver> = {
  'node-postgres': () => {
    const client = new pg.Pool({ connectionString: database.url })
    return { db: drizzleNodePostgres({ client }), close: () => client.end() }
  },
  PGlite: () => {
    const client = new PGlite()
    return { db: drizzlePglite({ client }) as unknown as Driver['db'], close: () => client.close() }
  },
}

describe.each(Object.entries(drivers))('on %s', (_name, open) => {
  const mails = defineQueue<{ to: string; at: Date }, { sent: number }>('mails', { retry: { baseMs: 0 } })
  const at = new Date('2026-01-02T03:04:05.678Z')
  let driver: Driver
  const states = () => driver.db.select({ status: jobs.status }).from(jobs).orderBy(asc(jobs.id))

  beforeAll(async () => {
    driver = open()
    await setup(driver.db)
  })
  afterAll(() => driver.close())

  it('sets up and verifies the schema', async () => {
    await setup(driver.db)
    await expect(verifySchema(driver.db as PgDb)).resolves.toBeUndefined()
  })

  it('stores a task with its transaction, and none with a rollback', async () => {
    const { db } = driver
    await db.transaction((tx) => pushTaskWithTx(tx, mails.task({ to: 'ada', at }, { idempotencyKey: 'ada' })))
    const failure = new Error('no')
    const rolledBack = db.transaction(async (tx) => {
      await pushTasksWithTx(tx, [mails.task({ to: 'bo', at }), mails.task({ to: 'cy', at })])
      throw failure
    })
    await expect(rolledBack).rejects.toBe(failure)
    expect(await states()).toEqual([{ status: 'Pending' }])
  })

  it('keeps the transaction usable after a conflict', async () => {
    await driver.db.transaction(async (tx) => {
      const again = pushTaskWithTx(tx, mails.task({ to: 'ada', at }, { idempotencyKey: 'ada' }))
      await expect(again).rejects.toMatchObject({ code: 'IDEMPOTENCY_CONFLICT', conflictingKeys: ['ada'] })
      await pushTaskWithTx(tx, mails.task({ to: 'dora', at }))
    })
    expect(await states()).toHaveLength(2)
  })

  it('runs, retries and finishes the tasks', async () => {
    const storage = new PostgresStorage(driver.db, mails, { onEvent: () => undefined })
    await storage.push({ to: 'emeka', at })
    const ran: unknown[] = []
    const worker = storage.worker(async (args, { attempt }) => {
      ran.push(args)
      if (args.to === 'emeka' && attempt === 1) throw new Error('once')
      return { sent: attempt }
    })
    await worker.run({ untilIdle: true })
    expect(ran).toHaveLength(4)
    expect(ran).toEqual(expect.arrayContaining(['ada', 'dora', 'emeka'].map((to) => ({ to, at }))))
    expect(await states()).toEqual(Array(3).fill({ status: 'Done' }))
  })
})
