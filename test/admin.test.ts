/** The door for people and dashboards. What its reads answer is the matter of read.test.ts, metrics.test.ts and depths.test.ts. */
import { beforeEach, describe, expect, it } from 'vitest'
import { admin, AlreadyRegisteredError, defineQueue, PostgresStorage, type PgDb } from 'apalis-drizzle'
import { useDatabase } from './support/database.js'
import { hold, waitingFor } from './support/held.js'
import { clearTasks, workerRow } from './support/rows.js'

const database = useDatabase()
const emails = defineQueue<{ to: string }>('emails')

beforeEach(() => clearTasks(database.sql))

describe('registerWorker', () => {
  it('registers a name, also when two do so at the same time [REG-07] [REG-08]', async () => {
    const other = database.connect()
    await Promise.all([database.db, other.db].map((db) => admin(db).registerWorker('emails', 'board')))
    const [{ count } = { count: 0 }] = await database.sql`select count(*)::int from apalis.workers`
    expect(count).toBe(1)
    expect(await workerRow(database.sql, 'board', 'emails')).toMatchObject({ lease_token: null })
  })

  it('waits for a worker that is taking the name this very moment', async () => {
    const held = await hold(database.sql, `select pg_advisory_xact_lock(hashtext('board'), hashtext('emails'))`)
    try {
      const registered = admin(database.db).registerWorker('emails', 'board')
      await waitingFor(database.sql, held)
      await held.release()
      await registered
    } finally {
      await held.release()
    }
    expect(await workerRow(database.sql, 'board', 'emails')).toMatchObject({ lease_token: null })
  })

  it('happens in the transaction that it is given', async () => {
    const rolledBack = database.db.transaction(async (tx) => {
      await admin(tx).registerWorker('emails', 'board')
      tx.rollback()
    })
    await expect(rolledBack).rejects.toThrow()
    expect(await workerRow(database.sql, 'board', 'emails')).toBeUndefined()
  })

  it('keeps a worker from taking the name while it is fresh, and leaves that of a live one alone', async () => {
    const storage = new PostgresStorage(database.db, emails, { listen: false })
    await admin(database.db).registerWorker('emails', 'board#1')
    await expect(storage.worker(() => undefined, { name: 'board#1' }).start()).rejects.toThrow(AlreadyRegisteredError)
    const worker = storage.worker(() => undefined, { name: 'live#1' })
    await worker.start()
    const before = await workerRow(database.sql, 'live#1', 'emails')
    await admin(database.db).registerWorker('emails', 'live#1')
    expect(await workerRow(database.sql, 'live#1', 'emails')).toEqual(before)
    await worker.stop()
  })

  it('refuses names that cannot be stored', async () => {
    for (const [queue, name] of [
      ['', 'board'],
      ['emails', ''],
      ['emails', 'a\0b'],
      ['emails', 'x'.repeat(256)],
    ] as const) {
      await expect(admin(database.db).registerWorker(queue, name)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
  })
})

describe('a storage', () => {
  it('reads its own queue', async () => {
    const storage = new PostgresStorage(database.db, emails, { listen: false })
    const other = new PostgresStorage(database.db, defineQueue<number>('numbers'))
    const id = await storage.push({ to: 'ada' })
    expect(await storage.fetchById(id)).toMatchObject({
      id,
      status: 'Pending',
      payload: { ok: true, args: { to: 'ada' } },
    })
    expect(await other.fetchById(id)).toBeUndefined()
    expect((await storage.listTasks()).map((task) => task.id)).toEqual([id])
    expect(await storage.listTasks({ status: 'Done' })).toEqual([])
    expect((await storage.metrics()).find(({ title }) => title === 'PENDING_JOBS')).toMatchObject({ value: '1' })
    const worker = storage.worker(() => undefined)
    await worker.start()
    expect((await storage.listWorkers()).map(({ name }) => name)).toEqual([worker.name])
    await worker.stop()
  })
})

describe('admin', () => {
  it('reads in the transaction that it is given', async () => {
    await database.db.transaction(async (tx) => {
      await new PostgresStorage(database.db, emails).pushWithTx(tx, { to: 'ada' })
      expect(await admin(tx).listAllTasks()).toHaveLength(1)
      expect(await admin(database.db).listAllTasks()).toEqual([])
    })
    expect((await admin(database.db).queueDepths()).map(({ queue, due }) => ({ queue, due }))).toEqual([
      { queue: 'emails', due: 1 },
    ])
  })

  it('needs a database or a transaction', () => {
    expect(() => admin({} as PgDb)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'db' }) as Error,
    )
  })
})
