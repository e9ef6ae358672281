/**
 * Shows that a schema of somebody else's in the search_path changes nothing, whatever it contains.
 *
 * Tables are named with their schema, and PostgreSQL looks into pg_catalog first. But among functions and operators it
 * takes the one that fits best, from any schema of the path: `power(2, 3)`, for which pg_catalog has no form for integers,
 * calls `public.power(integer, integer)` if there is one. So the statements leave nothing to fit better.
 */
import {
  admin,
  defineQueue,
  PostgresStorage,
  pushTaskWithTx,
  pushTasksWithTx,
  setup,
  verifySchema,
  type PgDb,
} from 'apalis-drizzle'
import { recordEvents } from 'apalis-drizzle/testing'
import { drizzle } from 'drizzle-orm/postgres-js'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ackUnlessLocked, statusOfClaims } from '../src/statements/ack.js'
import { blockingSessions } from '../src/statements/blocking-sessions.js'
import { claim, claimAbove } from '../src/statements/claim.js'
import { findCancelled } from '../src/statements/find-cancelled.js'
import { idsWithTakenKey, storedIds } from '../src/statements/find-tasks.js'
import { heartbeat } from '../src/statements/heartbeat.js'
import { lockTasks } from '../src/statements/lock-tasks.js'
import { markRunning } from '../src/statements/mark-running.js'
import { nextDueMs } from '../src/statements/next-due.js'
import { ownerStanding } from '../src/statements/owner-standing.js'
import { endedQueues, pruneTasks, pruneWorkers } from '../src/statements/prune.js'
import { registerByAdmin } from '../src/statements/register-by-admin.js'
import { namesInUse, register, release } from '../src/statements/register.js'
import { indexBuildUnderWay, tryLockIndexBuild } from '../src/statements/setup-locks.js'
import { sweep } from '../src/statements/sweep.js'
import { encodeBatch } from '../src/vocabulary/batch.js'
import type { Db } from '../src/vocabulary/db.js'
import type { Fence } from '../src/vocabulary/outcome.js'
import { STATUSES } from '../src/schema.js'
import { announcements } from './support/announcements.js'
import { useDatabase } from './support/database.js'
import { clearTasks, rowOf, storeTask, storeWorker, taskId } from './support/rows.js'
import { serverHasRunForASecond } from './support/uptime.js'

const database = useDatabase()
const emails = defineQueue<string>('emails', { retry: () => 0 })

/** The texts of the statements that the library runs. */
const texts = new Set<string>()

beforeEach(() => clearTasks(database.sql))

/** Every statement once, in sessions with these settings. */
async function runEverything(connection: Record<string, string> = {}): Promise<void> {
  const { client } = database.connect({ connection })
  const db = drizzle({ client, logger: { logQuery: (text) => texts.add(text) } })
  await runPushes(db)
  await clearTasks(database.sql)
  await runWork(db as unknown as Db)
  await runReads(db)
  await clearTasks(database.sql)
  await runSteering(db)
  await runSetup(db)
  await client.end()
}

async function runPushes(db: PgDb): Promise<void> {
  const storage = new PostgresStorage(db, emails)
  const keyed = (key: string) => emails.task('a', { idempotencyKey: key, metadata: { trace: key }, delayMs: 1 })
  const run = db.transaction.bind(db) as (use: (tx: never) => Promise<unknown>) => Promise<unknown>
  await run(async (tx) => {
    await pushTaskWithTx(tx, keyed('a'))
    expect(await pushTasksWithTx(tx, [keyed('a'), keyed('b')], { onConflict: 'doNothing' })).toEqual([
      undefined,
      expect.any(String),
    ])
    const quiet = defineQueue<string>('quiet', { notify: 'never' })
    await pushTaskWithTx(tx, quiet.task('a'))
  })
  await storage.push('a', { runAt: new Date() })
  await storage.pushTasks([keyed('c'), emails.task('d')])
  const pushed = await encodeBatch([keyed('c')])
  expect(await idsWithTakenKey(db as unknown as Db, pushed)).toEqual(new Set([pushed[0]!.id]))
  expect(await storedIds(db as unknown as Db, pushed)).toEqual(new Set())
}

