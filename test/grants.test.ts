/**
 * Shows what the roles of `npx apalis-drizzle sql --grants` can do, each with the calls it is meant for, and what the
 * server refuses them.
 */
import { randomBytes } from 'node:crypto'
import {
  AbortTaskError,
  admin,
  defineQueue,
  isApalisError,
  PostgresStorage,
  pushTaskWithTx,
  pushTasksWithTx,
  setup,
  verifySchema,
} from 'apalis-drizzle'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, it, onTestFinished } from 'vitest'
import { ackUnlessLocked, statusOfClaims } from '../src/statements/ack.js'
import { claim, claimAbove } from '../src/statements/claim.js'
import { idsWithTakenKey, storedIds } from '../src/statements/find-tasks.js'
import { heartbeat } from '../src/statements/heartbeat.js'
import { markRunning } from '../src/statements/mark-running.js'
import { nextDueMs } from '../src/statements/next-due.js'
import { endedQueues, pruneTasks, pruneWorkers } from '../src/statements/prune.js'
import { register, release } from '../src/statements/register.js'
import { sweep } from '../src/statements/sweep.js'
import { encodeBatch } from '../src/vocabulary/batch.js'
import type { Db } from '../src/vocabulary/db.js'
import { sqlStateOf } from '../src/vocabulary/database-error.js'
import { grantsScript, type RoleNames } from '../src/vocabulary/grants.js'
import { announcements } from './support/announcements.js'
import { caught } from './support/caught.js'
import { useDatabase, type Connection } from './support/database.js'
import { clearTasks, rowOf, storedIn, storeTask, storeWorker, taskId } from './support/rows.js'
import { serverHasRunForASecond } from './support/uptime.js'
import { useWorkers } from './support/workers.js'

const database = useDatabase()
const emails = defineQueue<string>('emails')
const INSUFFICIENT_PRIVILEGE = '42501'

/** Roles belong to the whole server, so each run has its own. The end of the run removes what a broken one leaves. */
const roleName = (role: string) => `${inject('databasePrefix')}_${randomBytes(3).toString('hex')}_${role}`
const roles: RoleNames = { producer: roleName('producer'), worker: roleName('worker'), admin: roleName('admin') }
const logins = { producer: roleName('web'), worker: roleName('jobs'), admin: roleName('ops') }
const sessions = {} as Record<keyof RoleNames, Connection & { readonly statements: Db }>

/** In a session of its own, because it has a transaction in it. */
async function run(script: string): Promise<void> {
  const { client } = database.connect({ max: 1 })
  await client.unsafe(script)
  await client.end()
}

beforeAll(async () => {
  await run(grantsScript(roles))
  for (const role of ['producer', 'worker', 'admin'] as const) {
    await database.sql.unsafe(`create role "${logins[role]}"; grant "${roles[role]}" to "${logins[role]}"`)
    const connection = database.connect({ connection: { role: logins[role] } })
    sessions[role] = { ...connection, statements: connection.db as unknown as Db }
  }
})

afterAll(async () => {
  for (const role of [...Object.values(logins), ...Object.values(roles)]) {
    await database.sql.unsafe(`drop owned by "${role}"; drop role "${role}"`)
  }
})

beforeEach(() => clearTasks(database.sql))

const DDL: [string, string][] = [
  ['create a table', 'create table apalis.mine ()'],
  ['create a function', 'create function apalis.mine() returns int language sql as $$ select 1 $$'],
  ['change a table', 'alter table apalis.jobs add column mine int'],
  ['switch off the trigger', 'alter table apalis.jobs disable trigger notify_workers'],
  ['create an index', 'create index mine on apalis.jobs (priority)'],
  ['empty a table', 'truncate apalis.jobs'],
  ['drop the schema', 'drop schema apalis cascade'],
  ['hand rights on', 'grant select on apalis.jobs to public'],
]

