/**
 * Shows for each pair of operations on one task or its worker what becomes of the second when the first has been executed
 * but is not committed: whether it waits, what it returns, and what is stored in the end.
 */
import { beforeAll, describe, expect, it } from 'vitest'
import {
  admin,
  defineQueue,
  isApalisError,
  IdempotencyConflictError,
  PostgresStorage,
  pushTasksWithTx,
  type TxOf,
} from '../src/index.js'
import { completeInTx } from '../src/processes/ack-in-tx.js'
import { HeldClaim } from '../src/processes/held-claim.js'
import { ackUnlessLocked, statusOfClaims } from '../src/statements/ack.js'
import { claim } from '../src/statements/claim.js'
import { heartbeat } from '../src/statements/heartbeat.js'
import { pruneTasks } from '../src/statements/prune.js'
import { register } from '../src/statements/register.js'
import { sweep } from '../src/statements/sweep.js'
import { sqlStateOf } from '../src/vocabulary/database-error.js'
import type { Db } from '../src/vocabulary/db.js'
import { definitionOf } from '../src/vocabulary/definition.js'
import type { AckOutcome, Fence } from '../src/vocabulary/outcome.js'
import { caught } from './support/caught.js'
import type { Status } from '../src/vocabulary/row.js'
import { useDatabase, type Connection } from './support/database.js'
import { hold } from './support/held.js'
import { rowOf, storeWorker, taskId } from './support/rows.js'
import { until } from './support/until.js'
import { uptimeMs } from './support/uptime.js'
import { gate } from './support/workers.js'

/**
 * The task is in the state in which the first operation acts on it: claimed by the worker, for `claim` waiting, for `prune`
 * Done long ago; only a first `push` finds none, and stores it. It has a key, and its worker has fallen silent.
 *
 * - push: enqueues another task with the same key, in a transaction.
 * - claim: by the worker; the second one by another worker.
 * - ack, reconcile: of the worker's claim, as Done, and back to the queue because the answer of the claim was lost. What is
 *   `locked` is tried again later: the claim stands as long as the first has not ended.
 * - complete: by the handler, in a transaction of its own.
 * - heartbeat: of the worker. adopt: another process registers under the worker's name.
 * - cancel: of the task, in a transaction.
 *
 * What waits, waits for the first to end, and not for longer than the lock_timeout of its sessions if it has one, as those
 * of workers have. Under the two ends of the first transaction stand what the second operation returns, and the task
 * afterwards as state and charged attempts.
 *
 * 1. PostgreSQL cannot know whether the key of a row will still be there when the row has just been changed, so such a push
 *    waits, however little the change has to do with the key. A push outside of transactions looks first, and does not.
 * 2. The name has a new owner, and the task is passed over because somebody holds it. If it is the predecessor's even
 *    afterwards, the heartbeats of the new owner find it as a stray, and it is returned.
 * 3. A cancellation judges what it finds after its wait. It charges what was running then, and nothing else.
 * 4. What a heartbeat says that waited is what it saw before. The next one says that the task is gone.
 * 5. Of two processes that register under one name at the same time, one is told at once that it is taken.
 * 6. It cannot say what became of a task before that is decided, also where it will be nothing.
 */
