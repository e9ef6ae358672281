/**
 * Shows that the statements of the worker loops read what they need and no more, in tables that are much larger, whatever
 * the planner believes of them.
 */
import { beforeAll, describe, expect, it } from 'vitest'
import { ack, ackUnlessLocked, statusOfClaims } from '../src/statements/ack.js'
import { cancelTasks } from '../src/statements/cancel.js'
import { claim, claimAbove, type Floor } from '../src/statements/claim.js'
import { findCancelled } from '../src/statements/find-cancelled.js'
import { heartbeat } from '../src/statements/heartbeat.js'
import { markRunning } from '../src/statements/mark-running.js'
import { nextDueMs } from '../src/statements/next-due.js'
import { register } from '../src/statements/register.js'
import { removeTasks } from '../src/statements/remove.js'
import { rescheduleTasks } from '../src/statements/reschedule.js'
import { retryTasksNow } from '../src/statements/retry-now.js'
import { setTaskPriority } from '../src/statements/set-priority.js'
import { sweep } from '../src/statements/sweep.js'
import type { Db } from '../src/vocabulary/db.js'
import type { AckEntry, Fence } from '../src/vocabulary/outcome.js'
import type { Steering } from '../src/vocabulary/steering.js'
import type { TaskId } from '../src/vocabulary/task-id.js'
import { useDatabase } from './support/database.js'
import { explain, type Plan } from './support/plan.js'

/** Ten queues with 100,000 finished tasks, 5,000 worker rows, and few tasks that wait. */
const IDLE = `
  insert into apalis.workers (id, worker_type, storage_name, last_seen, lease_token)
    select 'dead' || n, 'q' || n % 10, 's', now() - interval '1 day', 'token' from generate_series(1, 5000) n
    union all select 'alive', 'q' || n, 's', now() + interval '1 day', 'token' from generate_series(0, 9) n;
  insert into apalis.jobs (job, id, job_type, status, attempts, run_at, lock_by, lock_at, done_at, last_result, metadata)
    select '{}', 'D' || lpad(n::text, 25, '0'), 'q' || n % 10, 'Done', 1, now() - interval '1 h', 'alive',
      date_trunc('second', now() - interval '1 h'), now() - interval '1 h', '{"Ok": null}', '{}'
    from generate_series(1, 100000) n;
  insert into apalis.jobs (job, id, job_type, metadata)
    select '{}', 'W' || lpad(n::text, 25, '0'), 'q' || n % 10, '{}' from generate_series(1, 1000) n`

/** In two of the queues 50,000 delayed tasks of higher priorities, 50,000 that are due, and 20 each of two workers. */
const BURST = `
  insert into apalis.jobs (job, id, job_type, priority, run_at, metadata)
    select '{}', 'L' || lpad(n::text, 25, '0'), 'q' || n % 2, 5 + n % 3, now() + interval '1 day', '{}'
    from generate_series(1, 50000) n;
  insert into apalis.jobs (job, id, job_type, priority, run_at, metadata)
    select '{}', 'P' || lpad(n::text, 25, '0'), 'q' || n % 2, n % 3, now() - interval '1 h', '{}'
    from generate_series(1, 50000) n;
  insert into apalis.jobs (job, id, job_type, status, lock_by, lock_at, metadata)
    select '{}', 'R' || lpad(n::text, 25, '0'), 'q1', case when n % 2 = 0 then 'Running' else 'Queued' end,
      case when n <= 20 then 'alive' else 'dead1' end, date_trunc('second', now()), '{}'
    from generate_series(1, 40) n`

const ANALYZE = 'analyze apalis.jobs; analyze apalis.workers'

const GENERIC = `set local plan_cache_mode = force_generic_plan`
const CUSTOM = `set local plan_cache_mode = force_custom_plan`

/** The index that Rust crates since 0.5 make of it. */
const LATER_INDEX = `drop index apalis.jobs_dequeue_idx;
  create index jobs_dequeue_idx on apalis.jobs (job_type, priority desc, run_at, id)
  where status in ('Pending', 'Failed') and attempts < max_attempts`