/** GRANT without the right to it is a warning only where the role has some right on the table. */
async function expectRefused(role: keyof RoleNames, statement: string): Promise<void> {
  const rights = () =>
    database.sql`select relacl, attacl from pg_class left join pg_attribute on attrelid = pg_class.oid
      where pg_class.oid = 'apalis.jobs'::regclass order by attnum`
  const before = await rights()
  const error = await sessions[role].client.unsafe(statement).then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (!statement.startsWith('grant')) expect(sqlStateOf(error)).toBe(INSUFFICIENT_PRIVILEGE)
  expect(await rights()).toEqual(before)
}

describe('a producer', () => {
  it('enqueues in transactions, where a conflict of keys leaves the transaction usable', async () => {
    const { db } = sessions.producer
    const one = emails.task('a', { idempotencyKey: 'a', metadata: { trace: 1 }, priority: 2, delayMs: 1 })
    const ids = await db.transaction(async (tx) => {
      const first = await pushTaskWithTx(tx, one)
      const batch = [emails.task('b', { idempotencyKey: 'b' }), emails.task('a', { idempotencyKey: 'a' })]
      expect(isApalisError(await caught(pushTasksWithTx(tx, batch)), 'IDEMPOTENCY_CONFLICT')).toBe(true)
      expect(isApalisError(await caught(pushTaskWithTx(tx, one)), 'IDEMPOTENCY_CONFLICT')).toBe(true)
      expect(await pushTaskWithTx(tx, one, { onConflict: 'doNothing' })).toBeUndefined()
      return [first, ...(await pushTasksWithTx(tx, [emails.task('c'), emails.task('d')]))]
    })
    expect((await storedIn(database.sql, 'emails')).toSorted()).toEqual(ids.toSorted())
  })

  it('enqueues outside of transactions, and workers are notified', async () => {
    const storage = new PostgresStorage(sessions.producer.db, emails)
    const payloads = await announcements(database.sql, async () => {
      await Promise.all([storage.push('a'), storage.push('b', { idempotencyKey: 'b' })])
      await storage.pushTasks([emails.task('c', { idempotencyKey: 'c' }), emails.task('d')])
      expect(await storage.pushAll([emails.task('e')])).toBe(1)
      const taken = storage.pushTasks([emails.task('f'), emails.task('c', { idempotencyKey: 'c' })])
      expect(isApalisError(await caught(taken), 'IDEMPOTENCY_CONFLICT')).toBe(true)
    })
    expect(await storedIn(database.sql, 'emails')).toHaveLength(5)
    const announced = payloads.flatMap((payload) => (JSON.parse(payload) as { ids: string[] }).ids)
    expect(announced.toSorted()).toEqual((await storedIn(database.sql, 'emails')).toSorted())
  })

  it('looks up what became of a push whose answer was lost', async () => {
    const { db, statements } = sessions.producer
    const task = emails.task('a', { id: taskId(1), idempotencyKey: 'a' })
    await db.transaction((tx) => pushTaskWithTx(tx, task))
    const again = await encodeBatch([emails.task('a', { id: taskId(2), idempotencyKey: 'a' })])
    expect(await storedIds(statements, await encodeBatch([task]))).toEqual(new Set([taskId(1)]))
    expect(await idsWithTakenKey(statements, again)).toEqual(new Set([taskId(2)]))
  })

  it('checks the schema at its start, and a setup that has nothing to do does not fail', async () => {
    await verifySchema(sessions.producer.db)
    await setup(sessions.producer.db)
  })

  it.each([
    ['read a payload', `select job from apalis.jobs`],
    ['read metadata', `select metadata from apalis.jobs`],
    ['read a result', `select last_result from apalis.jobs`],
    ['read a state', `select status from apalis.jobs`],
    ['find tasks by their payload', `select id from apalis.jobs where job = ''`],
    [
      'get a payload from its own INSERT',
      `insert into apalis.jobs (job, id, job_type) values ('', 'x', 'emails') returning job`,
    ],
    [
      'overwrite a task by a conflict',
      `insert into apalis.jobs (job, id, job_type) values ('', 'x', 'emails') on conflict (id) do update set job = ''`,
    ],
    ['forge a state', `insert into apalis.jobs (job, id, job_type, status) values ('', 'x', 'emails', 'Running')`],
    [
      'forge a state by its default',
      `insert into apalis.jobs (job, id, job_type, status) values ('', 'x', 'emails', default)`,
    ],
    ['forge attempts', `insert into apalis.jobs (job, id, job_type, attempts) values ('', 'x', 'emails', 1)`],
    [
      'forge an owner',
      `insert into apalis.jobs (job, id, job_type, lock_by, lock_at) values ('', 'x', 'emails', 'w', now())`,
    ],
    ['forge a result', `insert into apalis.jobs (job, id, job_type, last_result) values ('', 'x', 'emails', '1')`],
    ['change a task', `update apalis.jobs set priority = 1`],
    ['delete a task', `delete from apalis.jobs`],
    ['lock a task', `select id from apalis.jobs for key share`],
    ['claim', `select apalis.get_jobs('mailer#1', 'emails')`],
    ['read workers', `select id from apalis.workers`],
    ['forge a worker', `insert into apalis.workers (id, worker_type, storage_name) values ('w', 'emails', 's')`],
    ['read statistics', `select * from apalis.queue_stats_snapshot`],
    ...DDL,
  ])('may not %s', async (_, statement) => {
    await storeWorker(database.sql, { id: 'mailer#1', queue: 'emails' })
    await storeTask(database.sql, { id: taskId(1), queue: 'emails' })
    const before = await rowOf(database.sql, taskId(1))
    await expectRefused('producer', statement)
    expect(await rowOf(database.sql, taskId(1))).toEqual(before)
    expect(await storedIn(database.sql, 'emails')).toEqual([taskId(1)])
  })

  it('that tries to work is told which script gives the right', async () => {
    const { statements, db } = sessions.producer
    const claimer = { queue: 'emails', worker: 'w', leaseToken: 't', thresholdMs: 1_000, running: 1, limit: 1 }
    expect(sqlStateOf(await caught(claim(statements, claimer)))).toBe(INSUFFICIENT_PRIVILEGE)
    const error = await caught(new PostgresStorage(db, emails).listTasks())
    expect(error).toMatchObject({ code: 'DATABASE', sqlState: INSUFFICIENT_PRIVILEGE })
    expect((error as Error).message).toMatch(
      'permission denied for table jobs. The role of this connection has no right to it: `npx apalis-drizzle sql --grants`',
    )
  })
})