const TABLE = `
first     second    | waits        | the first commits          | it rolls back

push      push      | until commit | conflict      Pending/0    | stored        gone
push      claim     | none         | nothing       Pending/0    | nothing       gone
push      ack       | none         | stale         Pending/0    | stale         gone
push      complete  | none         | stale         Pending/0    | stale         gone
push      sweep     | none         | nothing       Pending/0    | nothing       gone
push      heartbeat | none         | holds nothing Pending/0    | holds nothing gone
push      adopt     | none         | took nothing  Pending/0    | took nothing  gone
push      reconcile | none         | stale         Pending/0    | stale         gone
push      cancel    | none         | refused       Pending/0    | refused       gone
push      prune     | none         | nothing       Pending/0    | nothing       gone

claim     push      | until commit | conflict      Running/0    | conflict      Pending/0   (1)
claim     claim     | none         | nothing       Running/0    | nothing       Pending/0
claim     ack       | none         | stale         Running/0    | stale         Pending/0
claim     complete  | none         | stale         Running/0    | stale         Pending/0
claim     sweep     | none         | nothing       Running/0    | nothing       Pending/0
claim     heartbeat | none         | holds nothing Running/0    | holds nothing Pending/0
claim     adopt     | none         | took nothing  Running/0    | took nothing  Pending/0   (2)
claim     reconcile | none         | stale         Running/0    | stale         Pending/0
claim     cancel    | until commit | cancelled     Killed/1     | cancelled     Killed/0    (3)
claim     prune     | none         | nothing       Running/0    | nothing       Pending/0

ack       push      | until commit | conflict      Done/1       | conflict      Running/0   (1)
ack       claim     | none         | nothing       Done/1       | nothing       Running/0
ack       ack       | none         | locked        Done/1       | locked        Running/0
ack       complete  | until commit | stale         Done/1       | Done          Done/1
ack       sweep     | none         | nothing       Done/1       | nothing       Running/0
ack       heartbeat | none         | holds it      Done/1       | holds it      Running/0
ack       adopt     | none         | took nothing  Done/1       | took nothing  Running/0   (2)
ack       reconcile | none         | locked        Done/1       | locked        Running/0
ack       cancel    | until commit | refused       Done/1       | cancelled     Killed/1
ack       prune     | none         | nothing       Done/1       | nothing       Running/0

complete  push      | until commit | conflict      Done/1       | conflict      Running/0   (1)
complete  claim     | none         | nothing       Done/1       | nothing       Running/0
complete  ack       | none         | locked        Done/1       | locked        Running/0
complete  complete  | until commit | stale         Done/1       | Done          Done/1
complete  sweep     | none         | nothing       Done/1       | nothing       Running/0
complete  heartbeat | none         | holds it      Done/1       | holds it      Running/0
complete  adopt     | none         | took nothing  Done/1       | took nothing  Running/0   (2)
complete  reconcile | none         | locked        Done/1       | locked        Running/0
complete  cancel    | until commit | refused       Done/1       | cancelled     Killed/1
complete  prune     | none         | nothing       Done/1       | nothing       Running/0

sweep     push      | until commit | conflict      Pending/1    | conflict      Running/0   (1)
sweep     claim     | none         | nothing       Pending/1    | nothing       Running/0
sweep     ack       | none         | locked        Pending/1    | locked        Running/0
sweep     complete  | until commit | stale         Pending/1    | Done          Done/1
sweep     sweep     | none         | nothing       Pending/1    | nothing       Running/0
sweep     heartbeat | lock_timeout | holds it      Pending/1    | holds it      Running/0   (4)
sweep     adopt     | lock_timeout | took nothing  Pending/1    | took it       Pending/1
sweep     reconcile | none         | locked        Pending/1    | locked        Running/0
sweep     cancel    | until commit | cancelled     Killed/1     | cancelled     Killed/1    (3)
sweep     prune     | none         | nothing       Pending/1    | nothing       Running/0

heartbeat push      | none         | conflict      Running/0    | conflict      Running/0
heartbeat claim     | none         | nothing       Running/0    | nothing       Running/0
heartbeat ack       | none         | Done          Done/1       | Done          Done/1
heartbeat complete  | none         | Done          Done/1       | Done          Done/1
heartbeat sweep     | none         | nothing       Running/0    | nothing       Running/0
heartbeat heartbeat | lock_timeout | holds it      Running/0    | holds it      Running/0
heartbeat adopt     | lock_timeout | refused       Running/0    | took it       Pending/1
heartbeat reconcile | none         | returned      Pending/0    | returned      Pending/0
heartbeat cancel    | none         | cancelled     Killed/1     | cancelled     Killed/1
heartbeat prune     | none         | nothing       Running/0    | nothing       Running/0

adopt     push      | until commit | conflict      Pending/1    | conflict      Running/0   (1)
adopt     claim     | none         | nothing       Pending/1    | nothing       Running/0
adopt     ack       | none         | locked        Pending/1    | locked        Running/0
adopt     complete  | until commit | stale         Pending/1    | Done          Done/1
adopt     sweep     | none         | nothing       Pending/1    | nothing       Running/0
adopt     heartbeat | lock_timeout | lost          Pending/1    | holds it      Running/0
adopt     adopt     | none         | refused       Pending/1    | refused       Running/0   (5)
adopt     reconcile | none         | locked        Pending/1    | locked        Running/0
adopt     cancel    | until commit | cancelled     Killed/1     | cancelled     Killed/1    (3)
adopt     prune     | none         | nothing       Pending/1    | nothing       Running/0

reconcile push      | until commit | conflict      Pending/0    | conflict      Running/0   (1)
reconcile claim     | none         | nothing       Pending/0    | nothing       Running/0
reconcile ack       | none         | locked        Pending/0    | locked        Running/0
reconcile complete  | until commit | stale         Pending/0    | Done          Done/1
reconcile sweep     | none         | nothing       Pending/0    | nothing       Running/0
reconcile heartbeat | none         | holds it      Pending/0    | holds it      Running/0
reconcile adopt     | none         | took nothing  Pending/0    | took nothing  Running/0   (2)
reconcile reconcile | none         | locked        Pending/0    | locked        Running/0
reconcile cancel    | until commit | cancelled     Killed/0     | cancelled     Killed/1    (3)
reconcile prune     | none         | nothing       Pending/0    | nothing       Running/0

cancel    push      | until commit | conflict      Killed/1     | conflict      Running/0   (1)
cancel    claim     | none         | nothing       Killed/1     | nothing       Running/0
cancel    ack       | none         | locked        Killed/1     | locked        Running/0
cancel    complete  | until commit | stale         Killed/1     | Done          Done/1
cancel    sweep     | none         | nothing       Killed/1     | nothing       Running/0
cancel    heartbeat | none         | holds it      Killed/1     | holds it      Running/0
cancel    adopt     | none         | took nothing  Killed/1     | took nothing  Running/0   (2)
cancel    reconcile | none         | locked        Killed/1     | locked        Running/0
cancel    cancel    | until commit | refused       Killed/1     | cancelled     Killed/1
cancel    prune     | none         | nothing       Killed/1     | nothing       Running/0

prune     push      | until commit | stored        gone         | conflict      Done/1
prune     claim     | none         | nothing       gone         | nothing       Done/1
prune     ack       | none         | stale         gone         | stale         Done/1
prune     complete  | none         | stale         gone         | stale         Done/1
prune     sweep     | none         | nothing       gone         | nothing       Done/1
prune     heartbeat | none         | holds nothing gone         | holds nothing Done/1
prune     adopt     | none         | took nothing  gone         | took nothing  Done/1
prune     reconcile | none         | stale         gone         | stale         Done/1
prune     cancel    | until commit | refused       gone         | refused       Done/1      (6)
prune     prune     | none         | nothing       gone         | nothing       Done/1
`

