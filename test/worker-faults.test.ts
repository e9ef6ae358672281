/**
 * Shows what workers do when connections break, answers get lost, registrations are taken away and locks are held: every
 * task ends as it says, nothing runs again without need, and nothing rejects unheard.
 */
import { PostgresStorage, type TaskAbortedError, type TaskContext, type Worker } from 'apalis-drizzle'
import { recordEvents, type RecordedEvents } from 'apalis-drizzle/testing'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { openControlClient } from '../src/processes/control-client.js'
import { DEADLINES, type Deadlines } from '../src/processes/deadlines.js'
import { KeepAlive, type KeepAliveHooks } from '../src/processes/keep-alive.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import { startProxy, type PostgresProxy } from './support/proxy.js'
import { rowOf, storeTask, storeWorker, taskId, workerRow } from './support/rows.js'
import { until } from './support/until.js'
import { serverHasRunForASecond } from './support/uptime.js'
import { gate, idle, untilAborted, useWorkers, type Work } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)

const row = (id: string) => rowOf(database.sql, id)
const registration = (worker: Worker) => workerRow(database.sql, worker.name, worker.queue)
const lively = { keepAliveMs: 50, reenqueueOrphanedAfterMs: 60_000 }

/** Resolves after the next heartbeat of the worker. */
async function nextHeartbeat(worker: Worker): Promise<void> {
  const lastSeen = async () => Number((await registration(worker))!['last_seen'])
  const before = await lastSeen()
  await until(async () => (await lastSeen()) > before, 'the next heartbeat')
}

interface Proxied {
  proxy: PostgresProxy
  db: ReturnType<typeof drizzle>
}

/** A client that reaches the database through a proxy. */
async function proxied(): Promise<Proxied> {
  const proxy = await startProxy(database.url)
  const client = postgres(proxy.url, { max: 2, onnotice: () => undefined })
  onTestFinished(async () => {
    await client.end({ timeout: 0 })
    await proxy.stop()
  })
  return { proxy, db: drizzle({ client }) }
}

/** Past all proxies. */
const push = <Args, Result>({ queue }: Pick<Work<Args, Result>, 'queue'>, args: Args): Promise<string> =>
  new PostgresStorage(database.db, queue).push(args)

const failures = (events: RecordedEvents, operation: string) =>
  events.all.filter((event) => event.type === 'worker.error' && event.operation === operation)

/** Nothing tells of them, which is the point; in the meantime each loop has tried several times. */
const furtherFailures = () => new Promise((resolve) => setTimeout(resolve, 600))

const counted = (events: RecordedEvents, type: string) => events.all.filter((event) => event.type === type).length

