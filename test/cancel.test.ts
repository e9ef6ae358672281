/** What a cancellation means for the worker that holds the task. */
import { describe, expect, it } from 'vitest'
import { admin, isApalisError, type Claim, type TaskContext } from 'apalis-drizzle'
import { recordEvents, type RecordedEvents } from 'apalis-drizzle/testing'
import { openControlClient, type ControlClient } from '../src/processes/control-client.js'
import { DEADLINES } from '../src/processes/deadlines.js'
import { onEndedHere } from '../src/processes/ended-here.js'
import { IdleWatch } from '../src/processes/idle-watch.js'
import { Outages } from '../src/processes/outages.js'
import { notifyListener } from '../src/processes/listener.js'
import { newLeaseToken, registerWorker } from '../src/processes/registration.js'
import { reporter } from '../src/processes/report.js'
import { Session } from '../src/processes/session.js'
import { Slots } from '../src/processes/slots.js'
import { StuckSlots } from '../src/processes/stuck-slots.js'
import { definitionOf } from '../src/vocabulary/definition.js'
import { findCancelled } from '../src/statements/find-cancelled.js'
import type { Db } from '../src/vocabulary/db.js'
import { workerSettings } from '../src/vocabulary/settings.js'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { clearTasks, rowOf, storeTask, storeWorker, taskId } from './support/rows.js'
import { until } from './support/until.js'
import { gate, untilAborted, useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)

/** Without notifications the heartbeat tells. */
const byHeartbeat = { listen: false, keepAliveMs: 100 } as const
/** Nothing tells before the test is over. */
const untold = { listen: false, keepAliveMs: 60_000 } as const

const steer = () => admin(database.db)
const row = (id: string) => rowOf(database.sql, id)

function counted(events: RecordedEvents, type: string): number {
  return events.all.filter((event) => event.type === type).length
}

/** That it was told once, and not as a mishap. */
async function expectCancelled(events: RecordedEvents, id: string): Promise<void> {
  const event = await events.next('task.killed', (killed) => killed.id === id)
  expect(event).toMatchObject({ level: 'info', attempt: 1 })
  expect(event.message).toMatch(/: task \w+ was cancelled in attempt 1$/)
  expect(event.cause).toMatchObject({ code: 'TASK_ABORTED', why: 'cancelled', taskId: id })
}

async function expectKilled(id: string, attempts: number): Promise<void> {
  expect(await row(id)).toMatchObject({
    status: 'Killed',
    attempts,
    last_result: { Err: 'Cancelled by an administrator.' },
  })
}

describe.each([
  ['by a notification', { listen: true, keepAliveMs: 60_000 }],
  ['by the heartbeat, without notifications', byHeartbeat],
])('a worker is told %s', (_, options) => {
  it('of a task that runs: its signal aborts, and what the handler does is not recorded', async () => {
    const mails = work<string>()
    const running = gate<TaskContext<string>>()
    const worker = await mails.started((args, ctx) => {
      running.open(ctx)
      return untilAborted(args, ctx)
    }, options)
    if (options.listen) await mails.events.next('listener.up')
    const id = await mails.storage.push('x')
    const { signal } = await running.opened
    expect(await steer().cancel({ ids: [id] })).toEqual({ changed: [id], refused: [] })
    await expectCancelled(mails.events, id)
    expect(signal.reason).toMatchObject({ code: 'TASK_ABORTED', why: 'cancelled', taskId: id })
    await expectKilled(id, 1)
    await worker.stop()
    expect(counted(mails.events, 'task.killed')).toBe(1)
    for (const type of ['task.stale', 'task.failed', 'task.done']) expect(counted(mails.events, type)).toBe(0)
  })

  it('of tasks that wait in its buffer: they never start', async () => {
    const mails = work<string>()
    const ran: string[] = []
    const ends = gate()
    const first = await mails.storage.push('first')
    const others = await mails.storage.pushTasks(['a', 'b', 'c'].map((args) => mails.queue.task(args)))
    const worker = await mails.started(
      async (args) => {
        ran.push(args)
        await ends.opened
      },
      { ...options, concurrency: 1, bufferSize: 4 },
    )
    if (options.listen) await mails.events.next('listener.up')
    for (const id of [first, ...others]) await mails.events.next('task.claimed', (claimed) => claimed.id === id)
    expect((await steer().cancel({ queue: mails.queue.name, status: 'Queued' })).changed.toSorted()).toEqual(others)
    for (const id of others) await expectCancelled(mails.events, id)
    ends.open()
    await mails.events.next('task.done', ({ id }) => id === first)
    await worker.stop()
    expect(ran).toEqual(['first'])
    for (const id of others) await expectKilled(id, 0)
    expect(counted(mails.events, 'task.stale')).toBe(0)
  })
})