async function runWork(db: Db): Promise<void> {
  const queue = 'emails'
  await serverHasRunForASecond(database.sql)
  const mine = { queue, worker: 'mailer#1', leaseToken: 't', thresholdMs: 1_000 }
  await storeWorker(database.sql, { id: 'silent#1', queue, silentFor: '1 hour' })
  await storeTask(database.sql, { id: taskId(9), queue, status: 'Running', lockBy: 'silent#1' })
  await storeTask(database.sql, { id: taskId(1), queue })
  await storeTask(database.sql, { id: taskId(2), queue, status: 'Failed', attempts: 1, doneAt: '-1 minute' })
  expect(await namesInUse(db, queue, 'silent', 't', 1_000)).toEqual([{ name: 'silent#1', stale: true, own: false }])
  expect(await register(db, { ...mine, storageName: 's', layers: '' })).toEqual([])
  expect(await nextDueMs(db, queue)).toBeLessThan(0)
  const [first] = await claim(db, { ...mine, running: 0, limit: 1 })
  const [second] = await claimAbove(db, { ...mine, running: 0, limit: 1 }, [first!])
  expect([first?.id, second?.id]).toEqual([taskId(1), taskId(2)])
  expect(await markRunning(db, queue, 'mailer#1', [first!])).toEqual(new Set([taskId(1)]))
  expect(await heartbeat(db, queue, 'mailer#1', 't')).toMatchObject({ registered: true, owned: [{}, {}] })
  const done = [{ fence: first!, outcome: { status: 'Done', result: '{"Ok":null}' } as const }]
  expect(await ackUnlessLocked(db, queue, 'mailer#1', done)).toEqual(new Map([[taskId(1), 'Done']]))
  expect(await statusOfClaims(db, queue, 'mailer#1', done)).toEqual(new Map([[taskId(1), 'Done']]))
  const failed = { status: 'Failed', result: '{"Err":"x"}', due: { delayMs: 0 } } as const
  expect(await ackUnlessLocked(db, queue, 'mailer#1', [{ fence: second!, outcome: failed }])).toEqual(
    new Map([[taskId(2), 'Failed']]),
  )
  expect(await sweep(db, queue, 1_000)).toMatchObject([{ id: taskId(9), status: 'Pending', attempts: 1 }])
  const lock = { queue, worker: 'mailer#1', thresholdMs: 10_000, ids: [taskId(2)], again: true }
  expect(await lockTasks(db, lock)).toEqual([])
  expect(await ownerStanding(db, { ...lock, taskId: taskId(2) })).toEqual({ queue, standing: 'worker' })
  expect(await release(db, mine)).toBe(true)
  await registerByAdmin(db, queue, 'mailer#1')
  expect(await lockTasks(db, lock)).toMatchObject([{ id: taskId(2), status: 'Running', queue }])
}

async function runSteering(db: PgDb): Promise<void> {
  const everything = admin(db)
  await storeWorker(database.sql, { id: 'mailer#1', queue: 'emails' })
  await storeTask(database.sql, { id: taskId(1), queue: 'emails', status: 'Running', lockBy: 'mailer#1', lockAt: '0' })
  const [fence] = await database.sql<Fence[]>`
    select id, attempts, extract(epoch from lock_at)::float8 as "lockAt" from apalis.jobs`
  for (const which of [{ ids: [taskId(1)] }, { queue: 'emails' }]) {
    const one = { changed: [taskId(1)], refused: [] }
    expect(await everything.cancel(which)).toEqual(one)
    if ('ids' in which) {
      expect(await findCancelled(db as unknown as Db, 'emails', 'mailer#1', [fence!])).toEqual(new Set([taskId(1)]))
    }
    expect(await everything.retryNow(which)).toEqual(one)
    expect(await everything.reschedule(which, new Date())).toEqual(one)
    expect(await everything.setPriority(which, 7)).toEqual(one)
  }
  await everything.cancel({ queue: 'emails' })
  expect((await everything.remove({ ids: [taskId(1)] })).changed).toHaveLength(1)
  expect((await everything.remove({ queue: 'emails' })).changed).toEqual([])
}

