/** How acknowledgements share statements. What each of them does is the matter of ack.test.ts. */
import type { PgDb } from 'apalis-drizzle'
import { expect, it, onTestFinished } from 'vitest'
import { AckGroup } from '../src/processes/ack-group.js'
import type { ControlClient } from '../src/processes/control-client.js'
import { ack } from '../src/statements/ack.js'
import { claim } from '../src/statements/claim.js'
import { sqlStateOf } from '../src/vocabulary/database-error.js'
import type { Db } from '../src/vocabulary/db.js'
import { useDatabase } from './support/database.js'
import { hold, waitingFor } from './support/held.js'
import { clearTasks, storeTasks, storeWorker } from './support/rows.js'

const database = useDatabase()
const { queue, worker, leaseToken } = { queue: 'emails', worker: 'mailer#1', leaseToken: 'mine' }

/**
 * Twenty claims, and a group that counts its statements.
 *
 * @param onAnswer - Called when the given statement has been executed; what it throws becomes of its answer.
 */
async function twentyClaims(onAnswer: (statement: number) => void = () => undefined, connection: PgDb = database.db) {
  const db = connection as unknown as Db
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
  const failures: unknown[] = []
  const acks = new AckGroup(counted, queue, worker, {
    onFailure: (error) => void failures.push(sqlStateOf(error)),
    onRecovery: () => undefined,
  })
  return { db, rows, acks, failures, sent: () => sent }
}

it.each([
  { results: 'small', size: 10, statements: 2 },
  // Of a million characters each, four fit one statement.
  { results: 'large', size: 1_000_000, statements: 1 + 5 },
])('$results results that become ready together go in $statements statements', async ({ size, statements }) => {
  const { rows, acks, sent } = await twentyClaims()
  const result = JSON.stringify({ Ok: 'x'.repeat(size) })
  const answers = await Promise.all(rows.map((row) => acks.submit(row, { status: 'Done', result })))
  expect(answers).toEqual(Array.from({ length: 20 }, () => ({ written: 'Done' })))
  // The first leaves at once, the others while it is under way.
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
  expect(sent()).toBe(2)
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

it('a deadlock fails nobody: what was in it is sent again', async () => {
  // The server ends the statement that looks for a circle first.
  const { db } = database.connect({ max: 1, connection: { deadlock_timeout: '10ms' } })
  const { rows, acks, failures } = await twentyClaims(undefined, db)
  const lock = (n: number) => `select from apalis.jobs where id = '${rows[n]!.id}' for update`
  const [second, third] = [await hold(database.sql, lock(2)), await hold(database.sql, lock(3))]
  onTestFinished(async () => {
    await Promise.all([second.release(), third.release()])
  })
  const answers = Promise.all(
    rows.slice(0, 4).map((row) => acks.submit(row, { status: 'Done', result: '{"Ok":null}' })),
  )
  await waitingFor(database.sql, second)
  const [acknowledging] = await database.sql<{ pid: number }[]>`
    select pid from pg_stat_activity where ${second.pid} = any (pg_blocking_pids(pid))`
  const crossing = third.session.unsafe(lock(1)).execute()
  await waitingFor(database.sql, acknowledging!)
  await second.release()
  await crossing
  await third.release()
  expect(await answers).toEqual(Array.from({ length: 4 }, () => ({ written: 'Done' })))
  expect(failures).toContain('40P01')
})
