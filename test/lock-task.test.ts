/**
 * Shows which task can be locked by id, for which worker, and that its claim is acknowledged as any other.
 */
import {
  admin,
  AlreadyRegisteredError,
  DatabaseError,
  DecodeError,
  defineQueue,
  InvalidArgumentError,
  PostgresStorage,
  StaleAcknowledgementError,
  TaskNotFoundError,
  WorkerNotRegisteredError,
  type Claim,
  type Outcome,
  type StorageConfig,
} from 'apalis-drizzle'
import { recordEvents } from 'apalis-drizzle/testing'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { onEndedHere } from '../src/processes/ended-here.js'
import { acknowledge } from '../src/processes/handed-out.js'
import { sweep } from '../src/statements/sweep.js'
import type { Db } from '../src/vocabulary/db.js'
import { definitionOf } from '../src/vocabulary/definition.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import { startProxy } from './support/proxy.js'
import { clearTasks, rowOf, storeTask, storeWorker, taskId, type StoredTask } from './support/rows.js'
import { serverHasRunForASecond } from './support/uptime.js'

const database = useDatabase()
const { queue, worker, id } = { queue: 'emails', worker: 'consumer', id: taskId(1) }
const emails = defineQueue<number, string>(queue, { retry: { baseMs: 60_000 } })
const DONE: Outcome<string> = { status: 'Done', result: 'sent' }

beforeEach(async () => {
  await clearTasks(database.sql)
  for (const name of [worker, 'somebody else']) await storeWorker(database.sql, { id: name, queue, leaseToken: null })
})

const storage = (config: StorageConfig = {}) =>
  new PostgresStorage(database.db, emails, { onEvent: () => undefined, ...config })
const row = () => rowOf(database.sql, id)

async function stored(task: Partial<StoredTask> = {}): Promise<void> {
  await storeTask(database.sql, { id, queue, job: '7', ...task })
}

async function locked(task: Partial<StoredTask> = {}): Promise<Claim<number>> {
  await stored(task)
  return storage().lockTask(id, worker)
}

