/**
 * Shows that a claim which the application acknowledges in its own transaction ends when that commits, and stays held when
 * it does not; and that its worker learns of either.
 */
import {
  admin,
  InvalidArgumentError,
  MissingFieldError,
  StaleAcknowledgementError,
  type Claim,
  type Outcome,
  type PgTx,
  type TaskContext,
} from 'apalis-drizzle'
import { describe, expect, it } from 'vitest'
import { caught } from './support/caught.js'
import { useDatabase } from './support/database.js'
import { rowOf, workerRow } from './support/rows.js'
import { gate, useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)

const row = (id: string) => rowOf(database.sql, id)
const DONE: Outcome<string> = { status: 'Done', result: 'sent' }

/** A queue, one task of it as a claim, and the loop that it came from. */
async function oneClaim(options: Parameters<typeof work>[0] = {}) {
  const mails = work<number, string>(options as never)
  const id = await mails.storage.push(1)
  const loop = mails.storage.poll({ worker: 'mine' })[Symbol.asyncIterator]()
  const { value } = await loop.next()
  const claim = value as Claim<number>
  const ackWithTx = (outcome: Outcome<string> = DONE) =>
    database.db.transaction((tx) => mails.storage.ackWithTx(tx, claim, outcome))
  const ended = () => mails.events.all.map(({ type }) => type).filter((type) => type.startsWith('task.'))
  return { ...mails, id, loop, claim, ackWithTx, ended }
}