const database = useDatabase()
type Tx = TxOf<Connection['db']>

/** Tasks and their worker, in a queue of their own. The key of each task is its id. */
interface Scene {
  readonly queue: string
  /** Of the worker, in some order. Not all of them have to be good. */
  readonly claims: readonly Fence[]
}

const WORKER = { worker: 'mailer#1', leaseToken: 'token of mailer#1' }
const OTHER_WORKER = { worker: 'mailer#2', leaseToken: 'token of mailer#2' }
const DONE: AckOutcome = { status: 'Done', result: '{"Ok":null}' }
const RETURNED: AckOutcome = { status: 'Pending' }
const LOCK_NOT_AVAILABLE = '55P03'
/** More than the second operation is behind the first, so that what was fresh for the one is not stale for the other. */
const SILENT_MS = 3_000
const DAY_MS = 86_400_000

type Operation = (tx: Tx, scene: Scene, place: 'first' | 'second') => Promise<string>

const OPERATIONS = {
  push: async (tx, { queue, claims }, place) => {
    const { task } = defineQueue<string>(queue)
    const tasks = claims.map(({ id }) => task('a', { idempotencyKey: id, ...(place === 'first' && { id }) }))
    const ids = await pushTasksWithTx(tx, tasks, { onConflict: 'doNothing' })
    return ids.some((id) => id !== undefined) ? 'stored' : 'conflict'
  },
  claim: async (tx, { queue }, place) => {
    const claimer = place === 'first' ? WORKER : OTHER_WORKER
    const request = { queue, ...claimer, thresholdMs: DAY_MS, limit: 10, running: 10 }
    return (await claim(db(tx), request)).length > 0 ? 'claimed' : 'nothing'
  },
  ack: (tx, scene) => acknowledge(tx, scene, DONE),
  complete: async (tx, { queue, claims: [fence] }) => {
    const claim = {
      ...WORKER,
      queue,
      held: heldBy(fence!),
      stands: () => Promise.resolve(true),
      onAcknowledged: () => {},
    }
    try {
      await completeInTx(tx, claim, definitionOf(defineQueue(queue)), undefined)
      return 'Done'
    } catch (error) {
      if (isApalisError(error, 'STALE_ACKNOWLEDGEMENT')) return 'stale'
      throw error
    }
  },
  sweep: async (tx, { queue }) => ((await sweep(db(tx), queue, SILENT_MS)).length > 0 ? 'swept' : 'nothing'),
  heartbeat: async (tx, { queue }) => {
    const { registered, owned } = await heartbeat(db(tx), queue, WORKER.worker, WORKER.leaseToken)
    if (!registered) return 'lost'
    return owned.length > 0 ? 'holds it' : 'holds nothing'
  },
  adopt: async (tx, { queue }, place) => {
    const successor = {
      queue,
      worker: WORKER.worker,
      leaseToken: `token of the ${place}`,
      storageName: 's',
      layers: '',
    }
    const orphans = await register(db(tx), { ...successor, thresholdMs: SILENT_MS })
    if (orphans === undefined) return 'refused'
    return orphans.length > 0 ? 'took it' : 'took nothing'
  },
  reconcile: (tx, scene) => acknowledge(tx, scene, RETURNED),
  cancel: async (tx, { claims }) => {
    const { changed } = await admin(tx).cancel({ ids: claims.map(({ id }) => id) })
    return changed.length > 0 ? 'cancelled' : 'refused'
  },
  prune: async (tx, { queue }) => {
    const { tasks } = await pruneTasks(db(tx), { queue, status: 'Done', olderThanMs: 0, limit: 10 })
    return tasks > 0 ? 'deleted' : 'nothing'
  },
} satisfies Record<string, Operation>

