/** How acknowledgements share statements. What each of them does is the matter of ack.test.ts. */
import { expect, it } from 'vitest'
import { AckGroup } from '../src/processes/ack-group.js'
import type { ControlClient } from '../src/processes/control-client.js'
import { claim } from '../src/statements/claim.js'
import type { Db } from '../src/vocabulary/db.js'
import { useDatabase } from './support/database.js'
import { clearTasks, storeTasks, storeWorker } from './support/rows.js'

const database = useDatabase()
const { queue, worker, leaseToken } = { queue: 'emails', worker: 'mailer#1', leaseToken: 'mine' }

it.each([
  { results: 'small', size: 10, statements: 2 },
  // Of a million characters each, four fit one statement.
  { results: 'large', size: 1_000_000, statements: 1 + 5 },
])('$results results that become ready together go in $statements statements', async ({ size, statements }) => {
  const db = database.db as unknown as Db
  await clearTasks(database.sql)
  await storeWorker(database.sql, { id: worker, queue, leaseToken })
  await storeTasks(database.sql, 20, { queue })
  const rows = await claim(db, { queue, worker, leaseToken, thresholdMs: 300_000, limit: 20, running: 20 })
  let sent = 0
  const counted: Pick<ControlClient, 'run'> = {
    run: (statement) => {
      sent += 1
      return statement(db)
    },
  }
  const acks = new AckGroup(counted as ControlClient, queue, worker, {
    onFailure: (error) => {
      throw error
    },
    onRecovery: () => undefined,
  })
  const result = JSON.stringify({ Ok: 'x'.repeat(size) })
  const answers = await Promise.all(rows.map((row) => acks.submit(row, { status: 'Done', result })))
  expect(answers).toEqual(Array.from({ length: 20 }, () => ({ written: 'Done' })))
  // The first leaves at once, the others while it is under way.
  expect(sent).toBe(statements)
})