it('a worker whose notifications were off looks when they are on again', async () => {
  const times = {
    openTimeoutMs: 5_000,
    pingIntervalMs: 30_000,
    pingTimeoutMs: 5_000,
    firstRetryMs: 800,
    maxRetryMs: 800,
  }
  const { db } = database.connect({ max: 1 })
  await using listen = notifyListener(db, times)
  const mails = work<string>()
  const running = gate()
  await mails.started(
    (args, ctx) => {
      running.open()
      return untilAborted(args, ctx)
    },
    { listen, keepAliveMs: 60_000 },
  )
  await mails.events.next('listener.up')
  const id = await mails.storage.push('x')
  await running.opened
  await database.sql`
    select pg_terminate_backend(pid) from pg_stat_activity
    where application_name = 'apalis-drizzle listener' and datname = current_database()`
  await mails.events.next('listener.down')
  await steer().cancel({ ids: [id] })
  expect(counted(mails.events, 'listener.up')).toBe(1)
  await expectCancelled(mails.events, id)
})

describe('a handler', () => {
  it('that ignores its signal is reported as such; its slot is free when it ends', async () => {
    const mails = work<string>()
    const started = gate()
    const ends = gate()
    await mails.started(
      async (args) => {
        if (args === 'deaf') {
          started.open()
          await ends.opened
        }
      },
      { ...byHeartbeat, concurrency: 1 },
    )
    const deaf = await mails.storage.push('deaf')
    await started.opened
    const next = await mails.storage.push('next')
    await steer().cancel({ ids: [deaf] })
    expect(await mails.events.next('task.overrun')).toMatchObject({ id: deaf })
    await expectCancelled(mails.events, deaf)
    expect(counted(mails.events, 'task.done')).toBe(0)
    ends.open()
    await mails.events.next('task.done', ({ id }) => id === next)
    await expectKilled(deaf, 1)
    expect(counted(mails.events, 'task.killed')).toBe(1)
  })

  it.each([
    ['returns', () => undefined],
    [
      'throws',
      () => {
        throw new Error('x')
      },
    ],
  ])('that %s before its worker is told changes nothing any more', async (_, end) => {
    const mails = work<string>()
    const started = gate()
    const ends = gate()
    await mails.started(async () => {
      started.open()
      await ends.opened
      end()
    }, untold)
    const id = await mails.storage.push('x')
    await started.opened
    await steer().cancel({ ids: [id] })
    ends.open()
    await expectCancelled(mails.events, id)
    await expectKilled(id, 1)
    expect(counted(mails.events, 'task.stale')).toBe(0)
  })

  it('goes on when the cancellation is undone, or was somebody’s invention', async () => {
    const mails = work<string>()
    const started = gate<TaskContext<string>>()
    const ends = gate()
    const worker = await mails.started(async (_args, ctx) => {
      started.open(ctx)
      await ends.opened
    })
    await mails.events.next('listener.up')
    const id = await mails.storage.push('x')
    const { signal } = await started.opened
    const rolledBack = database.db.transaction(async (tx) => {
      expect((await admin(tx).cancel({ ids: [id] })).changed).toEqual([id])
      tx.rollback()
    })
    await expect(rolledBack).rejects.toThrow()
    await database.sql.notify(
      'apalis_drizzle::cancel',
      JSON.stringify({ job_type: mails.queue.name, worker: worker.name }),
    )
    ends.open()
    await mails.events.next('task.done', (done) => done.id === id)
    expect(signal.aborted).toBe(false)
  })
})

describe('a claim', () => {
  const claim = { id: taskId(1), attempts: 0, lockAt: 1_700_000_000 }

  it.each<
    [string, boolean, Partial<Record<'queue' | 'worker' | 'status', string>> & { lockAt?: number; error?: string }]
  >([
    ['that the row shows as cancelled is', true, {}],
    ['of another queue is not', false, { queue: 'others' }],
    ['of another worker is not', false, { worker: 'mailer#2' }],
    ['of another time is not', false, { lockAt: 1_700_000_001 }],
    ['whose task was given up is not', false, { error: 'Cancelled' }],
    ['of a task that was cancelled, retried and claimed is not', false, { status: 'Running' }],
  ])('%s cancelled', async (_, isCancelled, { queue = 'emails', worker = 'mailer#1', status = 'Killed', ...other }) => {
    await clearTasks(database.sql)
    await storeWorker(database.sql, { id: 'mailer#1', queue: 'emails' })
    const result = { Err: other.error ?? 'Cancelled by an administrator.' }
    await storeTask(database.sql, { id: claim.id, queue: 'emails', status, lockBy: 'mailer#1', result })
    await database.sql`update apalis.jobs set lock_at = to_timestamp(${claim.lockAt})`
    const { lockAt = claim.lockAt } = other
    const db = database.db as unknown as Db
    const cancelled = await findCancelled(db, queue, worker, [
      { ...claim, id: taskId(2) },
      { ...claim, lockAt },
    ])
    expect([...cancelled]).toEqual(isCancelled ? [claim.id] : [])
  })
})