type Name = keyof typeof OPERATIONS
const NAMES = Object.keys(OPERATIONS) as Name[]

const db = (tx: Tx) => tx as unknown as Db

/** As a worker holds a claim whose handler runs. */
function heldBy({ id, attempts, lockAt }: Fence): HeldClaim {
  const row = { id, attempts, lockAt, job: new Uint8Array(), status: 'Running' }
  const held = new HeldClaim({
    ...row,
    maxAttempts: 5,
    priority: 0,
    runAt: new Date(),
    metadata: null,
    idempotencyKey: null,
  })
  held.start()
  return held
}

async function acknowledge(tx: Tx, { queue, claims }: Scene, outcome: AckOutcome): Promise<string> {
  const entries = claims.map((fence) => ({ fence, outcome }))
  const [status] = (await ackUnlessLocked(db(tx), queue, WORKER.worker, entries)).values()
  if (status !== undefined) return status === 'Pending' ? 'returned' : status
  const statuses = await statusOfClaims(db(tx), queue, WORKER.worker, entries)
  return [...statuses.values()].includes('Running') ? 'locked' : 'stale'
}

/** What an application calls on its own connections; the others have the lock_timeout of a worker's. */
const OF_APPLICATION: readonly Name[] = ['push', 'complete', 'cancel', 'prune']

interface Session extends Connection {
  readonly pid: number
}
const sessions = {} as { first: Session; second: Session }

async function openSession(): Promise<Session> {
  const connection = database.connect({ max: 1 })
  const [row] = await connection.client<{ pid: number }[]>`select pg_backend_pid() as pid`
  return { ...connection, pid: row!.pid }
}