describe('an acknowledgement', () => {
  it('whose answer is lost is found to be stored: no second run, one report', async () => {
    const { proxy, db } = await proxied()
    const mails = work<string, string>({}, db)
    let runs = 0
    await mails.started((args) => {
      runs += 1
      return args
    })
    const lost = proxy.loseAnswer('acknowledged')
    const id = await push(mails, 'acknowledged')
    await lost
    await mails.events.next('task.done', (event) => event.id === id)
    expect(runs).toBe(1)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'acknowledged' } })
    expect(failures(mails.events, 'acknowledging tasks')).toHaveLength(1)
    expect(counted(mails.events, 'task.done')).toBe(1)
    expect(counted(mails.events, 'task.stale')).toBe(0)
  })

  it('is repeated while the database does not answer, for as long as it takes [NEXT-08]', async () => {
    const { proxy, db } = await proxied()
    const mails = work<string, string>({}, db)
    let runs = 0
    const deadlines = { ...DEADLINES, answerMs: 100 }
    await mails.started(
      (args) => {
        runs += 1
        proxy.swallow()
        return args
      },
      {},
      deadlines,
    )
    const id = await push(mails, 'patient')
    const isAck = (event: { readonly operation: string }) => event.operation === 'acknowledging tasks'
    await mails.events.next('worker.error', isAck)
    await furtherFailures()
    proxy.restore()
    await mails.events.next('task.done', (event) => event.id === id)
    expect((await mails.events.next('worker.recovered', isAck)).failures).toBeGreaterThan(1)
    expect(runs).toBe(1)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
    const messages = mails.events.all.filter(({ level }) => level === 'error').map(({ message }) => message)
    expect(messages.join()).toContain('no answer within 100 ms')
  })

  it('of a task that a transaction holds locked waits for it and keeps no other waiting', async () => {
    const mails = work<string>()
    const locked = await push(mails, 'locked')
    const others = [await push(mails, 'other'), await push(mails, 'other')]
    const ends = gate()
    await mails.started(() => ends.opened)
    for (const id of [locked, ...others]) await mails.events.next('task.claimed', (event) => event.id === id)
    const held = await hold(database.sql, `select 1 from apalis.jobs where id = '${locked}' for update`)
    onTestFinished(() => held.release())
    ends.open()
    for (const id of others) await mails.events.next('task.done', (event) => event.id === id)
    const late = await push(mails, 'late')
    await mails.events.next('task.done', (event) => event.id === late)
    expect(await row(locked)).toMatchObject({ status: 'Running' })
    // Told of only when it takes long. One outage for as long as it lasts, although others go through.
    const { message } = await mails.events.next('worker.error', (event) => event.operation === 'acknowledging tasks')
    expect(message).toContain(`task ${locked} is locked by another transaction`)
    expect(counted(mails.events, 'worker.recovered')).toBe(0)
    await held.release()
    await mails.events.next('task.done', (event) => event.id === locked)
    expect(await row(locked)).toMatchObject({ status: 'Done', attempts: 1 })
    await mails.events.next('worker.recovered', ({ operation }) => operation === 'acknowledging tasks')
    expect(failures(mails.events, 'acknowledging tasks')).toHaveLength(1)
  })

  it('of a locked task in each of four queues keeps no connection from the loops of a fifth', async () => {
    const ends = gate()
    const queues = Array.from({ length: 4 }, () => work<string>())
    const ids: string[] = []
    for (const mails of queues) {
      await mails.started(() => ends.opened)
      const id = await push(mails, 'locked')
      await mails.events.next('task.claimed', (event) => event.id === id)
      ids.push(id)
    }
    const held = await hold(database.sql, `select 1 from apalis.jobs where id in ('${ids.join("','")}') for update`)
    onTestFinished(() => held.release())
    ends.open()
    const fifth = work<string>()
    const worker = await fifth.started(idle, lively)
    const other = await push(fifth, 'other')
    await fifth.events.next('task.done', (event) => event.id === other)
    await nextHeartbeat(worker)
    const waiting = await database.sql`select from pg_stat_activity where ${held.pid} = any (pg_blocking_pids(pid))`
    expect(waiting).toEqual([])
    await held.release()
    for (const [n, mails] of queues.entries()) await mails.events.next('task.done', (event) => event.id === ids[n])
  })

  it('that the database refuses to store does not fail those in the same statement, and ends its task', async () => {
    const mails = work<string, string>()
    await database.sql`alter table apalis.jobs add constraint no_secrets check (last_result is distinct from '{"Ok": "secret"}')`
    onTestFinished(async () => {
      await database.sql`alter table apalis.jobs drop constraint no_secrets`
    })
    const refused = await push(mails, 'secret')
    const others = [await push(mails, 'a'), await push(mails, 'b')]
    const ends = gate()
    await mails.started((args) => ends.opened.then(() => args))
    for (const id of [refused, ...others]) await mails.events.next('task.claimed', (event) => event.id === id)
    ends.open()
    for (const id of others) await mails.events.next('task.done', (event) => event.id === id)
    await mails.events.next('task.killed', (event) => event.id === refused)
    expect(await row(refused)).toMatchObject({
      status: 'Killed',
      attempts: 1,
      last_result: { Err: expect.stringContaining('is not run again') as string },
    })
  })
})

