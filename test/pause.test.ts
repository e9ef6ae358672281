/**
 * Shows what a pause keeps workers from, in every process, what it leaves alone, and how it ends.
 */
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { admin, setup } from 'apalis-drizzle'
import { claim } from '../src/statements/claim.js'
import { nextDueMs } from '../src/statements/next-due.js'
import type { Db } from '../src/vocabulary/db.js'
import { announcements } from './support/announcements.js'
import { useDatabase } from './support/database.js'
import { clearTasks, rowOf, storedIn, storeTask, storeTasks, storeWorker, taskId } from './support/rows.js'
import { gate, idle, useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)
const { queue, worker } = { queue: 'emails', worker: 'mailer#1' }
const claimer = { queue, worker, leaseToken: `token of ${worker}`, thresholdMs: 60_000, running: 10 }
const FAR_APART = 86_400_000

const now = () => database.db as unknown as Db
const claimWith = async (db: Db) => (await claim(db, { ...claimer, limit: 10 })).map(({ id }) => id)

async function pausedQueues(): Promise<string[]> {
  const rows = await database.sql<{ queue: string }[]>`select queue from apalis_drizzle.paused_queues order by 1`
  return rows.map((row) => row.queue)
}

async function waiting(): Promise<void> {
  await storeWorker(database.sql, { id: worker, queue })
  await storeTasks(database.sql, 2, { queue })
}

afterEach(async () => {
  await database.sql`delete from apalis_drizzle.paused_queues`
  await clearTasks(database.sql)
})

describe('pause and resume', () => {
  it('of one queue leave the others alone, and may be repeated', async () => {
    await admin(database.db).pause(queue)
    await admin(database.db).pause(queue)
    await admin(database.db).pause('reports')
    expect(await pausedQueues()).toEqual([queue, 'reports'])
    await admin(database.db).resume(queue)
    await admin(database.db).resume(queue)
    expect(await pausedQueues()).toEqual(['reports'])
  })

  it('keep the time of the first pause', async () => {
    await database.sql`insert into apalis_drizzle.paused_queues values (${queue}, '2026-01-01Z')`
    await admin(database.db).pause(queue)
    const rows = await database.sql`select paused_at from apalis_drizzle.paused_queues`
    expect([...rows]).toEqual([{ paused_at: new Date('2026-01-01Z') }])
  })

  it('happen in the transaction that they are given', async () => {
    const rolledBack = database.db.transaction(async (tx) => {
      await admin(tx).pause(queue)
      expect((await admin(tx).queueDepths()).map(({ paused }) => paused)).toEqual([true])
      tx.rollback()
    })
    await expect(rolledBack).rejects.toThrow()
    expect(await pausedQueues()).toEqual([])
  })

  it.each(['', 'a\0b', 'x'.repeat(256)])('refuse what is no name of a queue: %j', async (name) => {
    const refused = { code: 'INVALID_ARGUMENT', argument: 'queue' }
    await expect(admin(database.db).pause(name)).rejects.toMatchObject(refused)
    await expect(admin(database.db).resume(name)).rejects.toMatchObject(refused)
  })

  it('announce the resumption, once it is one and committed', async () => {
    await admin(database.db).pause(queue)
    const payloads = await announcements(database.sql, async () => {
      await admin(database.db).resume('reports')
      await admin(database.db).pause('invoices')
      await database.db
        .transaction(async (tx) => {
          await admin(tx).resume(queue)
          tx.rollback()
        })
        .catch(() => undefined)
      await admin(database.db).resume(queue)
    })
    expect(payloads.map((payload) => JSON.parse(payload) as unknown)).toEqual([{ job_type: queue, ids: [] }])
  })
})

describe('a paused queue', () => {
  it('has no task to claim, and none that becomes due', async () => {
    await waiting()
    await admin(database.db).pause(queue)
    expect(await claimWith(now())).toEqual([])
    expect(await nextDueMs(now(), queue)).toBeUndefined()
    await admin(database.db).resume(queue)
    expect(await nextDueMs(now(), queue)).toBeLessThan(0)
    expect(await claimWith(now())).toEqual([taskId(1), taskId(2)])
  })

  it('does not stop other queues', async () => {
    await waiting()
    await admin(database.db).pause('reports')
    expect(await claimWith(now())).toHaveLength(2)
  })
})