beforeAll(async () => {
  sessions.first = await openSession()
  sessions.second = await openSession()
  // Silence counts from the start of the server at the earliest.
  await until(async () => (await uptimeMs(database.sql)) > SILENT_MS, 'a worker can have been silent')
})

let scenes = 0

async function setScene(...statuses: readonly (Status | 'absent')[]): Promise<Scene> {
  const queue = `queue ${++scenes}`
  const ids = statuses.map((_, n) => taskId(scenes * 100 + n))
  await storeWorker(database.sql, { id: WORKER.worker, queue, silentFor: '1 hour' })
  await storeWorker(database.sql, { id: OTHER_WORKER.worker, queue })
  const rows = await database.sql<{ id: string; lockAt: number }[]>`
    insert into apalis.jobs (job, id, job_type, status, attempts, lock_by, lock_at, done_at, idempotency_key)
    select '{}', id, ${queue}, status, (status = 'Done')::int, case when status <> 'Pending' then ${WORKER.worker} end,
      case when status <> 'Pending' then date_trunc('second', now() - interval '1 minute') end,
      case when status = 'Done' then now() - interval '1 day' end, id
    from unnest(${ids}::text[], ${statuses as string[]}::text[]) as task (id, status) where status <> 'absent'
    returning id, extract(epoch from coalesce(lock_at, date_trunc('second', now())))::float8 as "lockAt"`
  const lockedAt = new Map(rows.map(({ id, lockAt }) => [id, lockAt]))
  return { queue, claims: ids.map((id) => ({ id, attempts: 0, lockAt: lockedAt.get(id) ?? 0 })) }
}

/** What a task is for an operation to act on it. */
const ACTS_ON = (name: Name): Status | 'absent' =>
  name === 'push' ? 'absent' : name === 'claim' ? 'Pending' : name === 'prune' ? 'Done' : 'Running'

/** Executes an operation in a transaction that ends only when it is told how. */
async function open({ db }: Connection, name: Name, scene: Scene) {
  const executed = gate<string>()
  const ending = gate<'commit' | 'rollback'>()
  const transaction = db.transaction(async (tx) => {
    executed.open(await OPERATIONS[name](tx, scene, 'first'))
    if ((await ending.opened) === 'rollback') tx.rollback()
  })
  const returned = await Promise.race([executed.opened, transaction.then(() => 'ended')])
  const end = async (how: 'commit' | 'rollback') => {
    ending.open(how)
    await transaction.catch((error: unknown) => {
      if (how === 'commit') throw error
    })
  }
  return { returned, end }
}

/** Whether the operation waits for another session before it settles. */
async function waits(operation: Promise<unknown>, { pid }: Session): Promise<boolean> {
  const settled = operation.then(
    () => 'settled',
    () => 'settled',
  )
  for (;;) {
    const seen = await Promise.race([settled, isBlocked(pid)])
    if (seen !== false) return seen === true
  }
}

async function isBlocked(pid: number): Promise<boolean> {
  const [row] = await database.sql<{ blocked: boolean }[]>`select cardinality(pg_blocking_pids(${pid})) > 0 as blocked`
  return row!.blocked
}

const run = ({ db }: Connection, name: Name, scene: Scene) =>
  db.transaction((tx) => OPERATIONS[name](tx, scene, 'second'))

const stateOf = async ({ claims }: Scene) => {
  const row = await rowOf(database.sql, claims[0]!.id)
  if (row === undefined) return 'gone'
  // Whoever comes last, an owner is there as long as the task is held, and not while it waits.
  const { status, attempts, lock_by: owner, lock_at: lockAt } = row as Record<string, unknown>
  if (status === 'Running') expect([owner, lockAt]).not.toContain(null)
  if (status === 'Pending') expect([owner, lockAt]).toEqual([null, null])
  return `${String(status)}/${String(attempts)}`
}

async function meet(first: Name, second: Name, how: 'commit' | 'rollback') {
  const scene = await setScene(ACTS_ON(first))
  const transaction = await open(sessions.first, first, scene)
  expect(ACTS).toContain(transaction.returned)
  const operation = run(sessions.second, second, scene)
  const waited = await waits(operation, sessions.second)
  await transaction.end(how)
  const returned = await operation
  const wait = !waited ? 'none' : OF_APPLICATION.includes(second) ? 'until commit' : 'lock_timeout'
  return { wait, outcome: `${returned.padEnd(13)} ${await stateOf(scene)}` }
}