describe('a task that was cancelled', () => {
  it('never runs again', async () => {
    const mails = work<string>({ retry: { baseMs: 0 } })
    const [killed, retried] = await mails.storage.pushTasks(['killed', 'retried'].map((args) => mails.queue.task(args)))
    await steer().cancel({ ids: [killed!, retried!] })
    await steer().retryNow({ ids: [retried!] })
    const ran: string[] = []
    const worker = mails.worker((args) => void ran.push(args))
    await mails.storage.push('last')
    await database.sql`select pg_sleep(extract(epoch from max(run_at) - clock_timestamp())) from apalis.jobs`
    await worker.run({ untilIdle: true })
    expect(ran.toSorted()).toEqual(['last', 'retried'])
    await expectKilled(killed!, 0)
  })

  it('while the answer of its claim was on its way is dropped when that comes', async () => {
    const mails = work<string>()
    const started = gate<TaskContext<string>>()
    const answered = gate()
    const claimed = gate()
    const real = await openControlClient(database.db)
    const control: ControlClient = {
      ...real,
      run: async (statement) => {
        const answer = await real.run(statement)
        if (Array.isArray(answer) && answer.length > 0) {
          claimed.open()
          await answered.opened
        }
        return answer
      },
    }
    const id = await mails.storage.push('x')
    const events = recordEvents()
    const settings = workerSettings({}, untold)
    const registration = await control.run((db) =>
      registerWorker(db, {
        queue: mails.queue.name,
        name: 'worker',
        leaseToken: newLeaseToken(),
        layers: '',
        thresholdMs: settings.reenqueueOrphanedAfterMs,
      }),
    )
    const report = reporter(mails.queue.name, registration.worker, events.onEvent)
    const session = new Session<string, void>({
      control,
      registration,
      registeredAt: Date.now(),
      settings,
      deadlines: DEADLINES,
      slots: new Slots(1, () => undefined),
      stuckSlots: new StuckSlots(report),
      onDemand: false,
      idleWatch: new IdleWatch(() => undefined),
      heldEarlier: () => false,
      listening: () => false,
      runner: {
        worker: registration.worker,
        queue: definitionOf(mails.queue),
        handler: (args, ctx) => {
          started.open(ctx)
          return untilAborted(args, ctx)
        },
        autoAck: true,
        onRetryFailure: () => undefined,
      },
      report,
      outages: new Outages(report),
    })
    await claimed.opened
    await steer().cancel({ ids: [id] })
    session.lookForCancelled()
    answered.open()
    await expectCancelled(events, id)
    await session.drain(0)
    await control.close()
    await expectKilled(id, 1)
  })
})

describe('a handler that completes its task in its own transaction', () => {
  it('and is faster: the cancellation waits for it, and is refused', async () => {
    const mails = work<string>()
    const [completed, commits] = [gate(), gate()]
    await mails.started((_args, ctx) =>
      database.db.transaction(async (tx) => {
        const completion = await ctx.completeWithTx(tx, undefined)
        completed.open()
        await commits.opened
        return completion
      }),
    )
    const id = await mails.storage.push('x')
    await completed.opened
    const cancelled = steer().cancel({ ids: [id] })
    await until(async () => {
      const [row] = await database.sql`select count(*)::int from pg_stat_activity
        where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0`
      return row?.['count'] === 1
    }, 'the cancellation waits')
    commits.open()
    expect(await cancelled).toEqual({ changed: [], refused: [{ id, reason: 'it has ended (Done)' }] })
    await mails.events.next('task.done', (done) => done.id === id)
  })

  it.each([
    ['has heard of the cancellation', byHeartbeat],
    ['has not heard of the cancellation', untold],
  ])('and %s: the completion is stale, and the transaction rolls back', async (_, options) => {
    const mails = work<string>()
    const [started, goesOn] = [gate<TaskContext<string>>(), gate()]
    const failed = gate<unknown>()
    await mails.started(async (_args, ctx) => {
      started.open(ctx)
      await goesOn.opened
      const completing = database.db.transaction(async (tx) => {
        await tx.execute('create table effects ()')
        return ctx.completeWithTx(tx, undefined)
      })
      completing.catch(failed.open)
      return completing
    }, options)
    const id = await mails.storage.push('x')
    const { signal } = await started.opened
    await steer().cancel({ ids: [id] })
    if (options === byHeartbeat && !signal.aborted) await new Promise((told) => signal.addEventListener('abort', told))
    goesOn.open()
    expect(isApalisError(await failed.opened, 'STALE_ACKNOWLEDGEMENT')).toBe(true)
    expect(await database.sql`select to_regclass('effects') as effects`).toEqual([{ effects: null }])
    await expectCancelled(mails.events, id)
    await expectKilled(id, 1)
    expect(counted(mails.events, 'task.stale')).toBe(0)
  })
})