describe('ackWithTx', () => {
  it.each<[string, Outcome<string>, object, 'task.done' | 'task.failed' | 'task.killed']>([
    ['Done', DONE, { status: 'Done', last_result: { Ok: 'sent' } }, 'task.done'],
    [
      'Failed',
      { status: 'Failed', error: new Error('no'), delayMs: 60_000 },
      { status: 'Failed', last_result: { Err: 'no' } },
      'task.failed',
    ],
    ['Killed', { status: 'Killed', error: 'gone' }, { status: 'Killed', last_result: { Err: 'gone' } }, 'task.killed'],
  ])(
    'records %s with the transaction; the worker learns of the commit and can end',
    async (_, outcome, stored, type) => {
      const { loop, claim, storage, events, id, queue, ended } = await oneClaim()
      await database.db.transaction(async (tx) => {
        await storage.ackWithTx(tx, claim, outcome)
        expect(await row(id)).toMatchObject({ status: 'Running', attempts: 0 })
      })
      expect(await row(id)).toMatchObject({ ...stored, attempts: 1, lock_by: 'mine#1' })
      expect(await events.next(type)).toMatchObject({ id, attempt: 1 })
      await loop.return?.()
      await events.next('worker.stopped')
      expect(await workerRow(database.sql, 'mine#1', queue.name)).toMatchObject({ lease_token: null })
      expect(ended()).toEqual(['task.claimed', type])
    },
  )

  it('that is rolled back leaves the claim as it was', async () => {
    const { loop, claim, storage, id, ended } = await oneClaim()
    const rolledBack = database.db.transaction(async (tx) => {
      await storage.ackWithTx(tx, claim, { status: 'Killed', error: 'gone' })
      tx.rollback()
    })
    await caught(rolledBack)
    expect(await row(id)).toMatchObject({ status: 'Running', attempts: 0 })
    await storage.ack(claim, DONE)
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent' } })
    await loop.return?.()
    expect(ended()).toEqual(['task.claimed', 'task.done'])
  })

  it.each<[string, Outcome<string>]>([
    ['the same', DONE],
    ['another', { status: 'Failed', error: 'the answer to COMMIT was lost' }],
  ])('counts, and an acknowledgement after it with %s outcome is refused', async (_, outcome) => {
    const { loop, claim, storage, id, ackWithTx, ended } = await oneClaim()
    await ackWithTx()
    const after = await row(id)
    expect(await caught(storage.ack(claim, outcome))).toBeInstanceOf(StaleAcknowledgementError)
    expect(await caught(ackWithTx(outcome))).toBeInstanceOf(StaleAcknowledgementError)
    expect(await row(id)).toEqual(after)
    await loop.return?.()
    expect(ended()).toEqual(['task.claimed', 'task.done'])
  })

  it('of a lost claim throws, so that the transaction rolls back', async () => {
    const { loop, id, ackWithTx, events } = await oneClaim()
    await database.sql`update apalis.jobs set status = 'Killed', attempts = 5 where id = ${id}`
    expect(await caught(ackWithTx())).toMatchObject({ code: 'STALE_ACKNOWLEDGEMENT', taskId: id, worker: 'mine#1' })
    expect(await row(id)).toMatchObject({ status: 'Killed', attempts: 5, last_result: null })
    await loop.return?.()
    expect(events.all.some(({ type }) => type === 'task.done')).toBe(false)
  })

  it('of a failure is no lost claim when the same worker gets the task again', async () => {
    const { loop, ackWithTx, storage, events, ended } = await oneClaim()
    const next = loop.next()
    await ackWithTx({ status: 'Failed', error: 'no', delayMs: 0 })
    const again = (await next).value as Claim<number>
    expect(again.attempt).toBe(2)
    await events.next('task.failed')
    await storage.ack(again, DONE)
    await loop.return?.()
    expect(ended().toSorted()).toEqual(['task.claimed', 'task.claimed', 'task.done', 'task.failed'])
  })

  it('counts the delay of a failure, and when it happened, from the statement and not from the start of the transaction', async () => {
    const { loop, claim, storage, id } = await oneClaim()
    await database.db.transaction(async (tx) => {
      const [began] = await tx.execute<{ at: Date }>(`select now()::timestamptz as at, pg_sleep(0.2)`)
      expect(began).toBeDefined()
      await storage.ackWithTx(tx, claim, { status: 'Failed', error: 'no', delayMs: 60_000 })
      const [times] = await tx.execute<{ done: number; due: number }>(`
        select extract(epoch from done_at - now())::float8 as done, extract(epoch from run_at - done_at)::float8 as due
        from apalis.jobs where id = '${id}'`)
      expect(times!.done).toBeGreaterThanOrEqual(0.2)
      expect(times!.due).toBe(60)
    })
    await loop.return?.()
  })

  it('of ctx.task ends the task of a worker without autoAck, also from within the handler', async () => {
    const { storage, worker, events } = work<number, string>()
    const id = await storage.push(1)
    const handler = async (_: number, { task }: TaskContext<number, string>) => {
      await database.db.transaction((tx) => storage.ackWithTx(tx, task, DONE))
      return 'ignored'
    }
    await worker(handler, { autoAck: false }).run({ untilIdle: true })
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent' } })
    await events.next('task.done')
  })

  it('that a worker which stops finds committed is not handed back', async () => {
    const { storage, started } = work<number, string>()
    const id = await storage.push(1)
    const seen = gate<Claim<number>>()
    const worker = await started((_, { task }) => (seen.open(task), ''), { autoAck: false })
    const task = await seen.opened
    let stopping: Promise<void> | undefined
    await database.db.transaction(async (tx) => {
      await storage.ackWithTx(tx, task, DONE)
      stopping = worker.stop({ timeoutMs: 0 })
    })
    await stopping
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it('of a task that was locked by its id ends that, and is refused the second time', async () => {
    const { storage, queue, events } = work<number, string>()
    await admin(database.db).registerWorker(queue.name, 'by hand')
    const [committed, undone] = [await storage.push(1), await storage.push(2)]
    const claims = await storage.claimByIds([committed, undone], 'by hand')
    for (const claim of claims) {
      const transaction = database.db.transaction(async (tx) => {
        await storage.ackWithTx(tx, claim, DONE)
        if (claim.args === 2) tx.rollback()
      })
      await transaction.catch(() => undefined)
    }
    expect(await row(committed)).toMatchObject({ status: 'Done', attempts: 1, last_result: { Ok: 'sent' } })
    expect(await row(undone)).toMatchObject({ status: 'Running', attempts: 0 })
    const [first, second] = claims as [Claim<number>, Claim<number>]
    expect(await caught(storage.ack(first, { status: 'Failed', error: 'late' }))).toBeInstanceOf(
      StaleAcknowledgementError,
    )
    await storage.ack(second, DONE)
    for (const id of [committed, undone]) await events.next('task.done', (event) => event.id === id)
    expect(await row(undone)).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it('under repeatable read, of a claim that its transaction does not see, is refused; the claim stays', async () => {
    const { storage, queue } = work<number, string>()
    await admin(database.db).registerWorker(queue.name, 'by hand')
    const id = await storage.push(1)
    let claim: Claim<number> | undefined
    const first = database.db.transaction(
      async (tx) => {
        await tx.execute('select 1')
        claim = await storage.lockTask(id, 'by hand')
        await storage.ackWithTx(tx, claim, DONE)
      },
      { isolationLevel: 'repeatable read' },
    )
    expect(await caught(first)).toBeInstanceOf(StaleAcknowledgementError)
    await database.db.transaction((tx) => storage.ackWithTx(tx, claim!, DONE))
    expect(await row(id)).toMatchObject({ status: 'Done', attempts: 1 })
  })

  it('refuses what cannot be acknowledged, before any SQL; the claim stays', async () => {
    const { loop, claim, storage, id, ackWithTx } = await oneClaim()
    const other = work<number, string>()
    const refused = await database.db.transaction(async (tx) => ({
      result: await caught(storage.ackWithTx(tx, claim, { status: 'Done', result: (() => 1) as never })),
      copy: await caught(storage.ackWithTx(tx, { ...claim }, DONE)),
      queue: await caught(other.storage.ackWithTx(tx, claim, DONE)),
      tx: await caught(storage.ackWithTx(database.db as unknown as PgTx, claim, DONE)),
    }))
    expect(refused).toMatchObject({
      result: { argument: 'result' },
      queue: { argument: 'claim' },
      tx: { argument: 'tx' },
    })
    for (const error of [refused.result, refused.queue, refused.tx]) expect(error).toBeInstanceOf(InvalidArgumentError)
    expect(refused.copy).toBeInstanceOf(MissingFieldError)
    expect(await row(id)).toMatchObject({ status: 'Running', attempts: 0 })
    await ackWithTx()
    await loop.return?.()
  })
})