/** What operations return that have done what they are for. */
const ACTS = ['stored', 'claimed', 'Done', 'swept', 'holds it', 'took it', 'returned', 'cancelled', 'deleted']

const ROWS = TABLE.split('\n')
  .slice(2)
  .filter((line) => line !== '')
  .map((line) => line.replace(/ *\(\d\)$/, '').split(/ *\| /))
  .map(([pair = '', wait, commit, rollback]) => {
    const [first, second] = pair.split(/ +/) as [Name, Name]
    return { first, second, expected: { wait, commit, rollback } }
  })

describe('of two operations, of which the first is not committed yet', () => {
  it('all pairs are in the table', () => {
    const pairs = NAMES.flatMap((first) => NAMES.map((second) => `${first}, then ${second}`))
    expect(ROWS.map(({ first, second }) => `${first}, then ${second}`)).toEqual(pairs)
  })

  it.each(ROWS)('$first, then $second', async ({ first, second, expected }) => {
    const committed = await meet(first, second, 'commit')
    const undone = await meet(first, second, 'rollback')
    expect({ wait: committed.wait, commit: committed.outcome, rollback: undone.outcome }).toEqual(expected)
    expect(undone.wait).toBe(expected.wait)
  })

  const waiting = ROWS.filter(({ expected }) => expected.wait === 'lock_timeout')
  it.each(waiting)('$second gives up in time behind $first, and changes nothing', async ({ first, second }) => {
    const impatient = database.connect({ max: 1, connection: { lock_timeout: 10 } })
    const scene = await setScene(ACTS_ON(first))
    const transaction = await open(sessions.first, first, scene)
    expect(sqlStateOf(await caught(run(impatient, second, scene)))).toBe(LOCK_NOT_AVAILABLE)
    await transaction.end('rollback')
    expect(await stateOf(scene)).toBe('Running/0')
    await impatient.client.end()
  })

  it('a push outside of transactions does not wait for a change of the task that has its key', async () => {
    const scene = await setScene('Running')
    const transaction = await open(sessions.first, 'ack', scene)
    const storage = new PostgresStorage(sessions.second.db, defineQueue<string>(scene.queue))
    const push = storage.push('a', { idempotencyKey: scene.claims[0]!.id })
    expect(await caught(push)).toBeInstanceOf(IdempotencyConflictError)
    await transaction.end('rollback')
  })
})

describe('of two operations, each on many tasks', () => {
  const PAIRS = NAMES.flatMap((first) => NAMES.map((second) => [first, second] as const))
  const MANY = Array.from({ length: 10 }, () => ['Running', 'Pending', 'Done'] as const).flat()
  let [one, other]: Session[] = []

  beforeAll(async () => {
    one = await openSession()
    other = await openSession()
    // In a large table rows are found by an index, and so locked in the order in which they are asked for.
    await database.sql`
      insert into apalis.jobs (job, id, job_type, status, done_at)
      select '{}', 'F' || lpad(n::text, 25, '0'), 'others', 'Done', now() from generate_series(1, 20000) n`
    await database.sql`analyze apalis.jobs`
  })

  // In the opposite order, the one would hold what the other waits for as soon as the task in the middle is free.
  it.each(PAIRS)('%s and %s never wait for each other, when both have come half way', async (first, second) => {
    const scene = await setScene(...MANY)
    const backwards = { ...scene, claims: scene.claims.toReversed() }
    const middle = scene.claims[MANY.length / 2]!
    const held = await hold(database.sql, `update apalis.jobs set priority = 1 where id = '${middle.id}'`)
    const forth = one!.db.transaction((tx) => OPERATIONS[first](tx, scene, 'first'))
    await waits(forth, one!)
    const back = other!.db.transaction((tx) => OPERATIONS[second](tx, backwards, 'second'))
    await waits(back, other!)
    await held.release()
    await Promise.all([forth, back])
  })
})