describe('a pause and a claim in two sessions', () => {
  it('the claim neither waits nor counts with a pause that is not committed', async () => {
    await waiting()
    await database.db.transaction(async (tx) => {
      await admin(tx).pause(queue)
      expect(await claimWith(now())).toHaveLength(2)
    })
    expect(await pausedQueues()).toEqual([queue])
  })

  it('a claim that was under way when the pause committed keeps its tasks, the next one gets none', async () => {
    await waiting()
    await database.db.transaction(async (tx) => {
      expect(await claimWith(tx as unknown as Db)).toHaveLength(2)
      // Another session, which does not wait either.
      await admin(database.connect({ max: 1, connection: { lock_timeout: 2_000 } }).db).pause(queue)
      await storeTask(database.sql, { id: taskId(3), queue })
      expect(await claimWith(tx as unknown as Db)).toEqual([])
    })
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Running', lock_by: worker })
    expect(await rowOf(database.sql, taskId(3))).toMatchObject({ status: 'Pending' })
  })
})

describe('workers of a paused queue', () => {
  it('run what they have claimed, the buffered included, and claim nothing more', async () => {
    const { queue, storage, events, started } = work<number>()
    await storage.pushTasks([1, 2, 3].map((n) => queue.task(n)))
    const pause = gate()
    const worker = await started(() => pause.opened, { concurrency: 1, bufferSize: 3 })
    for (let n = 0; n < 3; n++) await events.next('task.claimed')
    await admin(database.db).pause(queue.name)
    const id = await storage.push(4)
    pause.open()
    for (let n = 0; n < 3; n++) await events.next('task.done')
    await worker.run({ untilIdle: true })
    expect(await rowOf(database.sql, id)).toMatchObject({ status: 'Pending', attempts: 0 })
  })

  it('are idle: untilIdle ends although tasks are due', async () => {
    const { queue, storage, worker } = work<number>()
    await storage.push(1)
    await admin(database.db).pause(queue.name)
    await worker(() => expect.unreachable('Nothing is claimed.')).run({ untilIdle: true })
    expect(await storage.listTasks()).toHaveLength(1)
  })

  it('are woken by the resumption in every process, long before they look again', async () => {
    const { queue, storage, events, started } = work<number>()
    await admin(database.db).pause(queue.name)
    const polls = gate()
    const pollIntervalMs = (emptyLooks: number) => {
      if (emptyLooks > 0) polls.open()
      return FAR_APART
    }
    await started(idle, { pollIntervalMs })
    await events.next('listener.up')
    const id = await storage.push(1)
    await polls.opened
    await admin(database.connect({ max: 1 }).db).resume(queue.name)
    await events.next('task.done', (event) => event.id === id)
  })

  it('find the end of the pause without a listener, too', async () => {
    const { queue, storage, events, started } = work<number>()
    const id = await storage.push(1)
    await admin(database.db).pause(queue.name)
    const looked = gate()
    const pollIntervalMs = (emptyLooks: number) => {
      if (emptyLooks === 3) looked.open()
      return 10
    }
    await started(idle, { listen: false, pollIntervalMs })
    await looked.opened
    await admin(database.db).resume(queue.name)
    await events.next('task.done', (event) => event.id === id)
  })
})

describe('a database that was not set up since an update', () => {
  it('is told to be, by calls and by workers, which go on afterwards', async () => {
    onTestFinished(() => setup(database.db))
    const { queue, storage, events, started } = work<number>()
    await database.sql`drop table apalis_drizzle.paused_queues`
    await expect(admin(database.db).pause(queue.name)).rejects.toThrow('Run setup(db)')
    const id = await storage.push(1)
    await started(idle)
    const { message, operation } = await events.next('worker.error')
    expect(operation).toBe('claiming tasks')
    expect(message).toContain('Run setup(db)')
    await setup(database.db)
    await events.next('task.done', (event) => event.id === id)
    expect(await storedIn(database.sql, queue.name)).toEqual([id])
  })
})