describe('a worker', () => {
  const work = useWorkers(() => sessions.worker.db)

  it('runs tasks to each of their ends, keeps itself alive, and sweeps', async () => {
    const { queue, storage, events, started } = work<string>({ retry: () => 0, maxAttempts: 2 })
    const producer = new PostgresStorage(sessions.producer.db, queue)
    await storeWorker(database.sql, { id: 'silent#1', queue: queue.name, silentFor: '1 hour' })
    await storeTask(database.sql, {
      id: taskId(1),
      queue: queue.name,
      status: 'Queued',
      lockBy: 'silent#1',
      job: '"done"',
    })
    await serverHasRunForASecond(database.sql)
    const worker = await started(
      (what) => {
        if (what === 'kill') throw new AbortTaskError('no')
        if (what === 'fail') throw new Error('again')
      },
      { keepAliveMs: 50, reenqueueOrphanedAfterMs: 1_000 },
    )
    const [killed, failed] = await producer.pushTasks([queue.task('kill'), queue.task('fail')])
    await events.next('orphan.swept', ({ ids }) => ids.includes(taskId(1) as never))
    await events.next('task.done', ({ id }) => id === taskId(1))
    await events.next('task.failed', ({ id }) => id === failed)
    await events.next('task.killed', ({ id }) => id === killed)
    await events.next('task.killed', ({ id }) => id === failed)
    expect(await storage.listTasks({ status: 'Killed' })).toHaveLength(2)
    expect(await storage.fetchById(taskId(1))).toMatchObject({ status: 'Done' })
    expect(await storage.waitForSingle(taskId(1))).toMatchObject({ status: 'Done' })
    expect(await storage.listWorkers()).toHaveLength(2)
    expect(await storage.metrics()).not.toEqual([])
    expect(await storage.waitForSingle(failed!)).toMatchObject({ status: 'Killed' })
    await worker.stop()
    expect(events.all.filter(({ type }) => type === 'worker.error' || type === 'heartbeat.lost')).toEqual([])
  })

  it('runs every statement of its loops', async () => {
    const db = sessions.worker.statements
    const mine = { queue: 'emails', worker: 'mailer#1', leaseToken: 't', thresholdMs: 1_000 }
    await storeTask(database.sql, { id: taskId(1), queue: 'emails' })
    await storeTask(database.sql, { id: taskId(2), queue: 'emails' })
    expect(await register(db, { ...mine, storageName: 's', layers: '' })).toEqual([])
    // Again, over its own row.
    expect(await register(db, { ...mine, storageName: 's', layers: '' })).toEqual([])
    expect(await nextDueMs(db, 'emails')).toBeLessThan(0)
    const [first] = await claim(db, { ...mine, running: 0, limit: 1 })
    const [second] = await claimAbove(db, { ...mine, running: 0, limit: 1 }, [first!])
    expect(await markRunning(db, 'emails', 'mailer#1', [first!])).toEqual(new Set([taskId(1)]))
    expect(await heartbeat(db, 'emails', 'mailer#1', 't')).toMatchObject({ registered: true, owned: [{}, {}] })
    const done = [{ fence: first!, outcome: { status: 'Done', result: '{"Ok":null}' } as const }]
    expect(await ackUnlessLocked(db, 'emails', 'mailer#1', done)).toEqual(new Map([[taskId(1), 'Done']]))
    expect(await statusOfClaims(db, 'emails', 'mailer#1', done)).toEqual(new Map([[taskId(1), 'Done']]))
    await ackUnlessLocked(db, 'emails', 'mailer#1', [{ fence: second!, outcome: { status: 'Pending' } }])
    expect(await release(db, mine)).toBe(true)
    expect(await sweep(db, 'emails', 1_000)).toEqual([])
  })

  it.each(['worker', 'admin'] as const)('locks tasks by id and acknowledges them, as %s', async (role) => {
    const { db } = sessions[role]
    const storage = new PostgresStorage(db, emails)
    await storeTask(database.sql, { id: taskId(1), queue: 'emails' })
    await storeTask(database.sql, { id: taskId(2), queue: 'emails' })
    for (let times = 1; times <= 2; times++) await admin(db).registerWorker('emails', 'consumer')
    const claims = [
      await storage.lockTask(taskId(1), 'consumer'),
      ...(await storage.claimByIds([taskId(2)], 'consumer')),
    ]
    for (const claim of claims) await storage.ack(claim, { status: 'Done', result: undefined })
    expect(await storage.listTasks({ status: 'Done' })).toHaveLength(2)
    expect(await caught(admin(db).lockTask(taskId(1), 'stranger'))).toMatchObject({ code: 'WORKER_NOT_REGISTERED' })
  })

  /** A role with two parts, and a connection under it; both are gone after the test. */
  async function asMemberOf(...parts: string[]) {
    const role = roleName('both')
    await database.sql.unsafe(`create role "${role}"; grant ${parts.map((part) => `"${part}"`).join()} to "${role}"`)
    const { db, client } = database.connect({ connection: { role } })
    onTestFinished(async () => {
      await client.end()
      await database.sql.unsafe(`drop owned by "${role}"; drop role "${role}"`)
    })
    return db
  }

  it('that is a producer too enqueues from its handlers', async () => {
    const db = await asMemberOf(roles.worker, roles.producer)
    const { queue, storage, events, started } = work<string>({}, db)
    await started(async (what) => {
      if (what === 'first') await db.transaction((tx) => pushTaskWithTx(tx, queue.task('second')))
    })
    const id = await storage.push('first')
    await events.next('task.done', (event) => event.id !== id)
  })

  it('that is an administrator too deletes old tasks', async () => {
    const { queue, events, started } = work<string>({}, await asMemberOf(roles.worker, roles.admin))
    await storeTask(database.sql, { id: taskId(1), queue: queue.name, status: 'Done', doneAt: '-1 day' })
    await started(() => undefined, { retention: { doneMs: 3_600_000 } })
    expect(await events.next('tasks.pruned')).toMatchObject({ count: 1 })
  })

  it.each([
    ['enqueue', `insert into apalis.jobs (job, id, job_type) values ('', 'x', 'emails')`],
    ['delete a task', `delete from apalis.jobs`],
    ['change a payload', `update apalis.jobs set job = ''`],
    ['move a task to another queue', `update apalis.jobs set job_type = 'other'`],
    ['change a key', `update apalis.jobs set idempotency_key = 'x'`],
    ['change metadata', `update apalis.jobs set metadata = '{}'`],
    ['raise a budget', `update apalis.jobs set max_attempts = 100`],
    ['jump the queue', `update apalis.jobs set priority = 100`],
    ['delete a worker', `delete from apalis.workers`],
    ['rename a worker', `update apalis.workers set id = 'x'`],
    ['read statistics', `select * from apalis.queue_stats_snapshot`],
    ['pause a queue', `insert into apalis_drizzle.paused_queues (queue) values ('emails')`],
    ['resume a queue', `delete from apalis_drizzle.paused_queues`],
    ['record a migration', `insert into apalis_drizzle.migrations (name, sha256) values ('x', 'x')`],
    ...DDL,
  ])('may not %s', async (_, statement) => {
    await expectRefused('worker', statement)
  })

  it('that meets an incomplete schema changes nothing', async () => {
    await setup(sessions.worker.db)
    await database.sql`drop index apalis.jobs_failed_idx`
    const error = await caught(setup(sessions.worker.db))
    expect(error).toMatchObject({ code: 'MIGRATION', sqlState: INSUFFICIENT_PRIVILEGE })
    expect((error as Error).message).toMatch(/Run setup as the owner of schema apalis\.$/)
    await setup(database.db)
  })
})