describe('a claim', () => {
  it.each([false, true])(
    'whose answer is lost comes back uncharged, although its worker lives (listening: %s) [NEXT-21]',
    async (listen) => {
      const { proxy, db } = await proxied()
      const mails = work<string>({}, db)
      const ids = [await push(mails, 'a'), await push(mails, 'b')]
      const attempts: number[] = []
      const lost = proxy.loseAnswer("date_trunc('second'")
      const deadlines = { ...DEADLINES, strayMs: 100 }
      await mails.started((_args, { attempt }) => void attempts.push(attempt), { ...lively, listen }, deadlines)
      await lost
      expect(await mails.events.next('worker.error')).toMatchObject({
        operation: 'claiming tasks',
        cause: { code: 'DATABASE', cause: expect.any(Error) as Error },
      })
      for (const id of ids) {
        expect(await mails.events.next('task.deferred', (event) => event.id === id)).toMatchObject({
          attempt: 1,
          level: 'warn',
        })
      }
      for (const id of ids) await mails.events.next('task.done', (event) => event.id === id)
      expect(attempts).toEqual([1, 1])
      for (const id of ids) expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
      expect(counted(mails.events, 'task.claimed')).toBe(2)
      expect(counted(mails.events, 'heartbeat.lost')).toBe(0)
    },
  )

  it('that found nothing and whose answer is lost is reported, and the worker goes on [NEXT-23]', async () => {
    const { proxy, db } = await proxied()
    const mails = work<string>({}, db)
    const lost = proxy.loseAnswer("date_trunc('second'")
    await mails.started(idle, { listen: false })
    await lost
    expect(await mails.events.next('worker.error')).toMatchObject({ operation: 'claiming tasks' })
    const id = await push(mails, 'later')
    await mails.events.next('task.done', (event) => event.id === id)
    await mails.events.next('worker.recovered')
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it('that the server refuses changes nothing, and the worker goes on [NEXT-24]', async () => {
    await database.sql.unsafe(`
      create function refuse_claim() returns trigger language plpgsql as $$ begin raise exception 'refused'; end $$;
      create trigger refuse_claims before update on apalis.jobs for each row when (new.status = 'Running')
        execute function refuse_claim()`)
    const mails = work<string>()
    const id = await push(mails, 'x')
    await mails.started(idle)
    const { cause } = await mails.events.next('worker.error', ({ operation }) => operation === 'claiming tasks')
    expect(cause).toMatchObject({ code: 'DATABASE', sqlState: 'P0001' })
    expect(await row(id)).toMatchObject({ status: 'Pending', attempts: 0, lock_by: null })
    await database.sql`drop function refuse_claim cascade`
    await mails.events.next('task.done', (event) => event.id === id)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it('of a task that is running and was taken back aborts that run; only the new one counts', async () => {
    const mails = work<string, string>()
    const id = await push(mails, 'x')
    const runs: TaskContext<string, string>[] = []
    await mails.started(async (_args, ctx) => {
      runs.push(ctx)
      if (runs.length === 1) {
        await takeBack(id)
        await untilAborted(undefined, ctx).catch(() => undefined)
      }
      return `run ${runs.length}`
    })
    await mails.events.next('task.done', (event) => event.id === id)
    const stale = await mails.events.next('task.stale', (event) => event.id === id)
    expect(stale).toMatchObject({ level: 'warn', attempt: 1 })
    expect((runs[0]!.signal.reason as TaskAbortedError).why).toBe('claim-lost')
    expect(runs[1]!.signal.aborted).toBe(false)
    expect(runs).toHaveLength(2)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'run 2' } })
  })

  it('of a buffered task that was taken back is forgotten: only the new one runs', async () => {
    const mails = work<string>()
    const first = await push(mails, 'first')
    const second = await push(mails, 'second')
    const ends = gate()
    const ran: string[] = []
    await mails.started(
      async (args) => {
        ran.push(args)
        if (args === 'first') await ends.opened
      },
      { concurrency: 1, bufferSize: 4 },
    )
    await mails.events.next('task.claimed', ({ id }) => id === second)
    await takeBack(second)
    await mails.events.next('task.claimed', ({ id }) => id === second)
    await mails.events.next('task.stale', ({ id }) => id === second)
    ends.open()
    await mails.events.next('task.done', ({ id }) => id === first)
    await mails.events.next('task.done', ({ id }) => id === second)
    expect(ran).toEqual(['first', 'second'])
    expect(await row(second)).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it('that the heartbeat finds lost aborts its handler, or drops the buffered task', async () => {
    const mails = work<string>()
    const running = await push(mails, 'running')
    const buffered = await push(mails, 'buffered')
    const reason = gate<unknown>()
    const ends = gate()
    await mails.started(
      (_args, { signal }) => {
        signal.addEventListener('abort', () => reason.open(signal.reason))
        return ends.opened
      },
      { ...lively, concurrency: 1 },
    )
    await mails.events.next('task.claimed', ({ id }) => id === buffered)
    await database.sql`update apalis.jobs set status = 'Killed', attempts = 5 where id in (${running}, ${buffered})`
    expect(await reason.opened).toMatchObject({ code: 'TASK_ABORTED', why: 'claim-lost', taskId: running })
    await mails.events.next('task.stale', ({ id }) => id === buffered)
    ends.open()
    await mails.events.next('task.stale', ({ id }) => id === running)
    expect(await row(running)).toMatchObject({ status: 'Killed', attempts: 5 })
    expect(counted(mails.events, 'task.done')).toBe(0)
  })

  it('is not taken for lost by a heartbeat that was under way when it came', async () => {
    const mails = work<number>()
    await mails.storage.pushTasks(Array.from({ length: 500 }, (_, n) => mails.queue.task(n)))
    const handler = () => new Promise<void>((resolve) => setTimeout(resolve, 5))
    await mails.worker(handler, { ...lively, keepAliveMs: 1, concurrency: 5, bufferSize: 5 }).run({ untilIdle: true })
    expect(counted(mails.events, 'task.done')).toBe(500)
    expect(counted(mails.events, 'task.stale')).toBe(0)
  })

  /** As an administrator might do it by hand, a second ago. */
  async function takeBack(id: string) {
    await database.sql`update apalis.jobs set status = 'Pending', lock_by = null, lock_at = null where id = ${id}`
  }
})

describe('statements that fail again and again', () => {
  it('are reported when they begin to fail and when they work again', async () => {
    const mails = work<string>()
    const id = await push(mails, 'x')
    const ends = gate()
    await mails.started(() => ends.opened, lively)
    await mails.events.next('task.claimed')
    await database.sql`alter table apalis.jobs rename to elsewhere`
    onTestFinished(() => void database.sql`alter table if exists apalis.elsewhere rename to jobs`.execute())
    ends.open()
    const operations = ['claiming tasks', 'acknowledging tasks', 'sending the heartbeat']
    for (const operation of operations) {
      await mails.events.next('worker.error', (event) => event.operation === operation)
    }
    await furtherFailures()
    await database.sql`alter table apalis.elsewhere rename to jobs`
    for (const operation of operations) {
      const recovered = await mails.events.next('worker.recovered', (event) => event.operation === operation)
      expect(recovered).toMatchObject({ level: 'warn' })
      expect(recovered.failures).toBeGreaterThan(1)
      expect(failures(mails.events, operation)).toHaveLength(1)
    }
    await mails.events.next('task.done', (event) => event.id === id)
  })

  it('are so when it is the sweep, while the heartbeat goes on', async () => {
    const mails = work<string>()
    const dead = { id: 'dead#1', queue: mails.queue.name, silentFor: '10 minutes' }
    await storeWorker(database.sql, dead)
    await storeTask(database.sql, { id: taskId(50), queue: dead.queue, lockBy: dead.id, status: 'Queued' })
    await database.sql.unsafe(`
      create function public.refuse() returns trigger language plpgsql as 'begin raise exception ''refused''; end';
      create trigger refuse before update on apalis.jobs for each row when (old.lock_by = 'dead#1') execute function public.refuse()`)
    await mails.started(idle, { ...lively, reenqueueOrphanedAfterMs: 1_000 })
    await mails.events.next('worker.error', ({ operation }) => operation === 'sweeping orphans')
    await furtherFailures()
    await database.sql`drop function public.refuse() cascade`
    await mails.events.next('orphan.swept')
    const { operation, failures: times } = await mails.events.next('worker.recovered')
    expect(operation).toBe('sweeping orphans')
    expect(times).toBeGreaterThan(1)
    expect(counted(mails.events, 'worker.error')).toBe(1)
  })
})

describe('a lost registration', () => {
  /** Another process now holds the name. */
  async function takeOver(worker: Worker) {
    await database.sql`
      update apalis.workers set lease_token = 'of a stranger' where id = ${worker.name} and worker_type = ${worker.queue}`
  }

  it('aborts the handlers; the worker registers again and goes on', async () => {
    const mails = work<string>()
    const lost = await push(mails, 'lost')
    const worker = await mails.started((args, ctx) => (args === 'lost' ? untilAborted(args, ctx) : undefined), lively)
    await mails.events.next('task.claimed')
    await takeOver(worker)
    const { level, cause } = await mails.events.next('heartbeat.lost')
    expect(level).toBe('error')
    expect(cause).toMatchObject({ code: 'WORKER_NOT_REGISTERED', worker: 'worker#1' })
    expect(await mails.events.next('task.stale')).toMatchObject({ id: lost, worker: 'worker#1' })
    await mails.events.next('heartbeat.regained')
    expect(worker.name).toBe('worker#2')
    const next = await push(mails, 'next')
    expect(await mails.events.next('task.done')).toMatchObject({ id: next, worker: 'worker#2' })
    // It is the stranger's now.
    expect(await row(lost)).toMatchObject({ status: 'Running', lock_by: 'worker#1', attempts: 0 })
  })

  it('returns what had not started; a handler that ignores its signal keeps its slot, and then wakes the next', async () => {
    const mails = work<string>()
    await push(mails, 'stubborn')
    const waiting = await push(mails, 'waiting')
    const ends = gate()
    const worker = await mails.started((args) => (args === 'stubborn' ? ends.opened : undefined), {
      ...lively,
      concurrency: 1,
    })
    await mails.events.next('task.claimed', ({ id }) => id === waiting)
    await takeOver(worker)
    expect(await mails.events.next('task.deferred')).toMatchObject({ id: waiting })
    await mails.events.next('heartbeat.regained')
    // Claimed by the new session, which has no free slot for it.
    await mails.events.next('task.claimed', (event) => event.id === waiting && event.worker === 'worker#2')
    expect(await row(waiting)).toMatchObject({ status: 'Queued', attempts: 0 })
    ends.open()
    await mails.events.next('task.done', ({ id }) => id === waiting)
  })

  it('does not end a run until idle while a handler of it still runs, nor keep it from ending', async () => {
    const mails = work<string>()
    await push(mails, 'lost')
    const worker: Worker = mails.worker(async (args, ctx) => {
      if (args === 'next') return
      await takeOver(worker)
      await untilAborted(args, ctx).catch(() => undefined)
      await mails.events.next('heartbeat.regained')
      // By then the new session has looked at the empty queue.
      await nextHeartbeat(worker)
      await push(mails, 'next')
    }, lively)
    await worker.run({ untilIdle: true })
    expect(counted(mails.events, 'heartbeat.lost')).toBe(1)
    expect(counted(mails.events, 'task.done')).toBe(1)
    expect(await mails.events.next('task.done')).toMatchObject({ worker: 'worker#2' })
  })

  it('while the event loop was blocked is found afterwards: what was running counts no more', async () => {
    const mails = work<string, string>()
    const id = await push(mails, 'x')
    const runs: TaskContext<string, string>[] = []
    const worker: Worker = mails.worker(
      async (args, ctx) => {
        runs.push(ctx)
        if (runs.length > 1) return 'second run'
        // Another process takes over while this one is too busy to send heartbeats.
        const takingOver = database.sql.unsafe(`
          select pg_sleep(1.1);
          update apalis.workers set lease_token = 'of a stranger' where worker_type = '${mails.queue.name}';
          update apalis.jobs set status = 'Pending', attempts = 1, lock_by = null, lock_at = null where id = '${id}'`)
        void takingOver.execute()
        await until(async () => {
          const asleep = await database.sql`
            select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`
          return asleep.length > 0
        }, 'the takeover is under way')
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_500)
        await untilAborted(args, ctx).catch(() => undefined)
        return 'first run'
      },
      { keepAliveMs: 100, reenqueueOrphanedAfterMs: 1_000 },
    )
    await worker.start()
    expect((await mails.events.next('heartbeat.lost')).cause).toMatchObject({ code: 'WORKER_NOT_REGISTERED' })
    expect(await mails.events.next('task.stale')).toMatchObject({ id, attempt: 1 })
    await mails.events.next('heartbeat.regained')
    expect(await mails.events.next('task.done')).toMatchObject({ id, attempt: 2 })
    expect(runs[0]!.signal.reason).toMatchObject({ why: 'claim-lost' })
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 2, last_result: { Ok: 'second run' } })
  })

  it('which nobody used to take over, is told by the worker that was silent', async () => {
    const mails = work<string>()
    await mails.started(idle, { keepAliveMs: 100, reenqueueOrphanedAfterMs: 1_000 })
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_500)
    const { level, message } = await mails.events.next('worker.error')
    expect([level, message]).toEqual(['warn', expect.stringMatching(/no heartbeat for [12] s, .* process frozen/)])
  })

  it('of a full name is tried again until the stranger is gone; stop does not wait for that', async () => {
    const mails = work<string>()
    const worker = await mails.started(idle, { ...lively, name: 'only#1' })
    await takeOver(worker)
    const refused = await mails.events.next('worker.error')
    expect(refused).toMatchObject({ operation: 'registering again', cause: { code: 'ALREADY_REGISTERED' } })
    await database.sql`delete from apalis.workers where id = 'only#1'`
    await mails.events.next('heartbeat.regained')
    expect(worker.name).toBe('only#1')
    await takeOver(worker)
    await mails.events.next('worker.error')
    await worker.stop()
    expect(await registration(worker)).toMatchObject({ lease_token: 'of a stranger' })
  })

  it('while stopping is reported, and does not keep the worker from stopping', async () => {
    const mails = work<string>()
    await push(mails, 'x')
    const worker = await mails.started(untilAborted, lively)
    await mails.events.next('task.claimed')
    const stopping = worker.stop()
    await takeOver(worker)
    expect((await mails.events.next('heartbeat.lost')).message).not.toContain('Registering again')
    await stopping
    expect(counted(mails.events, 'heartbeat.regained')).toBe(0)
    expect(await registration(worker)).toMatchObject({ lease_token: 'of a stranger' })
  })

  it('is assumed when the database does not answer for as long as others wait before they take over', async () => {
    const { proxy, db } = await proxied()
    const mails = work<string>({}, db)
    const id = await push(mails, 'long')
    const reason = gate<unknown>()
    await mails.started(
      (args, ctx) => {
        if (ctx.worker !== 'worker#1') return
        ctx.signal.addEventListener('abort', () => reason.open(ctx.signal.reason))
        return untilAborted(args, ctx)
      },
      { keepAliveMs: 100, reenqueueOrphanedAfterMs: 1_000 },
      { ...DEADLINES, answerMs: 200 },
    )
    await mails.events.next('task.claimed')
    proxy.swallow()
    expect((await mails.events.next('heartbeat.lost')).cause).toMatchObject({ code: 'DATABASE' })
    expect(await reason.opened).toMatchObject({ why: 'claim-lost', taskId: id })
    proxy.restore()
    await mails.events.next('heartbeat.regained')
    const next = await push(mails, 'next')
    await mails.events.next('task.claimed', (event) => event.id === next)
  })
})

