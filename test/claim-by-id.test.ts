/**
 * Shows which of the tasks that are asked for by id a claim takes, in which order, and that it reads no others.
 */
import {
  admin,
  AlreadyRegisteredError,
  DecodeError,
  defineQueue,
  PostgresStorage,
  WorkerNotRegisteredError,
  type Claim,
} from 'apalis-drizzle'
import { recordEvents } from 'apalis-drizzle/testing'
import { drizzle } from 'drizzle-orm/postgres-js'
import { beforeEach, describe, expect, it } from 'vitest'
import { claim } from '../src/statements/claim.js'
import { lockTasks } from '../src/statements/lock-tasks.js'
import type { Db } from '../src/vocabulary/db.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import { explain } from './support/plan.js'
import { clearTasks, rowOf, storeTask, storeTasks, storeWorker, taskId } from './support/rows.js'

const database = useDatabase()
const { queue, worker } = { queue: 'emails', worker: 'consumer' }
const emails = defineQueue<object, string>(queue)

beforeEach(async () => {
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: worker, queue, leaseToken: null })
})

function claimAll(numbers: readonly number[], as = worker): Promise<Claim<object>[]> {
  return new PostgresStorage(database.db, emails).claimByIds(numbers.map(taskId), as)
}

async function claimed(numbers: readonly number[], as = worker): Promise<string[]> {
  return (await claimAll(numbers, as)).map(({ id }) => id)
}

describe('claim by id: which tasks', () => {
  it('takes a waiting task as a claim of the next tasks does [CLAIMID-01]', async () => {
    await storeTasks(database.sql, 2, { queue, metadata: { trace: 7 }, doneAt: '-1 hour' })
    await storeWorker(database.sql, { id: 'mailer#1', queue })
    const claims = await claimAll([1])
    const next = { queue, worker: 'mailer#1', leaseToken: 'token of mailer#1', thresholdMs: 60_000 }
    await claim(database.db as unknown as Db, { ...next, running: 1, limit: 1 })
    const [first, second] = [await rowOf(database.sql, taskId(1)), await rowOf(database.sql, taskId(2))]
    expect(first).toMatchObject({ status: 'Running', lock_by: worker, done_at: null, attempts: 0 })
    const { id: _, run_at: __, lock_at: lockAt, lock_by: ___, ...changed } = first!
    expect(second).toMatchObject(changed)
    expect((lockAt as Date).getMilliseconds()).toBe(0)
    expect(claims).toEqual([
      {
        ...{ id: taskId(1), queue, worker, args: {}, attempt: 1, maxAttempts: 5, priority: 0 },
        ...{ runAt: first!['run_at'] as Date, metadata: { trace: 7 }, idempotencyKey: null },
      },
    ])
  })

  it.each([
    ['takes', 'Failed', 2, '[CLAIMID-02]'],
    ['refuses', 'Failed', 3, '[CLAIMID-03]'],
    ['refuses', 'Pending', 3, ''],
    ['refuses', 'Queued', 0, ''],
    ['refuses', 'Running', 0, ''],
  ])('%s a task that is %s with %i of 3 attempts charged %s', async (verb, status, attempts, _ids) => {
    await storeTask(database.sql, { id: taskId(1), queue, status, attempts, maxAttempts: 3, ...lockedUnless(status) })
    const before = await rowOf(database.sql, taskId(1))
    expect(await claimed([1])).toEqual(verb === 'takes' ? [taskId(1)] : [])
    if (verb === 'refuses') expect(await rowOf(database.sql, taskId(1))).toEqual(before)
    else expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Running', attempts })
  })

  it('refuses a task that is not due [CLAIMID-04]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, runAt: '1 hour' })
    expect(await claimed([1])).toEqual([])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Pending', lock_by: null })
  })

  it('leaves tasks that are not listed [CLAIMID-05]', async () => {
    await storeTasks(database.sql, 3, { queue })
    expect(await claimed([2])).toEqual([taskId(2)])
    const waiting = await database.sql`select id from apalis.jobs where status = 'Pending' order by id`
    expect(waiting.map(({ id }) => id as string)).toEqual([taskId(1), taskId(3)])
  })

  it('refuses a task of another queue [CLAIMID-06]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue: 'other' })
    expect(await claimed([1])).toEqual([])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Pending', lock_by: null })
  })

  it('takes exactly the claimable ones of a mixed list [CLAIMID-08]', async () => {
    const statuses = ['Pending', 'Done', 'Failed', 'Killed', 'Queued', 'Running', 'Pending']
    for (const [n, status] of statuses.entries()) {
      await storeTask(database.sql, { id: taskId(n), queue, status, attempts: 1, ...lockedUnless(status) })
    }
    expect((await claimed([0, 1, 2, 3, 4, 5, 6, 7, 99])).toSorted()).toEqual([taskId(0), taskId(2), taskId(6)])
  })

  it('finds none in an empty list', async () => {
    await storeTasks(database.sql, 1, { queue })
    expect(await claimed([])).toEqual([])
  })

  it('takes a task once that is listed twice, and refuses ids that are none', async () => {
    await storeTasks(database.sql, 1, { queue })
    const storage = new PostgresStorage(database.db, emails)
    expect(await caught(storage.claimByIds([taskId(1), '"} {'], worker))).toMatchObject({ argument: 'ids' })
    expect(await claimed([1, 1])).toEqual([taskId(1)])
    expect(await claimed([1])).toEqual([])
  })

  it('skips a task that another transaction has locked', async () => {
    await storeTasks(database.sql, 2, { queue })
    const held = await hold(database.sql, `select from apalis.jobs where id = '${taskId(1)}' for key share`)
    expect(await claimed([1, 2])).toEqual([taskId(2)])
    await held.release()
    expect(await claimed([1, 2])).toEqual([taskId(1)])
  })
})