async function runReads(db: PgDb): Promise<void> {
  const statements = db as unknown as Db
  const storage = new PostgresStorage(db, emails)
  const everything = admin(db)
  await everything.registerWorker('emails', 'reporter')
  expect(await storage.fetchById(taskId(1))).toMatchObject({ status: 'Done' })
  expect(await storage.checkStatus([taskId(1), taskId(2)])).toMatchObject([{ id: taskId(1), status: 'Done' }])
  await everything.pause('emails')
  await everything.resume('emails')
  for (const status of STATUSES) {
    const tasks = await everything.listAllTasks({ status })
    expect(await storage.listTasks({ status })).toEqual(tasks)
    const after = tasks.at(-1)?.cursor
    if (after !== undefined) expect(await storage.listTasks({ status, after })).toEqual([])
  }
  expect(await storage.listWorkers()).toEqual(await everything.listAllWorkers())
  // Durations go on between the two calls.
  const titles = (statistics: readonly { title: string }[]) => statistics.map(({ title }) => title)
  expect(titles(await storage.metrics())).toEqual(titles(await everything.metrics()))
  expect(await everything.listQueues()).toMatchObject([{ name: 'emails' }])
  expect(await everything.queueDepths()).toMatchObject([{ queue: 'emails' }])
  await everything.refreshQueueStatsSnapshot()
  expect(await everything.queueStatsSnapshot()).toMatchObject([{ queue: 'emails', done: 1 }])
  expect(await storage.checkStatus([taskId(1), taskId(2), taskId(3)])).toMatchObject([{ status: 'Done' }])
  expect(await endedQueues(statements)).toEqual(['emails'])
  for (const status of ['Done', 'Failed', 'Killed'] as const) {
    const request = { queue: 'emails', status, olderThanMs: 0, newlyOldMs: 60_000, limit: 10, fromUs: '0', alone: true }
    await pruneTasks(statements, request)
  }
  expect(await rowOf(database.sql, taskId(1))).toBeUndefined()
  await pruneWorkers(statements, 1_000)
  await everything.pause('emails')
  await everything.resume('emails')
}

async function runSetup(db: PgDb): Promise<void> {
  const statements = db as unknown as Db
  await verifySchema(db)
  await database.sql`drop index apalis.jobs_failed_idx`
  await database.sql`drop function apalis.get_jobs`
  await database.sql`delete from apalis_drizzle.migrations where name = '0001_get_jobs'`
  await setup(db)
  await verifySchema(db)
  await blockingSessions(statements)
  await tryLockIndexBuild(statements)
  await indexBuildUnderWay(statements)
}

/** Functions of pg_catalog that the statements call without a schema; `condition` is on the forms of a function. */
async function calledFunctions(condition: string): Promise<string[]> {
  // Not the statements that define something: what they call is resolved when it runs, by a path of its own.
  const called = [...texts]
    .filter((text) => !/^(--|create|alter|refresh|do) /i.test(text.trimStart()))
    .flatMap((text) => [...text.matchAll(CALL)].map(([, name]) => name!))
  const rows = await database.sql<{ name: string }[]>`
    select distinct proname as name from pg_proc
    where pronamespace = 'pg_catalog'::regnamespace and proname = any (${called}) and ${database.sql.unsafe(condition)}
    order by 1`
  return rows.map(({ name }) => name)
}