describe('who waits for the result', () => {
  it('gets it as of any other task that was given up, at once in this process', async () => {
    const mails = work<string>()
    const id = await mails.storage.push('x')
    const told: string[] = []
    const forget = onEndedHere(database.db as unknown as Db, (ended) => told.push(ended))
    const rolledBack = database.db.transaction(async (tx) => {
      await admin(tx).cancel({ ids: [id] })
      tx.rollback()
    })
    await expect(rolledBack).rejects.toThrow()
    expect(told).toEqual([])
    await steer().cancel({ ids: [id] })
    expect(told).toEqual([id])
    forget()
    expect(await mails.storage.waitForSingle(id)).toEqual({
      id,
      status: 'Killed',
      error: 'Cancelled by an administrator.',
    })
  })
})

describe('a claim that the application acknowledges itself', () => {
  it('and has locked by its id, is refused as stale, and reported once', async () => {
    const mails = work<string>()
    const id = await mails.storage.push('x')
    await steer().registerWorker(mails.queue.name, 'consumer')
    const claim = await mails.storage.lockTask(id, 'consumer')
    await steer().cancel({ ids: [id] })
    const error = await caught(mails.storage.ack(claim, { status: 'Killed', error: 'x' }))
    expect(isApalisError(error, 'STALE_ACKNOWLEDGEMENT')).toBe(true)
    await expectCancelled(mails.events, id)
    await expectKilled(id, 1)
    expect(counted(mails.events, 'task.stale')).toBe(0)
  })

  it.each(['Failed', 'Killed'] as const)(
    'is not taken for acknowledged as %s, although the row looks alike',
    async (status) => {
      const mails = work<string>({ maxAttempts: 1 })
      const handed = gate<Claim<string>>()
      await mails.started((_args, { task }) => handed.open(task), { ...untold, autoAck: false })
      const id = await mails.storage.push('x')
      const claim = await handed.opened
      const rolledBack = database.db.transaction(async (tx) => {
        await mails.storage.ackWithTx(tx, claim, { status, error: 'x' })
        tx.rollback()
      })
      await expect(rolledBack).rejects.toThrow('Rollback')
      await steer().cancel({ ids: [id] })
      // It asks first what became of the transaction.
      const error = await caught(mails.storage.ack(claim, { status: 'Done', result: undefined }))
      expect(isApalisError(error, 'STALE_ACKNOWLEDGEMENT')).toBe(true)
      await expectCancelled(mails.events, id)
    },
  )

  it('is refused as stale, and reported once', async () => {
    const mails = work<string>()
    const handed = gate<Claim<string>>()
    await mails.started(
      (_args, { task }) => {
        handed.open(task)
      },
      { ...byHeartbeat, autoAck: false },
    )
    const id = await mails.storage.push('x')
    const claim = await handed.opened
    await steer().cancel({ ids: [id] })
    await expectCancelled(mails.events, id)
    const error = await caught(mails.storage.ack(claim, { status: 'Done', result: undefined }))
    expect(isApalisError(error, 'STALE_ACKNOWLEDGEMENT')).toBe(true)
    await expectKilled(id, 1)
    expect(counted(mails.events, 'task.killed')).toBe(1)
  })

  it('is refused as stale when its acknowledgement comes before the news', async () => {
    const mails = work<string>()
    const handed = gate<Claim<string>>()
    await mails.started((_args, { task }) => handed.open(task), { ...untold, autoAck: false })
    const id = await mails.storage.push('x')
    const claim = await handed.opened
    await steer().cancel({ ids: [id] })
    const error = await caught(mails.storage.ack(claim, { status: 'Done', result: undefined }))
    expect(isApalisError(error, 'STALE_ACKNOWLEDGEMENT')).toBe(true)
    await expectCancelled(mails.events, id)
    await expectKilled(id, 1)
  })
})