/** Each with the first letter of ids that it can change. */
const STEERING = {
  'cancel tasks': [cancelTasks, 'R'],
  'retry tasks': [retryTasksNow, 'L'],
  'reschedule tasks': [(db, steering) => rescheduleTasks(db, steering, Date.now()), 'W'],
  'set a priority': [(db, steering) => setTaskPriority(db, steering, 1), 'W'],
  'remove tasks': [removeTasks, 'D'],
} as const satisfies Record<string, [steer: (db: Db, steering: Steering) => Promise<unknown>, series: string]>

const queue = 'q1'
const worker = 'alive'

describe.each([
  ['that was never analyzed', [IDLE, BURST]],
  ['with the statistics of an idle time', [IDLE, ANALYZE, BURST]],
  ['with current statistics', [IDLE, BURST, ANALYZE]],
])('on a table %s', (_, filling) => {
  const database = useDatabase()
  let held: Fence[]
  /** In the middle of the tasks that wait. */
  let floors: Floor[]

  beforeAll(async () => {
    await database.sql`alter table apalis.jobs set (autovacuum_enabled = off)`
    await database.sql`alter table apalis.workers set (autovacuum_enabled = off)`
    for (const statements of filling) await database.sql.unsafe(statements)
    held = await database.sql<Fence[]>`
      select id, attempts, extract(epoch from lock_at)::float8 as "lockAt" from apalis.jobs
      where lock_by = ${worker} and status in ('Running', 'Queued')`
    floors = await database.sql<Floor[]>`
      select priority, (extract(epoch from min(run_at)) * 1000000)::float8 as "runAtUs", 'P' || lpad('25000', 25, '0') as id
      from apalis.jobs where job_type = ${queue} and id like 'P%' group by priority order by priority`
  })

  const claiming = (limit: number, leaseToken = 'token') => {
    return (db: Db) => claim(db, { queue, worker, leaseToken, thresholdMs: 3_600_000, limit, running: 5 })
  }
  const acks = (): AckEntry[] => held.map((fence) => ({ fence, outcome: { status: 'Done', result: '{"Ok":null}' } }))

  describe.each([
    ['for any parameters', GENERIC],
    ['for these parameters', CUSTOM],
  ])('planned %s', (_, mode) => {
    it.each([1, 20, 500])('a claim of %i reads little beyond its tasks', async (limit) => {
      const plan = await explain(database, claiming(limit), mode)
      expectLookups(plan, limit)
      expect(plan.nodes, plan.text).toContain('Index Scan jobs_dequeue_idx')
      expect(plan.buffers, plan.text).toBeLessThan(100 + 25 * limit)
    })

    it.each([1, 20, 500])('a claim of %i above a floor reads little beyond its tasks', async (limit) => {
      const request = { queue, worker, leaseToken: 'token', thresholdMs: 3_600_000, limit, running: 5 }
      const plan = await explain(database, (db) => claimAbove(db, request, floors), mode)
      expect(floors).toHaveLength(3)
      expectLookups(plan, limit)
      expect(plan.nodes, plan.text).toContain('Index Scan jobs_dequeue_idx')
      expect(plan.buffers, plan.text).toBeLessThan(50 + 25 * limit)
    })

    it('a claim uses the index of later Rust crates as well', async () => {
      const plan = await explain(database, claiming(20), mode, LATER_INDEX)
      expectLookups(plan, 20)
      expect(plan.buffers, plan.text).toBeLessThan(600)
    })

    it('a claim of a worker that lost its registration reads no task', async () => {
      const plan = await explain(database, claiming(20, 'token of another'), mode)
      expect(plan.buffers, plan.text).toBeLessThan(15)
    })

    it('neither a claim from a paused queue nor the question when its next task is due reads a task', async () => {
      const pause = `insert into apalis_drizzle.paused_queues (queue) values ('${queue}'), ('another')`
      for (const look of [claiming(20), (db: Db) => nextDueMs(db, queue)]) {
        const plan = await explain(database, look, mode, pause)
        expect(plan.buffers, plan.text).toBeLessThan(15)
      }
    })

    it('the question when the next task is due reads one task of each priority', async () => {
      const plan = await explain(database, (db) => nextDueMs(db, queue), mode)
      expectLookups(plan, 1)
      expect(plan.buffers, plan.text).toBeLessThan(100)
    })

    it('a registration looks up the tasks that it takes back by id', async () => {
      const registration = { queue, worker, leaseToken: 'token', storageName: 's', layers: '', thresholdMs: 60_000 }
      const plan = await explain(database, (db) => register(db, registration), mode)
      expectLookups(plan, held.length)
      expect(plan.buffers, plan.text).toBeLessThan(100 + 25 * held.length)
    })

    it.each([
      ['in a transaction', ack],
      ['of a worker', ackUnlessLocked],
    ])('an acknowledgement %s looks its tasks up by id', async (_where, acknowledge) => {
      const plan = await explain(database, (db) => acknowledge(db, queue, worker, acks()), mode)
      expectLookups(plan, held.length)
      expect(plan.nodes).toContain('Index Scan jobs_pkey')
      expect(plan.nodes).not.toContain('Index Scan jobs_locked_by_queue_idx')
      expect(plan.buffers, plan.text).toBeLessThan(30 * held.length)
    })

    it('so does the look at earlier acknowledgements', async () => {
      const plan = await explain(database, (db) => statusOfClaims(db, queue, worker, acks()), mode)
      expectLookups(plan, held.length)
      expect(plan.buffers, plan.text).toBeLessThan(10 * held.length)
    })

    it('so does marking as running', async () => {
      const plan = await explain(database, (db) => markRunning(db, queue, worker, held), mode)
      expectLookups(plan, held.length)
      expect(plan.nodes).not.toContain('Index Scan jobs_locked_by_queue_idx')
      expect(plan.buffers, plan.text).toBeLessThan(25 * held.length)
    })

    it('a look for cancelled claims looks them up by id', async () => {
      const plan = await explain(database, (db) => findCancelled(db, queue, worker, held), mode)
      expectLookups(plan, held.length)
      expect(plan.buffers, plan.text).toBeLessThan(10 * held.length)
    })

    it.each(Object.entries(STEERING))('to %s by id looks each of them up', async (_, [steer, series]) => {
      const ids = Array.from({ length: 20 }, (_, n) => `${series}${String(n + 1).padStart(25, '0')}` as TaskId)
      const plan = await explain(database, (db) => steer(db, { selection: { ids }, lockTimeout: '2s' }), mode)
      expectLookups(plan, ids.length)
      expect(plan.buffers, plan.text).toBeLessThan(80 * ids.length)
    })

    it.each([
      ['cancel tasks', 'Running', 20],
      ['cancel tasks', 'Failed', 0],
      ['retry tasks', 'Killed', 0],
      ['remove tasks', 'Killed', 0],
    ] as const)('to %s that are %s, of a queue, finds them in an index', async (what, status, count) => {
      const [steer] = STEERING[what]
      const selection = { queue, status }
      const plan = await explain(database, (db) => steer(db, { selection, lockTimeout: '2s' }), mode)
      expectLookups(plan, 2 * count)
      expect(plan.buffers, plan.text).toBeLessThan(100 + 80 * count)
    })

    it('a heartbeat reads the owned tasks only', async () => {
      const plan = await explain(database, (db) => heartbeat(db, queue, worker, 'token'), mode)
      expectLookups(plan, held.length)
      expect(plan.buffers, plan.text).toBeLessThan(60)
    })

    it('a sweep finds the few owned tasks and then looks up the orphans by id', async () => {
      const plan = await explain(database, (db) => sweep(db, queue, 0), mode)
      expect(plan.nodes, plan.text).not.toContain('Seq Scan jobs')
      expect(plan.nodes, plan.text).toContain('Index Scan jobs_pkey')
      expect(plan.buffers, plan.text).toBeLessThan(600)
    })
  })
})

function expectLookups(plan: Plan, tasks: number): void {
  expect(plan.nodes, plan.text).not.toContain('Seq Scan jobs')
  expect(plan.widest, plan.text).toBeLessThanOrEqual(tasks + 10)
}