describe('an administrator', () => {
  it('reads everything and steers', async () => {
    const { db, statements } = sessions.admin
    const everything = admin(db)
    await everything.registerWorker('emails', 'reporter')
    await everything.registerWorker('emails', 'reporter')
    await everything.pause('emails')
    await everything.resume('emails')
    await storeTask(database.sql, { id: taskId(1), queue: 'emails' })
    await storeTask(database.sql, { id: taskId(2), queue: 'emails', status: 'Done', doneAt: '-2 days' })
    expect(await everything.listAllTasks()).toMatchObject([{ id: taskId(1), payload: { ok: true } }])
    expect(await everything.listAllWorkers()).toMatchObject([{ name: 'reporter' }])
    expect(await everything.listQueues()).toMatchObject([{ name: 'emails' }])
    expect(await everything.queueDepths()).toMatchObject([{ queue: 'emails', due: 1 }])
    expect(await everything.metrics()).not.toEqual([])
    expect(await everything.queueStatsSnapshot()).toEqual([])
    expect(await new PostgresStorage(db, emails).checkStatus([taskId(1)])).toEqual([])
    expect(await endedQueues(statements)).toEqual(['emails'])
    const old = { queue: 'emails', status: 'Done', olderThanMs: 86_400_000, limit: 10 } as const
    expect(await pruneTasks(statements, old)).toMatchObject({ tasks: 1 })
    expect(await pruneWorkers(statements, 1)).toBe(0)
    const which = { ids: [taskId(1)] }
    expect((await everything.setPriority(which, 3)).changed).toEqual([taskId(1)])
    expect((await everything.reschedule(which, new Date())).changed).toEqual([taskId(1)])
    expect((await everything.cancel(which)).changed).toEqual([taskId(1)])
    expect((await everything.retryNow(which)).changed).toEqual([taskId(1)])
    await everything.cancel({ queue: 'emails' })
    expect((await everything.remove({ queue: 'emails' })).changed).toEqual([taskId(1)])
    await verifySchema(db)
    await setup(db)
  })

  it('refreshes the snapshot where the server knows a right for it, and is told so elsewhere', async () => {
    const [server] = await database.sql<
      { version: number }[]
    >`select current_setting('server_version_num')::int as version`
    const refresh = admin(sessions.admin.db).refreshQueueStatsSnapshot()
    const outcome = await refresh.then(() => 'refreshed').catch((error: unknown) => (error as Error).message)
    expect(outcome).toMatch(
      server!.version >= 170_000
        ? /^refreshed$/
        : /must be owner of materialized view .*`npx apalis-drizzle sql --grants`/,
    )
  })

  it.each([
    ['enqueue', `insert into apalis.jobs (job, id, job_type) values ('', 'x', 'emails')`],
    ['change a payload', `update apalis.jobs set job = ''`],
    ['move a task to another queue', `update apalis.jobs set job_type = 'other'`],
    ['record a migration', `insert into apalis_drizzle.migrations (name, sha256) values ('x', 'x')`],
    ['take a lease', `update apalis.workers set lease_token = 'mine'`],
    ...DDL,
  ])('may not %s', async (_, statement) => {
    await expectRefused('admin', statement)
  })
})

