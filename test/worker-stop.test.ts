/**
 * Shows how workers begin and end: what `start`, `stop`, `run` and `runWorkers` promise, and what they leave behind.
 */
import { getEventListeners } from 'node:events'
import { pushTaskWithTx, runWorkers, shutdownSignal, TaskAbortedError, type Worker } from 'apalis-drizzle'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { describe, expect, it, onTestFinished } from 'vitest'
import { DEADLINES } from '../src/processes/deadlines.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { startProgram } from './support/program.js'
import { hold, waitingFor } from './support/held.js'
import { rowOf, storeWorker, workerRow } from './support/rows.js'
import { until } from './support/until.js'
import { gate, idle, untilAborted, useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)

const row = (id: string) => rowOf(database.sql, id)
const registration = (worker: Worker) => workerRow(database.sql, worker.name, worker.queue)

/** Connections of the loops of all workers in the database. */
async function controlConnections(): Promise<number> {
  const open = await database.sql`
    select 1 from pg_stat_activity where datname = current_database() and application_name = 'apalis-drizzle worker'`
  return open.length
}

const noConnections = () => until(async () => (await controlConnections()) === 0, 'the workers have no connection left')

/** Resolves after the next heartbeat of the worker. */
async function nextHeartbeat(worker: Worker): Promise<void> {
  const lastSeen = async () => Number((await registration(worker))!['last_seen'])
  const before = await lastSeen()
  await until(async () => (await lastSeen()) > before, 'the next heartbeat')
}

const lively = { keepAliveMs: 50, reenqueueOrphanedAfterMs: 60_000 }

describe('start', () => {
  it('resolves when the worker is registered', async () => {
    const { events, worker } = work({ timeoutMs: 1_000 })
    const mailer = worker(async function send() {}, { name: 'mailer' })
    expect(mailer.name).toBe('mailer')
    await mailer.start()
    expect(mailer.name).toBe('mailer#1')
    const registered = await registration(mailer)
    expect(registered).toMatchObject({ storage_name: 'DrizzleStorage', layers: 'Timeout<TaskFn<send>>' })
    expect(registered!['lease_token']).toEqual(expect.any(String))
    expect(await events.next('worker.started')).toMatchObject({
      worker: 'mailer#1',
      queue: mailer.queue,
      level: 'info',
    })
  })

  it('gives the same promise when called again', async () => {
    const { events, worker } = work()
    const twice = worker(idle)
    expect(twice.start()).toBe(twice.start())
    await twice.start()
    expect(events.all.filter(({ type }) => type === 'worker.started')).toHaveLength(1)
  })

  it('is refused once stop was called', async () => {
    const { queue, worker } = work()
    const stopped = worker(idle)
    const stopping = stopped.stop()
    await expect(stopped.start()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'start' })
    await stopping
    await expect(stopped.start()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(stopped.run()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'workers' })
    expect(await database.sql`select 1 from apalis.workers where worker_type = ${queue.name}`).toEqual([])
  })

  it('fails when no server listens, and leaves nothing behind', async () => {
    const client = postgres('postgres://postgres@127.0.0.1:1/none', { max: 1 })
    const { worker } = work({}, drizzle({ client }))
    await expect(worker(idle).start()).rejects.toMatchObject({
      code: 'DATABASE',
      message: expect.stringContaining('ECONNREFUSED') as string,
    })
    await client.end()
  })

  it('may be called again after it has failed', async () => {
    const { queue, storage, events, worker } = work<number>()
    await storage.push(1)
    const later = worker(idle, { name: 'later#1' })
    await storeWorker(database.sql, { id: 'later#1', queue: queue.name })
    await expect(later.start()).rejects.toMatchObject({ code: 'ALREADY_REGISTERED' })
    await noConnections()
    await database.sql`delete from apalis.workers where id = 'later#1'`
    await later.start()
    await events.next('task.done')
  })

  describe('without the schema', () => {
    const empty = useDatabase({ migrated: false })

    it('fails and says what to do', async () => {
      const { worker } = work({}, empty.db)
      await expect(worker(idle).start()).rejects.toMatchObject({
        code: 'DATABASE',
        sqlState: '42P01',
        message: expect.stringContaining('Run setup(db)') as string,
      })
    })
  })
})