describe('stop', () => {
  it('resolves although the database does not answer', async () => {
    const { proxy, db } = await proxied()
    const mails = work<string>({}, db)
    await push(mails, 'x')
    const deadlines: Deadlines = { ...DEADLINES, lastCallMs: 100 }
    const worker = await mails.started(untilAborted, {}, deadlines)
    await mails.events.next('task.claimed')
    proxy.swallow()
    await worker.stop({ timeoutMs: 0 })
    expect(await mails.events.next('task.stale')).toMatchObject({ level: 'error' })
    expect(await mails.events.next('worker.error')).toMatchObject({ operation: 'releasing the worker', level: 'warn' })
    expect(mails.events.all.at(-1)).toMatchObject({ type: 'worker.stopped' })
  })
})

describe('a worker that stops before the database took its acknowledgement', () => {
  it('leaves the task to a successor, who finishes it [NEXT-08]', async () => {
    const { proxy, db } = await proxied()
    const mails = work<string, string>({}, db)
    const id = await push(mails, 'x')
    const threshold = { keepAliveMs: 100, reenqueueOrphanedAfterMs: 1_000 }
    await serverHasRunForASecond(database.sql)
    const worker = await mails.started(() => (proxy.swallow(), 'unheard'), threshold, { ...DEADLINES, lastCallMs: 100 })
    await mails.events.next('task.claimed')
    await worker.stop({ timeoutMs: 100 })
    expect(await mails.events.next('task.stale')).toMatchObject({ id, level: 'error' })
    expect(await row(id)).toMatchObject({ status: 'Running', attempts: 0, lock_by: worker.name })

    const successor = recordEvents()
    const storage = new PostgresStorage(database.db, mails.queue, { ...threshold, onEvent: successor.onEvent })
    await using second = storage.worker(() => 'heard', { name: 'successor' })
    await second.start()
    await successor.next('orphan.swept')
    await successor.next('task.done', (event) => event.id === id)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 2, last_result: { Ok: 'heard' } })
  })
})