describe('claim by id: order and owner', () => {
  it('goes by priority, then by age, whatever the order of the list [CLAIMID-07]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, runAt: '-1 minute' })
    await storeTask(database.sql, { id: taskId(2), queue, runAt: '-3 minutes' })
    await storeTask(database.sql, { id: taskId(3), queue, priority: 5, runAt: '-1 second' })
    expect(await claimed([1, 2, 3])).toEqual([taskId(3), taskId(2), taskId(1)])
  })

  describe('of more than fit into one statement', () => {
    const numbers = Array.from({ length: 250 }, (_, n) => n + 1)

    beforeEach(async () => {
      await database.sql`
        insert into apalis.jobs (job, id, job_type, priority, run_at, metadata)
          select '{}', '01TESTTASK' || lpad(n::text, 16, '0'), ${queue}, n % 3, now() - n * interval '1 second', '{}'
          from generate_series(1, ${numbers.length}::int) n`
    })

    it('keeps to the order of all', async () => {
      const statements: string[] = []
      const logger = { logQuery: (text: string) => statements.push(text) }
      const storage = new PostgresStorage(drizzle({ client: database.client, logger }), emails)
      const claims = await storage.claimByIds(numbers.map(taskId), worker)
      const inOrder = numbers.toSorted((a, b) => (b % 3) - (a % 3) || b - a)
      expect(claims.map(({ id }) => id)).toEqual(inOrder.map(taskId))
      expect(statements).toHaveLength(3)
    })

    it('hands back what it got when a later statement fails, uncharged', async () => {
      await database.sql.unsafe(`
        create function refuse() returns trigger language plpgsql as $$ begin raise 'refused'; end $$;
        create trigger refuse before update on apalis.jobs for each row when (new.id = '${taskId(150)}') execute function refuse()`)
      expect(await caught(claimed(numbers))).toMatchObject({ code: 'DATABASE', sqlState: 'P0001' })
      await database.sql.unsafe('drop trigger refuse on apalis.jobs')
      const [waiting] = await database.sql`
        select count(*)::int as count from apalis.jobs where status = 'Pending' and attempts = 0 and lock_by is null`
      expect(waiting).toEqual({ count: numbers.length })
    })
  })

  it.each([
    ['that is not registered', 'stranger', WorkerNotRegisteredError, 'register the worker'],
    ['that was not renewed', 'silent', WorkerNotRegisteredError, 'registerWorker(queue, name) again'],
    ['of a worker', 'mailer#1', AlreadyRegisteredError, 'a name of your own'],
  ])('gives nothing to a name %s, and says so', async (_, name, error, message) => {
    await storeTasks(database.sql, 1, { queue })
    await storeWorker(database.sql, { id: 'mailer#1', queue })
    await storeWorker(database.sql, { id: 'silent', queue, leaseToken: null, silentFor: '1 hour' })
    const refused = await caught(claimed([1], name))
    expect(refused).toBeInstanceOf(error)
    expect((refused as Error).message).toContain(message)
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Pending', lock_by: null })
    await admin(database.db).registerWorker(queue, 'silent')
    expect(await claimed([1], 'silent')).toEqual([taskId(1)])
  })

  it('charges a task that cannot be read, reports it and leaves it out', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, job: 'no json' })
    await storeTask(database.sql, { id: taskId(2), queue, job: '7' })
    await storeTask(database.sql, { id: taskId(3), queue })
    await database.sql`update apalis.jobs set run_at = '-infinity' where id = ${taskId(3)}`
    const events = recordEvents()
    const storage = new PostgresStorage(database.db, emails, { onEvent: events.onEvent })
    const claims = await storage.claimByIds([1, 2, 3].map(taskId), worker)
    expect(claims).toMatchObject([{ id: taskId(2), args: 7 }])
    expect((await events.next('task.failed')).cause).toBeInstanceOf(DecodeError)
    expect(await events.next('task.killed')).toMatchObject({ id: taskId(3), queue, worker })
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Failed', attempts: 1 })
    expect(await rowOf(database.sql, taskId(3))).toMatchObject({ status: 'Killed', attempts: 1, lock_by: null })
  })
})

describe('claim by id: plan', () => {
  it.each(['force_generic_plan', 'force_custom_plan'])('looks its tasks up, under %s', async (mode) => {
    await database.sql.unsafe(`
      insert into apalis.jobs (job, id, job_type, metadata)
        select '{}', 'W' || lpad(n::text, 25, '0'), 'emails', '{}' from generate_series(1, 20000) n;
      analyze apalis.jobs`)
    const ids = Array.from({ length: 20 }, (_, n) => `W${String(n * 900 + 1).padStart(25, '0')}`)
    const request = { queue, worker, ids, thresholdMs: 60_000, again: true }
    const taking = (db: Db) => lockTasks(db, request)
    const plan = await explain(database, taking, `set local plan_cache_mode = ${mode}`)
    expect(plan.nodes, plan.text).toContain('Index Scan jobs_pkey')
    expect(plan.nodes, plan.text).not.toContain('Seq Scan jobs')
    expect(plan.widest, plan.text).toBeLessThanOrEqual(20)
    expect(plan.buffers, plan.text).toBeLessThan(25 * ids.length)
  })
})

function lockedUnless(status: string): { lockBy?: string } {
  return status === 'Pending' ? {} : { lockBy: worker }
}