/** Several arguments of `unnest`, which begin with a parameter, are the parser's own affair, and always pg_catalog's. */
const CALL = /(?<![\w".])(?!unnest\(\s*\$\d+::\w+\[\],)([a-z_]\w*) ?\(/g

it('no function is called without a schema that takes any type, and could be outdone by one for the very type', async () => {
  await runEverything()
  const takesAnyType = `exists (select from pg_type where oid = any (proargtypes) and typtype = 'p')
    -- These have a form for each type that is asked of them.
    and proname not in ('count', 'max', 'min')`
  expect(await calledFunctions(takesAnyType)).toEqual([])
})

describe('a hostile schema', () => {
  const TYPES = [
    ...['integer', 'bigint', 'double precision', 'numeric', 'text', 'varchar', 'name', 'text[]', 'jsonb', 'oid'],
    ...['timestamptz', 'timestamp', 'date', 'interval'],
  ]
  const OPERATORS = ['+', '-', '*', '/', '=', '<>', '<', '<=', '>', '>=', '||', '?', '~~', '->', '->>']

  /** All functions and operators that the library calls, for all pairs of types, and tables with the names of its own. */
  beforeAll(async () => {
    const list = (names: string[]) => names.map((name) => `'${name}'`).join()
    await database.sql.unsafe(`
      create schema evil;
      create table evil.jobs (id int);
      create table evil.workers (id int);
      create table evil.paused_queues (id int);
      create table evil.migrations (id int);
      create table evil.pg_matviews (id int);
      create table evil.pg_class (id int);
      set check_function_bodies = off;
      do $do$
      declare
        types text[] := array[${list(TYPES)}];
        body text := $$ returns int language plpgsql as 'begin raise exception ''trapped''; end' $$;
        name text; a text; b text;
      begin
        foreach name in array array[${list([...(await calledFunctions('true')), 'trap'])}] loop
          execute format('create function evil.%I()', name) || body;
          foreach a in array types loop
            execute format('create function evil.%I(%s)', name, a) || body;
            foreach b in array types loop
              execute format('create function evil.%I(%s, %s)', name, a, b) || body;
            end loop;
          end loop;
        end loop;
        foreach a in array types loop
          foreach b in array types loop
            foreach name in array array[${list(OPERATORS)}] loop
              execute format('create operator evil.%s (leftarg = %s, rightarg = %s, function = evil.trap)', name, a, b);
            end loop;
          end loop;
        end loop;
      end $do$`)
  })

  it('in front of the path is never asked', async () => {
    await runEverything({ search_path: 'evil, public' })
  })

  it('in front of the path is never asked by the connections of a worker', async () => {
    const { db } = database.connect({ connection: { search_path: 'evil, public' } })
    const events = recordEvents()
    const settings = { keepAliveMs: 10, reenqueueOrphanedAfterMs: 1_000 }
    const storage = new PostgresStorage(db, emails, { onEvent: events.onEvent, ...settings })
    await serverHasRunForASecond(database.sql)
    const worker = storage.worker(() => undefined)
    await storeWorker(database.sql, { id: 'silent#1', queue: 'emails', silentFor: '1 hour' })
    await storeTask(database.sql, { id: taskId(1), queue: 'emails', status: 'Running', lockBy: 'silent#1' })
    await worker.start()
    const id = await storage.push('a')
    await events.next('task.done', (event) => event.id === id)
    await events.next('orphan.swept')
    await worker.stop()
    expect(events.all.filter(({ level }) => level === 'error')).toEqual([])
  })

  it('is not asked by the functions of the database either, even if it is put before pg_catalog', async () => {
    const { client } = database.connect({ max: 1, fetch_types: false, connection: { search_path: 'evil, pg_catalog' } })
    await storeWorker(database.sql, { id: 'mailer#1', queue: 'emails' })
    const announced = await announcements(database.sql, async () => {
      await client`insert into apalis.jobs (job, id, job_type) values ('', ${taskId(1)}, 'emails')`
      await client`select apalis.get_jobs('mailer#1', 'emails')`
    })
    expect(announced).toEqual([`{"job_type" : "emails", "ids" : ["${taskId(1)}"]}`])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Queued', lock_by: 'mailer#1' })
  })
})