describe('an application that uses up its pool', () => {
  it('keeps neither heartbeats nor acknowledgements waiting [NEXT-08]', async () => {
    const { client, db } = database.connect({ max: 2 })
    const mails = work<string>({}, db)
    const held = [await push(mails, 'holds a connection'), await push(mails, 'holds a connection')]
    const holding = [gate(), gate()]
    const ends = gate()
    const worker = await mails.started(async (args) => {
      if (args === 'quick') return
      await db.transaction(async (tx) => {
        await tx.execute('select 1')
        holding.shift()!.open()
        await ends.opened
      })
    }, lively)
    await Promise.all(holding.map(({ opened }) => opened))
    const starved = client`select 1`.execute()
    const quick = await push(mails, 'quick')
    await mails.events.next('task.done', ({ id }) => id === quick)
    await nextHeartbeat(worker)
    for (const id of held) expect(await row(id)).toMatchObject({ status: 'Running' })
    ends.open()
    await starved
    await mails.events.next('task.done')
    await mails.events.next('task.done')
    expect(counted(mails.events, 'worker.error')).toBe(0)
  })
})

describe('a database whose transactions are serializable by default', () => {
  const strict = useDatabase()

  it('is claimed from without serialization failures', async () => {
    await strict.sql.unsafe(
      `alter database ${new URL(strict.url).pathname.slice(1)} set default_transaction_isolation = serializable`,
    )
    const { db, client } = strict.connect({ connection: { default_transaction_isolation: 'serializable' } })
    expect(await client`show transaction_isolation`).toEqual([{ transaction_isolation: 'serializable' }])
    const mails = work<number>({}, db)
    await mails.storage.pushTasks(Array.from({ length: 200 }, (_, n) => mails.queue.task(n)))
    const workers = [1, 2, 3].map(() => mails.worker(idle, { concurrency: 3, bufferSize: 1 }))
    await Promise.all(workers.map((worker) => worker.run({ untilIdle: true })))
    expect(counted(mails.events, 'task.done')).toBe(200)
    expect(counted(mails.events, 'worker.error')).toBe(0)
  })
})