describe('stop', () => {
  it('gives the same promise however often it is called [NEXT-27]', async () => {
    const { events, started } = work()
    const worker = await started(idle)
    const stopping = worker.stop()
    expect(worker.stop({ timeoutMs: 5 })).toBe(stopping)
    await stopping
    expect(worker.stop()).toBe(stopping)
    expect(events.all.filter(({ type }) => type === 'worker.stopped')).toHaveLength(1)
  })

  it('before the start does nothing', async () => {
    const { events, worker } = work()
    await worker(idle).stop()
    expect(events.all).toEqual([])
  })

  it('during the start waits for it, and leaves a released name', async () => {
    const { events, worker } = work()
    const early = worker(idle)
    const starting = early.start()
    await early.stop()
    await starting
    expect(events.all.map(({ type }) => type)).toEqual(['worker.started', 'worker.stopped'])
    expect(await registration(early)).toMatchObject({ lease_token: null })
  })

  it('during a start that fails resolves all the same', async () => {
    const { queue, worker } = work()
    await storeWorker(database.sql, { id: 'taken#1', queue: queue.name })
    const early = worker(idle, { name: 'taken#1' })
    const starting = early.start()
    const stopping = early.stop()
    await expect(starting).rejects.toMatchObject({ code: 'ALREADY_REGISTERED' })
    await stopping
    await expect(early.start()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  const LOCK_WORKERS = 'lock table apalis.workers in exclusive mode'
  const impatient = { ...DEADLINES, lastCallMs: 100 }

  it('during a start that takes long does not wait for it; the late registration is released', async () => {
    await noConnections()
    const { events, worker } = work()
    const held = await hold(database.sql, LOCK_WORKERS)
    onTestFinished(() => held.release())
    const early = worker(idle, {}, impatient)
    let registered = false
    const starting = early.start().then(() => (registered = true))
    await waitingFor(database.sql, held)
    await early.stop()
    expect(registered).toBe(false)
    await held.release()
    await starting
    expect(await registration(early)).toMatchObject({ lease_token: null })
    await noConnections()
    expect(events.all).toEqual([])
  })

  it('ends a run whose start takes long', async () => {
    const { worker } = work()
    const held = await hold(database.sql, LOCK_WORKERS)
    onTestFinished(() => held.release())
    const { signal, abort } = abortable()
    const early = worker(idle, {}, impatient)
    const running = early.run({ signal })
    await waitingFor(database.sql, held)
    abort()
    await running
    await held.release()
    const released = async () => (await workerRow(database.sql, 'worker#1', early.queue))?.['lease_token'] === null
    await until(released, 'the name is released')
  })

  it('while it registers again drains the lost session at once; the late registration is released', async () => {
    await noConnections()
    const { queue, events, started } = work<string>()
    const worker = await started(idle, { ...lively, name: 'only#1' }, impatient)
    await database.sql`
      update apalis.workers set lease_token = 'of a stranger' where id = 'only#1' and worker_type = ${queue.name}`
    await events.next('worker.error', ({ operation }) => operation === 'registering again')
    const held = await hold(
      database.sql,
      LOCK_WORKERS,
      `delete from apalis.workers where id = 'only#1' and worker_type = '${queue.name}'`,
    )
    onTestFinished(() => held.release())
    await waitingFor(database.sql, held)
    await worker.stop({ timeoutMs: 0 })
    expect(events.all.at(-1)).toMatchObject({ type: 'worker.stopped' })
    expect(await registration(worker)).toMatchObject({ lease_token: 'of a stranger' })
    await held.session.unsafe('commit')
    await until(async () => (await registration(worker))?.['lease_token'] === null, 'the name is released')
    await noConnections()
    expect(events.all.at(-1)).toMatchObject({ type: 'worker.stopped' })
  })

  it('waits for running handlers, with its heartbeat going on', async () => {
    const { storage, events, started } = work<number>()
    const id = await storage.push(1)
    const ends = gate()
    let signal: AbortSignal | undefined
    const worker = await started((_args, ctx) => {
      signal = ctx.signal
      return ends.opened
    }, lively)
    await events.next('task.claimed')
    const stopping = worker.stop({ timeoutMs: 86_400_000 })
    await nextHeartbeat(worker)
    await nextHeartbeat(worker)
    expect(signal?.aborted).toBe(false)
    expect(await row(id)).toMatchObject({ status: 'Running' })
    ends.open()
    await stopping
    expect(await row(id)).toMatchObject({ status: 'Done' })
    expect(events.all.map(({ type }) => type).slice(-2)).toEqual(['task.done', 'worker.stopped'])
  })

  it.each([Number.NaN, -1, 0.5, 86_400_001, Number.POSITIVE_INFINITY])(
    'goes on when it is told to stop within %s ms',
    async (timeoutMs) => {
      const { storage, events, started } = work<number>()
      const worker = await started(idle)
      expect(await caught(worker.stop({ timeoutMs }))).toMatchObject({ argument: 'timeoutMs' })
      await storage.push(1)
      await events.next('task.done')
    },
  )

  it('says so when handlers still run a second later', async () => {
    const { storage, events, started } = work<number>()
    await storage.push(1)
    const ends = gate()
    const worker = await started(() => ends.opened)
    await events.next('task.claimed')
    const stopping = worker.stop()
    const { level, running, message } = await events.next('worker.stopping')
    expect([level, running]).toEqual(['warn', 1])
    expect(message).toContain('1 task may take 24 s more')
    ends.open()
    await stopping
    expect(events.all.map(({ type }) => type).slice(-3)).toEqual(['worker.stopping', 'task.done', 'worker.stopped'])
  })

  it('hands tasks that have not started back, uncharged', async () => {
    const { storage, events, started } = work<number>()
    const ids = [await storage.push(1), await storage.push(2), await storage.push(3)] as const
    const ends = gate()
    const worker = await started(() => ends.opened, { concurrency: 1 })
    await events.next('task.claimed', ({ id }) => id === ids[2])
    const stopping = worker.stop()
    await events.next('task.deferred', ({ id }) => id === ids[1])
    await events.next('task.deferred', ({ id }) => id === ids[2])
    for (const id of ids.slice(1)) {
      expect(await row(id)).toMatchObject({ status: 'Pending', attempts: 0, lock_by: null, lock_at: null })
    }
    ends.open()
    await stopping
    expect(await row(ids[0])).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it('aborts handlers after stopTimeoutMs, whose tasks return uncharged, for the next worker of the name at once [NEXT-27] [NEXT-28]', async () => {
    const { storage, events, started } = work<number, string>()
    const id = await storage.push(1)
    const worker = await started(untilAborted, { name: 'deployed#1', stopTimeoutMs: 20 })
    await events.next('task.claimed')
    await worker.stop()
    expect(await events.next('task.deferred')).toMatchObject({ id })
    expect(await row(id)).toMatchObject({ status: 'Pending', attempts: 0, lock_by: null, lock_at: null })
    const next = await started(() => 'by the next', { name: 'deployed#1' })
    expect(next.name).toBe('deployed#1')
    await events.next('task.done')
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'by the next' } })
  })

  it('records the success of a handler that was aborted', async () => {
    const { storage, events, started } = work<number, string>()
    const id = await storage.push(1)
    const worker = await started(
      (_args, { signal }) =>
        new Promise((resolve) =>
          signal.addEventListener('abort', () => resolve((signal.reason as TaskAbortedError).why)),
        ),
    )
    await events.next('task.claimed')
    await worker.stop({ timeoutMs: 0 })
    expect(await row(id)).toMatchObject({ status: 'Done', last_result: { Ok: 'shutdown' } })
  })

  it('does not wait for ever for a handler that ignores its signal', async () => {
    const { storage, events, started } = work<number>()
    const id = await storage.push(1)
    const worker = await started(() => new Promise(() => undefined))
    await events.next('task.claimed')
    await worker.stop({ timeoutMs: 0 })
    expect(events.all.map(({ type }) => type).slice(-3)).toEqual(['task.overrun', 'task.deferred', 'worker.stopped'])
    const { level, message } = events.all.at(-1)!
    expect([level, message]).toEqual(['warn', expect.stringContaining('1 handler that ignored its signal still runs')])
    expect(await row(id)).toMatchObject({ status: 'Pending', attempts: 0 })
  })

  it('happens at the end of an `await using` block, which starts nothing', async () => {
    const { events, worker } = work()
    {
      await using unused = worker(idle)
      expect(unused.queue).toBeDefined()
    }
    expect(events.all).toEqual([])
    {
      await using used = worker(idle)
      await used.start()
    }
    expect(events.all.map(({ type }) => type)).toEqual(['worker.started', 'worker.stopped'])
  })

  it('closes the connections of the loops with the last worker', async () => {
    await noConnections()
    const { storage, started } = work<number>()
    const first = await started(idle)
    const second = await started(idle)
    expect(first.name).not.toBe(second.name)
    await first.stop()
    expect(await controlConnections()).toBeGreaterThan(0)
    await storage.push(1)
    await second.stop()
    await noConnections()
  })
})

describe('run', () => {
  it('works until its signal aborts, and forgets the signal', async () => {
    const { storage, events, worker } = work<number>()
    const { signal, ...controller } = abortable()
    const running = worker(idle).run({ signal })
    const id = await storage.push(1)
    await events.next('task.done', (event) => event.id === id)
    controller.abort()
    await running
    expect(events.all.at(-1)).toMatchObject({ type: 'worker.stopped' })

    const kept = abortable()
    await work().worker(idle).run({ signal: kept.signal, untilIdle: true })
    expect(getEventListeners(kept.signal, 'abort')).toEqual([])
  })

  it('starts nothing when the signal has aborted already', async () => {
    const { events, worker } = work()
    const late = worker(idle)
    await late.run({ signal: AbortSignal.abort() })
    expect(events.all).toEqual([])
    await expect(late.start()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  it('until idle ends when nothing is due and nothing runs, and leaves delayed tasks', async () => {
    const { storage, worker } = work<number>()
    const delayed = await storage.push(0, { delayMs: 60_000 })
    const due = await storage.push(1)
    await worker(idle).run({ untilIdle: true })
    expect(await row(due)).toMatchObject({ status: 'Done' })
    expect(await row(delayed)).toMatchObject({ status: 'Pending', attempts: 0 })
  })

  it('until idle leaves no task that is to be repeated at once', async () => {
    for (let round = 0; round < 20; round++) {
      const { storage, worker } = work<number>({ retry: { baseMs: 0 } })
      const id = await storage.push(round)
      await worker((_args, { attempt }) => {
        if (attempt < 5) throw new Error('not yet')
      }).run({ untilIdle: true })
      expect(await row(id)).toMatchObject({ status: 'Done', attempts: 5 })
    }
  })

  it.each([false, true])('ends when somebody stops the worker (untilIdle: %s)', async (untilIdle) => {
    const { storage, worker } = work<number>()
    await storage.push(1)
    const stopsItself: Worker = worker((_args, { signal }) => {
      void stopsItself.stop({ timeoutMs: 0 })
      return untilAborted(undefined, { signal })
    })
    await stopsItself.run({ untilIdle })
    expect(await registration(stopsItself)).toMatchObject({ lease_token: null })
  })
})

describe('runWorkers', () => {
  it('refuses objects that only look like workers, before it starts any', async () => {
    const { events, worker } = work()
    const real = worker(idle)
    const wrapper: Worker = {
      name: real.name,
      queue: real.queue,
      start: () => real.start(),
      stop: () => real.stop(),
      run: () => real.run(),
      [Symbol.asyncDispose]: () => real.stop(),
    }
    for (const other of [wrapper, undefined as unknown as Worker]) {
      const refused = runWorkers([real, other])
      await expect(refused).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'workers' })
      await expect(refused).rejects.toThrow('pass what storage.worker returned')
    }
    expect(events.all).toEqual([])
  })

  it('starts all and stops all', async () => {
    const [first, second] = [work<number>(), work<number>()]
    const { signal, abort } = abortable()
    const running = runWorkers([first.worker(idle), second.worker(idle)], { signal })
    await first.storage.push(1)
    await second.storage.push(2)
    await first.events.next('task.done')
    await second.events.next('task.done')
    abort()
    await running
    for (const { events } of [first, second]) expect(events.all.at(-1)).toMatchObject({ type: 'worker.stopped' })
  })

  it('stops the others when one cannot start, and rejects with its error', async () => {
    const [first, second] = [work<number>(), work<number>()]
    await storeWorker(database.sql, { id: 'taken#1', queue: second.queue.name })
    const running = runWorkers([first.worker(idle), second.worker(idle, { name: 'taken#1' })])
    await expect(running).rejects.toMatchObject({ code: 'ALREADY_REGISTERED', queue: second.queue.name })
    expect(first.events.all.map(({ type }) => type)).toEqual(['worker.started', 'worker.stopped'])
    expect(second.events.all).toEqual([])
  })

  it('until idle goes on while the task of one queue pushes to another', async () => {
    const [first, second] = [work<number>(), work<number>()]
    const pushesTo = (to: typeof first) => async (n: number) => {
      if (n > 0) await database.db.transaction((tx) => pushTaskWithTx(tx, to.queue.task(n - 1)))
    }
    await first.storage.push(9)
    await runWorkers([first.worker(pushesTo(second)), second.worker(pushesTo(first))], { untilIdle: true })
    const statuses = await database.sql`
      select status, count(*)::int from apalis.jobs where job_type in (${first.queue.name}, ${second.queue.name}) group by 1`
    expect(statuses).toEqual([{ status: 'Done', count: 10 }])
  })

  it('until idle goes on when a queue was idle before a task that had long started pushed to it', async () => {
    const [first, second] = [work<number>(), work<number>()]
    const firstWasIdle = gate()
    const target = first.worker(idle) as Worker & { idle(): Promise<void> }
    const targetIsIdle = target.idle.bind(target)
    target.idle = () => targetIsIdle().then(firstWasIdle.open)
    let pushed = ''
    const source = second.worker(async () => {
      await firstWasIdle.opened
      pushed = await first.storage.push(1)
    })
    await second.storage.push(1)
    await source.start()
    await second.events.next('task.claimed')
    await runWorkers([target, source], { untilIdle: true })
    expect(await row(pushed)).toMatchObject({ status: 'Done' })
  })
})

describe('a shutdown signal', () => {
  const watchers = () => process.listenerCount('SIGTERM') + process.listenerCount('SIGINT')

  it('leaves the signals of the process alone as soon as nothing runs that it would end', async () => {
    const before = watchers()
    const { worker, started } = work<number>()
    const signal = shutdownSignal()
    expect(watchers()).toBe(before + 2)
    const stoppedBySomebody = await started(idle)
    const running = stoppedBySomebody.run({ signal })
    await worker(idle).run({ signal, untilIdle: true })
    expect(watchers()).toBe(before + 2)
    await stoppedBySomebody.stop()
    await running
    expect(watchers()).toBe(before)
    const again = worker(idle)
    const runningAgain = again.run({ signal })
    expect(watchers()).toBe(before + 2)
    await again.stop()
    await runningAgain
    expect(watchers()).toBe(before)
    expect(getEventListeners(signal, 'abort')).toEqual([])
  })

  it('does so after a loop of its own has ended', async () => {
    const before = watchers()
    const { storage } = work<number>()
    await storage.push(1)
    for await (const claim of storage.poll({ worker: 'mine', signal: shutdownSignal() })) {
      expect(watchers()).toBe(before + 2)
      await storage.ack(claim, { status: 'Done', result: undefined })
      break
    }
    expect(watchers()).toBe(before)
  })
})

describe('a process', () => {
  it('stops its worker at the first SIGTERM and ends by itself', async () => {
    const { queue, storage } = work<string>()
    const id = await storage.push('x')
    const program = startProgram('shutdown', { DATABASE_URL: database.url, QUEUE: queue.name })
    expect(await program.nextLine()).toBe('running')
    program.child.kill('SIGTERM')
    expect(await program.nextLine()).toContain('SIGTERM')
    expect(await program.nextLine()).toBe('ended')
    expect(await program.ended).toEqual({ end: 0, errors: '' })
    expect(await row(id)).toMatchObject({ status: 'Done' })
    expect(await workerRow(database.sql, 'program#1', queue.name)).toMatchObject({ lease_token: null })
  })

  it.each(['SIGTERM', 'SIGINT'] as const)('is killed by the second %s as usual', async (signal) => {
    const { queue, storage } = work<string>()
    await storage.push('x')
    const env = { DATABASE_URL: database.url, QUEUE: queue.name, IGNORES_SIGNAL: 'yes' }
    const program = startProgram('shutdown', env)
    expect(await program.nextLine()).toBe('running')
    program.child.kill(signal)
    expect(await program.nextLine()).toContain(signal)
    program.child.kill(signal)
    expect((await program.ended).end).toBe(signal)
  })

  it('ends by itself when its queue is empty', async () => {
    const { queue, storage } = work<string>()
    const id = await storage.push('x')
    const program = startProgram('until-idle', { DATABASE_URL: database.url, QUEUE: queue.name })
    expect(await program.nextLine()).toBe('ended')
    expect(await program.ended).toEqual({ end: 0, errors: '' })
    expect(await row(id)).toMatchObject({ status: 'Done' })
  })
})

function abortable() {
  const controller = new AbortController()
  return { signal: controller.signal, abort: () => controller.abort() }
}