describe('the script', () => {
  /** What the roles may do, as the catalog has it. */
  const rights = () => database.sql`
    select c.relname, c.relacl::text, a.attname, a.attacl::text
    from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attacl is not null
    where c.relnamespace in ('apalis'::regnamespace, 'apalis_drizzle'::regnamespace) and c.relkind in ('r', 'm') order by 1, 3`

  it('takes back what was granted beside it, and changes nothing when it is run again', async () => {
    const before = await rights()
    await database.sql.unsafe(
      `grant all on apalis.jobs to "${roles.producer}"; grant create on schema apalis to "${roles.worker}";
       grant all on apalis_drizzle.paused_queues to "${roles.producer}"`,
    )
    await run(grantsScript(roles))
    expect(await rights()).toEqual(before)
    await expectRefused('worker', 'create table apalis.mine ()')
  })

  it('gives one role all that it is named for', async () => {
    const one = roleName('one')
    await run(grantsScript({ producer: one, worker: one, admin: one }))
    const { db } = database.connect({ connection: { role: one } })
    await new PostgresStorage(db, emails).push('a')
    expect(await admin(db).listAllTasks()).toHaveLength(1)
    await database.sql.unsafe(`drop owned by "${one}"; drop role "${one}"`)
  })

  it('takes any name for a name', async () => {
    const hostile = [`"; drop schema apalis cascade; --`, `'; $do$ \\' end`, `$do$ $do1$ \\"Ω`] as const
    const [producer, worker, administrator] = hostile.map((name) => `${roleName('')}${name}`) as [
      string,
      string,
      string,
    ]
    const script = grantsScript({ producer, worker, admin: administrator })
    for (const strings of ['on', 'off']) {
      const { client } = database.connect({ connection: { standard_conforming_strings: strings }, max: 1 })
      await client.unsafe(script)
    }
    const created = await database.sql`select from pg_roles where rolname in (${producer}, ${worker}, ${administrator})`
    expect(created).toHaveLength(3)
    for (const name of [producer, worker, administrator]) {
      const { client } = database.connect({ max: 1 })
      await client`drop owned by ${client(name)}`
      await client`drop role ${client(name)}`
    }
  })

  it.each(['', 'public', 'none', 'a\nb', '\0', '\ud800', 'ä'.repeat(32)])('refuses %j, which is no role', (name) => {
    const refused = () => grantsScript({ ...roles, worker: name })
    expect(refused).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'worker' }))
  })
})