describe('several workers of one queue in one process', () => {
  it('have names of their own and share the tasks, none of which runs twice', async () => {
    const mails = work<number>()
    await mails.storage.pushTasks(Array.from({ length: 100 }, (_, n) => mails.queue.task(n)))
    const ran: { n: number; worker: string }[] = []
    const handler = async (n: number, { worker }: TaskContext<number>) => {
      ran.push({ n, worker })
      await database.sql`select 1`
    }
    const workers = [1, 2].map(() => mails.worker(handler, { concurrency: 2, bufferSize: 2 }))
    await Promise.all(workers.map((worker) => worker.run({ untilIdle: true })))
    expect(new Set(workers.map(({ name }) => name))).toEqual(new Set(['worker#1', 'worker#2']))
    expect(new Set(ran.map(({ worker }) => worker)).size).toBe(2)
    expect(ran.map(({ n }) => n).sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, n) => n))
  })
})

describe('a server that ends all connections again and again', () => {
  it('loses no task of 500', async () => {
    const mails = work<number>({ retry: { baseMs: 0 } })
    await mails.storage.pushTasks(Array.from({ length: 500 }, (_, n) => mails.queue.task(n)))
    const ran = new Set<number>()
    const terminations = [50, 200, 350]
    const handler = async (n: number) => {
      ran.add(n)
      if (ran.size < (terminations[0] ?? Number.POSITIVE_INFINITY)) return
      terminations.shift()
      await database.sql`
        select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()`
    }
    const deadlines = { ...DEADLINES, answerMs: 1_000, strayMs: 1_200 }
    const worker = await mails.started(handler, { ...lively, concurrency: 5 }, deadlines)
    const done = () => database.sql`select 1 from apalis.jobs where job_type = ${worker.queue} and status = 'Done'`
    // The test's own connections are ended as well.
    const finished = () =>
      done().then(
        ({ length }) => length === 500,
        () => false,
      )
    await until(finished, 'all tasks are Done')
    expect(terminations).toEqual([])
    expect(ran.size).toBe(500)
    // Nothing ran for nothing: what was charged was executed, and only once.
    expect(await database.sql`select 1 from apalis.jobs where job_type = ${worker.queue} and attempts <> 1`).toEqual([])
    expect(counted(mails.events, 'worker.error')).toBeGreaterThan(0)
  })
})