describe('lockTask: which tasks', () => {
  it.each<[string, Partial<StoredTask>]>([
    ['Pending and due [LOCK-01] [LOCK-13]', { doneAt: '-1 hour' }],
    ['Queued by the same name [LOCK-03]', { status: 'Queued', lockBy: worker }],
    ['Failed, with an attempt left [LOCK-07]', { status: 'Failed', attempts: 1, maxAttempts: 2 }],
    ['Failed before, for somebody else', { status: 'Failed', attempts: 1, lockBy: 'somebody else' }],
  ])('takes one that is %s', async (_, task) => {
    const claim = await locked({ metadata: { trace: 7 }, ...task })
    const attempts = task.attempts ?? 0
    expect(await row()).toMatchObject({ status: 'Running', lock_by: worker, done_at: null, attempts })
    expect(claim).toMatchObject({ id, queue, worker, args: 7, attempt: attempts + 1, metadata: { trace: 7 } })
  })

  it('takes one again that the same name is running, and keeps its lock time [LOCK-05]', async () => {
    await stored({ status: 'Running', lockBy: worker, lockAt: '-5 minutes' })
    const before = await row()
    const claim = await storage().lockTask(id, worker)
    expect(await row()).toEqual(before)
    await storage().ack(claim, DONE)
    expect(await row()).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it.each<[string, Partial<StoredTask>]>([
    ['not due [LOCK-02]', { runAt: '1 hour' }],
    ['Queued by somebody else [LOCK-04]', { status: 'Queued', lockBy: 'somebody else' }],
    ['Running for somebody else [LOCK-06]', { status: 'Running', lockBy: 'somebody else' }],
    ['Failed, without an attempt left [LOCK-08]', { status: 'Failed', attempts: 2, maxAttempts: 2 }],
    ['Failed, and waits for its retry', { status: 'Failed', attempts: 1, lockBy: worker, runAt: '1 hour' }],
    ['Done [LOCK-09]', { status: 'Done', attempts: 1, lockBy: worker }],
    ['Killed [LOCK-10]', { status: 'Killed', attempts: 1, lockBy: worker }],
    ['of another queue [LOCK-14]', { queue: 'other' }],
  ])('refuses one that is %s, and leaves it as it is [LOCK-11]', async (_, task) => {
    await storeWorker(database.sql, { id: worker, queue: 'other', leaseToken: null })
    await stored(task)
    const before = await row()
    const refused = await caught(storage().lockTask(id, worker))
    expect(refused).toBeInstanceOf(TaskNotFoundError)
    expect(refused).toMatchObject({ operation: 'lockTask', taskId: id, queue })
    expect((refused as Error).message).toContain('lockTask')
    expect(await row()).toEqual(before)
  })

  it('refuses an id that does not exist, and names it [LOCK-12]', async () => {
    expect(await caught(storage().lockTask(id, worker))).toMatchObject({
      code: 'TASK_NOT_FOUND',
      message: expect.stringContaining(id),
    })
    expect(await caught(admin(database.db).lockTask(id, worker))).toMatchObject({
      code: 'TASK_NOT_FOUND',
      queue: undefined,
    })
  })

  it('waits for no other transaction: what one has locked is refused', async () => {
    await stored()
    const held = await hold(database.sql, `select from apalis.jobs where id = '${id}' for key share`)
    expect(await caught(storage().lockTask(id, worker))).toBeInstanceOf(TaskNotFoundError)
    await held.release()
    expect(await storage().lockTask(id, worker)).toMatchObject({ id })
  })

  it('takes nothing from a paused queue but what the name holds', async () => {
    const claim = await locked()
    await storeTask(database.sql, { id: taskId(2), queue, job: '8' })
    await admin(database.db).pause(queue)
    expect(await caught(storage().lockTask(taskId(2), worker))).toBeInstanceOf(TaskNotFoundError)
    expect(await storage().claimByIds([taskId(2)], worker)).toEqual([])
    expect(await storage().lockTask(id, worker)).toEqual(claim)
    await admin(database.db).resume(queue)
    expect(await storage().lockTask(taskId(2), worker)).toMatchObject({ args: 8 })
  })

  it('charges a task that cannot be read, and says why', async () => {
    await stored({ job: 'no json' })
    const events = recordEvents()
    const refused = await caught(storage({ onEvent: events.onEvent }).lockTask(id, worker))
    expect(refused).toBeInstanceOf(DecodeError)
    expect(await events.next('task.failed')).toMatchObject({ id, attempt: 1, worker })
    expect(await row()).toMatchObject({ status: 'Failed', attempts: 1 })
  })
})

describe('lockTask: for whom', () => {
  const unregistered = [
    ['is not registered in the queue [LOCK-15]', 'stranger', WorkerNotRegisteredError, 'register the worker first'],
    ['was not renewed for too long', 'silent', WorkerNotRegisteredError, 'registerWorker(queue, name) again'],
    ['is that of a worker', 'mailer#1', AlreadyRegisteredError, 'a name of your own'],
  ] as const

  beforeEach(async () => {
    await storeWorker(database.sql, { id: 'stranger', queue: 'other', leaseToken: null })
    await storeWorker(database.sql, { id: 'silent', queue, leaseToken: null, silentFor: '1 hour' })
    await storeWorker(database.sql, { id: 'mailer#1', queue })
  })

  it.each(unregistered)('refuses a name that %s, and says what to do', async (_, name, error, message) => {
    await stored()
    await storeTask(database.sql, { id: taskId(2), queue: 'other' })
    for (const door of [storage(), admin(database.db)]) {
      const refusal = await caught(door.lockTask(id, name))
      expect(refusal).toBeInstanceOf(error)
      expect(refusal).toMatchObject({ queue, worker: name, message: expect.stringContaining(message) })
    }
    expect(await row()).toMatchObject({ status: 'Pending', lock_by: null })
  })

  it.each(unregistered)('leaves a transaction usable when the name %s', async (_, name, error) => {
    await stored()
    await database.db.transaction(async (tx) => {
      expect(await caught(admin(tx).lockTask(id, name))).toBeInstanceOf(error)
      expect(await admin(tx).lockTask(id, worker)).toMatchObject({ id })
    })
    expect(await row()).toMatchObject({ status: 'Running', lock_by: worker })
  })

  it('counts the silence by the setting of the storage', async () => {
    await stored()
    const patient = storage({ reenqueueOrphanedAfterMs: 7_200_000 })
    expect(await patient.lockTask(id, 'silent')).toMatchObject({ id })
  })

  it('registers again by registerWorker, which keeps the claims of the name', async () => {
    await stored({ status: 'Running', lockBy: 'silent' })
    await admin(database.db).registerWorker(queue, 'silent')
    expect(await sweep(database.db as unknown as Db, queue, 300_000)).toEqual([])
    await storage().ack(await storage().lockTask(id, 'silent'), DONE)
    expect(await row()).toMatchObject({ status: 'Done', lock_by: 'silent' })
  })

  it('loses its tasks, charged, when it is not renewed; its acknowledgement is stale', async () => {
    await serverHasRunForASecond(database.sql)
    const claim = await locked()
    await database.sql`update apalis.workers set last_seen = now() - interval '1 hour' where id = ${worker}`
    expect(await sweep(database.db as unknown as Db, queue, 1_000)).toMatchObject([{ id, status: 'Pending' }])
    expect(await caught(storage().ack(claim, DONE))).toBeInstanceOf(StaleAcknowledgementError)
    expect(await row()).toMatchObject({ status: 'Pending', attempts: 1 })
  })

  it('refuses a name that a worker has taken over, and one that a worker has released [NEXT-11]', async () => {
    await stored()
    await database.sql`update apalis.workers set lease_token = 'of a worker' where id = ${worker}`
    expect(await caught(storage().lockTask(id, worker))).toBeInstanceOf(AlreadyRegisteredError)
    await database.sql`
      update apalis.workers set lease_token = null, last_seen = now() - interval '300 seconds' where id = ${worker}`
    expect(await caught(storage().lockTask(id, worker))).toBeInstanceOf(WorkerNotRegisteredError)
    expect(await row()).toMatchObject({ status: 'Pending', lock_by: null })
  })

  it.each<[string, () => Promise<unknown>]>([
    ['worker [LOCK-17]', () => unreachable().lockTask(id, undefined as never)],
    ['worker, for any queue', () => admin(unreachable().db).lockTask(id, '')],
    ['worker, for many', () => unreachable().claimByIds([id], 'a\0b')],
    ['id [LOCK-18]', () => unreachable().lockTask(undefined as never, worker)],
    ['id, for any queue', () => admin(unreachable().db).lockTask('1', worker)],
  ])('refuses, before any SQL, a call without %s', async (_, call) => {
    expect(await caught(call())).toBeInstanceOf(InvalidArgumentError)
  })

  it('says that the database cannot be reached [LOCK-19]', async () => {
    const refused = await caught(unreachable().lockTask(id, worker))
    expect(refused).toBeInstanceOf(DatabaseError)
    expect((refused as Error).message).toMatch(/locking tasks by id.*ECONNREFUSED/)
  })
})

describe('lockTask: its claim', () => {
  it.each<[string, Outcome<string>, object]>([
    ['Done [NEXT-05] [NEXT-10]', DONE, { status: 'Done', attempts: 1, last_result: { Ok: 'sent' } }],
    ['Failed', { status: 'Failed', error: 'no' }, { status: 'Failed', attempts: 1, last_result: { Err: 'no' } }],
    ['Killed', { status: 'Killed', error: 'no' }, { status: 'Killed', attempts: 1, last_result: { Err: 'no' } }],
  ])('is acknowledged as %s', async (_, outcome, expected) => {
    const claim = await locked()
    // Until then it stays as it is, however long that takes.
    expect(await row()).toMatchObject({ status: 'Running', attempts: 0, last_result: null })
    const events = recordEvents()
    await storage({ onEvent: events.onEvent }).ack(claim, outcome)
    expect(await row()).toMatchObject({ ...expected, lock_by: worker })
    expect(events.all).toMatchObject([{ type: `task.${outcome.status.toLowerCase()}`, id, attempt: 1, worker, queue }])
  })

  it('tells those who wait in the same process, once it is recorded', async () => {
    const claim = await locked()
    const told: string[] = []
    onTestFinished(
      onEndedHere(database.db as unknown as Db, (ended) => {
        told.push(ended)
      }),
    )
    await storage().ack(claim, DONE)
    expect(told).toEqual([id])
    expect(await storage().waitForSingle(id)).toEqual({ id, status: 'Done', result: 'sent' })
  })

  it('waits for its retry as the queue says, and reports a retry function that fails', async () => {
    await stored()
    const events = recordEvents()
    const retry = () => {
      throw new Error('broken')
    }
    const broken = new PostgresStorage(database.db, defineQueue<number, string>(queue, { retry }), {
      onEvent: events.onEvent,
    })
    await broken.ack(await broken.lockTask(id, worker), { status: 'Failed', error: 'no' })
    expect(await events.next('worker.error')).toMatchObject({ operation: 'computing the delay of a retry' })
    expect(await caught(storage().lockTask(id, worker))).toBeInstanceOf(TaskNotFoundError)
  })

  it('counts once: the second acknowledgement is refused and changes nothing [NEXT-19]', async () => {
    const claim = await locked()
    await storage().ack(claim, DONE)
    const after = await row()
    expect(await caught(storage().ack(claim, { status: 'Killed', error: 'late' }))).toMatchObject({
      code: 'STALE_ACKNOWLEDGEMENT',
      message: expect.stringContaining('it is acknowledged already') as string,
      taskId: id,
      worker,
    })
    expect(await row()).toEqual(after)
  })

  it.each([
    ['of one claim', false],
    ['of a claim and of the same one locked again', true],
  ])('lets one of two acknowledgements at the same time win, %s [NEXT-20]', async (_, again) => {
    const first = await locked()
    const second = again ? await storage().lockTask(id, worker) : first
    const outcomes: [Claim<number>, Outcome<string>][] = [
      [first, DONE],
      [second, { status: 'Killed', error: 'other' }],
    ]
    const acks = await Promise.allSettled(outcomes.map(([claim, outcome]) => storage().ack(claim, outcome)))
    expect(acks.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected'])
    const refused = acks.find(({ status }) => status === 'rejected')
    expect(refused).toMatchObject({ reason: expect.any(StaleAcknowledgementError) })
    const won = acks[0]?.status === 'fulfilled' ? 'Done' : 'Killed'
    expect(await row()).toMatchObject({ status: won, attempts: 1 })
  })

  it('goes by the attempt of the database, whatever the object says [NEXT-18]', async () => {
    const claim = await locked({ attempts: 1 })
    Object.assign(claim, { attempt: 2 ** 40, worker: 'somebody else' })
    await storage().ack(claim, DONE)
    expect(await row()).toMatchObject({ status: 'Done', attempts: 2, lock_by: worker })
  })

  it('is over after its only attempt, also for an application that tries again by itself [NEXT-14]', async () => {
    const claim = await locked({ maxAttempts: 1 })
    const work = () => storage().ack(claim, { status: 'Failed', error: 'no' })
    await work()
    expect(await caught(work())).toBeInstanceOf(StaleAcknowledgementError)
    expect(await row()).toMatchObject({ status: 'Killed', attempts: 1 })
    expect(await caught(storage().lockTask(id, worker))).toBeInstanceOf(TaskNotFoundError)
  })

  it('is tried again while another session holds its task, and takes no connection meanwhile', async () => {
    const claim = await locked()
    const held = await hold(database.sql, `select from apalis.jobs where id = '${id}' for update`)
    onTestFinished(() => held.release())
    const acknowledged = storage().ack(claim, DONE)
    await storage().push(1)
    expect(await row()).toMatchObject({ status: 'Running' })
    await held.release()
    await acknowledged
    expect(await row()).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it('counts although its answer was lost with the connection', async () => {
    const proxy = await startProxy(database.url)
    const client = postgres(proxy.url, { max: 2, onnotice: () => undefined })
    onTestFinished(async () => {
      await client.end({ timeout: 0 })
      await proxy.stop()
    })
    const proxied = new PostgresStorage(drizzle({ client }), emails, { onEvent: () => undefined })
    await stored()
    const claim = await proxied.lockTask(id, worker)
    const lost = proxy.loseAnswer('sent through the proxy')
    await proxied.ack(claim, { status: 'Done', result: 'sent through the proxy' })
    await lost
    expect(await row()).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it('is not tried for ever, and says what to do then', async () => {
    const claim = await locked()
    const held = await hold(database.sql, `select from apalis.jobs where id = '${id}' for update`)
    onTestFinished(() => held.release())
    const config = { onEvent: () => undefined }
    const consumer = { db: database.db as unknown as Db, queue: definitionOf(emails), config, deadlineMs: 100 }
    const refused = await caught(acknowledge(consumer, claim, DONE))
    expect(refused).toBeInstanceOf(DatabaseError)
    expect((refused as Error).message).toContain('lockTask claims the task again')
    await held.release()
    expect(await storage().lockTask(id, worker)).toMatchObject({ id, attempt: 1 })
  })

  it('needs the storage of its own queue', async () => {
    const claim = await locked()
    const other = new PostgresStorage(database.db, defineQueue<number, string>('other'))
    expect(await caught(other.ack(claim, DONE))).toMatchObject({ argument: 'claim' })
    await storage().ack(claim, DONE)
  })

  it('needs no lock when a worker or a loop made it: its row is written by claim and acknowledgement alone [LOCK-20]', async () => {
    await stored()
    await database.sql.unsafe(`
      create table writes (status text);
      create function note() returns trigger language plpgsql as $$ begin insert into writes values (new.status); return new; end $$;
      create trigger note before update on apalis.jobs for each row execute function note()`)
    for await (const claim of storage({ listen: false }).poll({ worker: 'loop' })) {
      await storage().ack(claim, DONE)
      break
    }
    await database.sql.unsafe('drop trigger note on apalis.jobs')
    expect((await database.sql`select status from writes`).map(({ status }) => status as string)).toEqual([
      'Running',
      'Done',
    ])
  })
})

describe('admin.lockTask', () => {
  it('takes a task of any queue in which the name is registered, for its storage to acknowledge', async () => {
    await stored()
    const claim = await admin(database.db).lockTask(id, worker)
    expect(claim).toMatchObject({ id, queue, worker, args: 7, attempt: 1 })
    await storage().ack(claim as Claim<number>, DONE)
    expect(await row()).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it('holds when its transaction commits, and never was when it rolls back', async () => {
    await stored()
    let claim: Claim<unknown> | undefined
    const rolledBack = database.db.transaction(async (tx) => {
      claim = await admin(tx).lockTask(id, worker)
      tx.rollback()
    })
    await caught(rolledBack)
    expect(await row()).toMatchObject({ status: 'Pending', attempts: 0, lock_by: null })
    expect(await caught(storage().ack(claim as Claim<number>, DONE))).toBeInstanceOf(StaleAcknowledgementError)

    const again = await database.db.transaction((tx) => admin(tx).lockTask(id, worker))
    await storage().ack(again as Claim<number>, DONE)
    expect(await row()).toMatchObject({ status: 'Done' })
  })

  it('is acknowledged in the same transaction by ackWithTx, or not at all', async () => {
    await stored()
    const lockAndAck = (end: 'commit' | 'rollback') =>
      database.db.transaction(async (tx) => {
        const claim = await admin(tx).lockTask(id, worker)
        await storage().ackWithTx(tx, claim as Claim<number>, DONE)
        if (end === 'rollback') tx.rollback()
      })
    await caught(lockAndAck('rollback'))
    expect(await row()).toMatchObject({ status: 'Pending', attempts: 0, lock_by: null })
    await lockAndAck('commit')
    expect(await row()).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent' } })
  })

  it('goes by the time of the call, however long its transaction has been open', async () => {
    await stored()
    await database.db.transaction(async (tx) => {
      // Longer than the shortest threshold, with which the name would be silent before it was registered.
      await tx.execute('select pg_sleep(1.1)')
      await admin(tx).registerWorker(queue, worker)
      await admin(tx).lockTask(id, worker)
      await tx.execute('create table began as select now() as at')
    })
    const [late] = await database.sql`
      select last_seen >= at + interval '1.1 seconds' as registered, lock_at >= date_trunc('second', at + interval '1.1 seconds') as locked
      from began, apalis.jobs join apalis.workers on workers.id = lock_by where jobs.id = ${id}`
    expect(late).toEqual({ registered: true, locked: true })
  })

  it('returns a task that it cannot read, uncharged', async () => {
    await stored({ job: 'of another codec' })
    expect(await caught(admin(database.db).lockTask(id, worker))).toBeInstanceOf(DecodeError)
    expect(await row()).toMatchObject({ status: 'Pending', attempts: 0, lock_by: null })
  })
})

function unreachable(): PostgresStorage<number, string> {
  const client = postgres('postgres://127.0.0.1:1/none', { max: 1 })
  onTestFinished(() => client.end())
  return new PostgresStorage(drizzle({ client }), emails)
}
