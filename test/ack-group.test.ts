/** How acknowledgements share statements. What each of them does is the matter of ack.test.ts. */
import { describe, expect, it, onTestFinished } from 'vitest'
import { AckGroup } from '../src/processes/ack-group.js'
import type { ControlClient } from '../src/processes/control-client.js'
import { ack } from '../src/statements/ack.js'
import { claim } from '../src/statements/claim.js'
import type { Db } from '../src/vocabulary/db.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import { clearTasks, storeTasks, storeWorker } from './support/rows.js'

const database = useDatabase()
const { queue, worker, leaseToken } = { queue: 'emails', worker: 'mailer#1', leaseToken: 'mine' }

/**
 * Twenty claims, and a group that counts its statements.
 *
 * @param onAnswer - Called when the given statement has been executed; what it throws becomes of its answer.
 */
async function twentyClaims(onAnswer: (statement: number) => void = () => undefined) {
  const db = database.db as unknown as Db
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: worker, queue, leaseToken })
  await storeTasks(database.sql, 20, { queue })
  const rows = await claim(db, { queue, worker, leaseToken, thresholdMs: 300_000, limit: 20, running: 20 })
  let sent = 0
  const counted: Pick<ControlClient, 'run'> = {
    run: async (statement) => {
      sent += 1
      const answer = await statement(db)
      onAnswer(sent)
      return answer
    },
  }
  const acks = new AckGroup(counted, queue, worker, {
    onFailure: () => undefined,
    onRecovery: () => undefined,
  })
  return { db, rows, acks, sent: () => sent }
}

it.each([
  { results: 'small', size: 10, statements: 1 },
  // Of a million characters each, four fit one statement.
  { results: 'large', size: 1_000_000, statements: 5 },
])('$results results that become ready together: statements $statements', async ({ size, statements }) => {
  const { rows, acks, sent } = await twentyClaims()
  const result = JSON.stringify({ Ok: 'x'.repeat(size) })
  const answers = await Promise.all(rows.map((row) => acks.submit(row, { status: 'Done', result })))
  expect(answers).toEqual(Array.from({ length: 20 }, () => ({ written: 'Done' })))
  expect(sent()).toBe(statements)
})

it('questions after transactions share statements, and write nothing', async () => {
  const { db, rows, acks, sent } = await twentyClaims()
  const done = { status: 'Done', result: '{"Ok":null}' } as const
  const committed = rows.slice(0, 15)
  await ack(
    db,
    queue,
    worker,
    committed.map((fence) => ({ fence, outcome: done })),
  )
  const answers = await Promise.all(rows.map((row) => acks.ask(row, done)))
  expect(answers).toEqual(rows.map((_, n) => (n < 15 ? { written: 'Done', inTransaction: true } : 'stale')))
  expect(sent()).toBe(1)
  const running = await database.sql`select count(*)::int as count from apalis.jobs where status = 'Running'`
  expect(running).toEqual([{ count: 5 }])
})

it('two claims of one task do not share an answer', async () => {
  const { rows, acks } = await twentyClaims()
  const [first, present] = rows
  const former = { ...present!, lockAt: present!.lockAt - 5 }
  const killed = { status: 'Killed', result: '{"Err":"of the former"}' } as const
  const answers = await Promise.all([
    acks.submit(first!, killed),
    acks.submit(former, killed),
    acks.submit(present!, { status: 'Done', result: '{"Ok":null}' }),
  ])
  expect(answers).toEqual([{ written: 'Killed' }, 'stale', { written: 'Done' }])
})

it('one whose answer was there and could not be read is not taken for stale', async () => {
  const { rows, acks, sent } = await twentyClaims((statement) => {
    if (statement === 1) throw new TypeError('Cannot read properties of undefined')
  })
  expect(await acks.submit(rows[0]!, { status: 'Done', result: '{"Ok":null}' })).toEqual({ written: 'Done' })
  // Written, attempted again, and looked up.
  expect(sent()).toBe(3)
})

describe('one whose task a transaction holds locked', () => {
  const done = { status: 'Done', result: '{"Ok":null}' } as const

  /** Acknowledges all while one is locked; its neighbours are answered before the lock is gone. */
  async function besideALock() {
    const { rows, acks } = await twentyClaims()
    const held = await hold(database.sql, `update apalis.jobs set priority = 1 where id = '${rows[7]!.id}'`)
    onTestFinished(() => held.release())
    const answers = rows.map((row) => acks.submit(row, done))
    const neighbours = await Promise.all(answers.filter((_, n) => n !== 7))
    expect(neighbours).toEqual(neighbours.map(() => ({ written: 'Done' })))
    const waiting = await database.sql`select from pg_stat_activity where ${held.pid} = any (pg_blocking_pids(pid))`
    expect(waiting).toEqual([])
    expect(acks.underWay).toBe(1)
    return { id: rows[7]!.id, held, acks, locked: answers[7]! }
  }

  it('keeps neither its neighbours nor a connection waiting, and is written when the lock is gone', async () => {
    const { held, locked } = await besideALock()
    await held.release()
    expect(await locked).toEqual({ written: 'Done' })
  })

  it('is stale when the transaction has taken the task away', async () => {
    const { id, held, locked } = await besideALock()
    await held.session`update apalis.jobs set status = 'Pending', lock_by = null, lock_at = null where id = ${id}`
    await held.session`commit`
    expect(await locked).toBe('stale')
  })

  it('is given up with the others', async () => {
    const { acks, locked } = await besideALock()
    acks.giveUp()
    expect(await locked).toBe('given-up')
    expect(acks.underWay).toBe(0)
  })
})