describe('the sweep', () => {
  it('returns the tasks of silent workers, and those that this worker then runs end', async () => {
    const mails = work<object>()
    const silent = { id: 'dead#1', queue: mails.queue.name }
    await storeWorker(database.sql, { ...silent, silentFor: '10 minutes' })
    const own = { queue: mails.queue.name, lockBy: 'dead#1' }
    await storeTask(database.sql, { ...own, id: taskId(1), status: 'Queued' })
    await storeTask(database.sql, { ...own, id: taskId(2), status: 'Running' })
    // The restart of the server counts as a sign of life of every worker.
    await until(async () => {
      const [started] =
        await database.sql`select pg_postmaster_start_time() < now() - interval '1.1 seconds' as long_ago`
      return started!['long_ago'] as boolean
    }, 'the server runs for longer than the threshold')
    await mails.started(idle, { keepAliveMs: 50, reenqueueOrphanedAfterMs: 1_000 })
    const swept = await mails.events.next('orphan.swept')
    expect(new Set(swept.ids)).toEqual(new Set([taskId(1), taskId(2)]))
    expect(swept.message).toContain('returned 2 tasks of silent workers')
    await mails.events.next('task.done', ({ id }) => id === taskId(1))
    expect(await row(taskId(1))).toMatchObject({ status: 'Done', attempts: 1 })
    expect(await row(taskId(2))).toMatchObject({ attempts: 1 })
  })

  describe('waits for two heartbeats keepAliveMs apart', () => {
    afterEach(() => void vi.restoreAllMocks())
    let orphans = 100

    it('after one that failed', async () => {
      const { proxy, log, swept } = await beating()
      await swept()
      await proxy.loseAnswer('token of alive#1')
      log.length = 0
      await swept()
      expect(log[0]).toBe('failed')
      expect(log.filter((line) => line === 'beat').length).toBeGreaterThanOrEqual(2)
    })

    it('after a machine has slept, so that nobody sent any', async () => {
      const { log, silences, swept } = await beating()
      await swept()
      const { now } = Date
      vi.spyOn(Date, 'now').mockImplementation(() => now.call(Date) + 3_600_000)
      log.length = 0
      await swept()
      expect(log.filter((line) => line === 'beat').length).toBeGreaterThanOrEqual(2)
      expect(silences).toEqual([expect.closeTo(3_600_000, -5)])
    })

    /** The heartbeat of one registration, through a proxy, and what it told. */
    async function beating() {
      const { proxy, db } = await proxied()
      const { queue } = work()
      const alive = { id: 'alive#1', queue: queue.name, leaseToken: 'token of alive#1' }
      const dead = { id: 'dead#1', queue: queue.name, silentFor: '10 minutes' }
      await storeWorker(database.sql, alive)
      await storeWorker(database.sql, dead)
      const log: string[] = []
      const silences: number[] = []
      const hooks: KeepAliveHooks = {
        onBeat: () => void log.push('beat'),
        onSwept: () => void log.push('swept'),
        onSilence: (ms) => silences.push(ms),
        onFailure: () => void log.push('failed'),
        onSuccess: () => undefined,
        onLost: () => void log.push('lost'),
      }
      const control = await openControlClient(db)
      const keepAlive = new KeepAlive(
        control,
        { queue: queue.name, worker: alive.id, leaseToken: alive.leaseToken, takenBack: [] },
        Date.now(),
        { keepAliveMs: 200, reenqueueOrphanedAfterMs: 1_000 },
        hooks,
      )
      onTestFinished(async () => {
        await keepAlive.stop()
        await control.close()
      })
      /** Leaves an orphan and resolves when it has been swept. */
      const swept = async () => {
        const id = taskId(++orphans)
        await storeTask(database.sql, { id, queue: queue.name, lockBy: dead.id, status: 'Queued' })
        await until(async () => log.at(-1) === 'swept', 'a sweep')
        await database.sql`delete from apalis.jobs where id = ${id}`
      }
      return { proxy, log, silences, swept }
    }
  })
})
