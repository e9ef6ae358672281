/** What the runbook tells an operator to ask the database: each statement runs, and shows what the text promises. */
import { readFileSync } from 'node:fs'
import { admin } from 'apalis-drizzle'
import { beforeEach, describe, expect, it } from 'vitest'
import { useDatabase } from './support/database.js'
import { hold, waitingFor } from './support/held.js'
import { clearTasks, storeTask, storeWorker, taskId } from './support/rows.js'

const database = useDatabase()
const queue = 'emails'
const runbook = readFileSync(new URL('../docs/operations.md', import.meta.url), 'utf8')

/** The statement under a heading. */
function statement(heading: string): string {
  const [, section = ''] = runbook.split(new RegExp(`^#+ ${heading}$`, 'm'))
  return /^```sql\n([^]*?)^```/m.exec(section)![1]!
}

const ask = (heading: string) => database.sql.unsafe(statement(heading))

describe('docs/operations.md', () => {
  beforeEach(async () => {
    await clearTasks(database.sql)
    await storeWorker(database.sql, { id: 'dead#1', queue, silentFor: '1 hour' })
  })

  it('shows held tasks with their owner and its last heartbeat', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: 'dead#1' })
    await storeTask(database.sql, { id: taskId(2), queue })
    expect(await ask('Held tasks')).toMatchObject([
      { queue, id: taskId(1), worker: 'dead#1', heartbeat_age: expect.stringMatching(/^01:00:0/) as string },
    ])
  })

  it('shows due tasks, and whose transaction has them locked', async () => {
    await storeTask(database.sql, { id: taskId(1), queue, runAt: '-2 minutes' })
    await storeTask(database.sql, { id: taskId(2), queue })
    await storeTask(database.sql, { id: taskId(3), queue, runAt: '1 hour' })
    await storeTask(database.sql, { id: taskId(4), queue, status: 'Failed', attempts: 5 })
    const held = await hold(database.sql, `select from apalis.jobs where id = '${taskId(1)}' for update`)
    expect(await ask('Due tasks that nobody has claimed')).toMatchObject([
      { queue, id: taskId(1), pid: held.pid, state: 'idle in transaction' },
      { queue, id: taskId(2), pid: null },
    ])
    await held.release()
  })

  it('shows who waits for whom', async () => {
    await storeTask(database.sql, { id: taskId(1), queue })
    const held = await hold(database.sql, `select from apalis.jobs where id = '${taskId(1)}' for update`)
    const { client } = database.connect({ max: 1, connection: { application_name: 'apalis-drizzle worker' } })
    const waiting = client.unsafe(`update apalis.jobs set priority = 1 where id = '${taskId(1)}'`).execute()
    await waitingFor(database.sql, held)
    expect(await ask('Who waits for whom')).toMatchObject([{ blocked_by: held.pid }])
    await held.release()
    await waiting
  })

  it('shows which session has the oldest snapshot', async () => {
    const held = await hold(database.sql, 'set transaction isolation level repeatable read; select from apalis.jobs')
    for (let times = 0; times < 3; times++) await storeTask(database.sql, { id: taskId(times), queue })
    const sessions = await ask('Old snapshots')
    const found = sessions.find(({ pid }) => pid === held.pid)
    expect(found).toMatchObject({ state: 'idle in transaction', transactions_since: expect.any(Number) as number })
    expect(found?.['transactions_since']).toBeGreaterThan(2)
    await held.release()
  })

  it('shows the last errors, the latest first', async () => {
    const failed = { queue, attempts: 1, result: { Err: 'no answer' } }
    await storeTask(database.sql, { ...failed, id: taskId(1), status: 'Failed', doneAt: '-2 minutes' })
    await storeTask(database.sql, { ...failed, id: taskId(2), status: 'Killed', doneAt: '-1 minute' })
    expect(await ask('Last errors')).toMatchObject([
      { id: taskId(2), error: 'no answer' },
      { id: taskId(1), error: 'no answer' },
    ])
  })

  it('shows workers, with the number of tasks that they hold', async () => {
    await storeWorker(database.sql, { id: 'stopped#1', queue, leaseToken: null })
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: 'dead#1' })
    expect(await ask('Workers')).toMatchObject([
      { worker: 'stopped#1', registered: false, holds: '0' },
      { worker: 'dead#1', registered: true, holds: '1' },
    ])
  })

  it('shows paused queues', async () => {
    await admin(database.db).pause(queue)
    expect(await ask('Paused queues')).toMatchObject([{ queue }])
  })

  it('counts connections by the name of their application', async () => {
    const rows = await ask('Connections')
    expect(rows.map((row) => row['application_name'] as string)).toContain('postgres.js')
  })

  it('has no further statement', () => {
    expect(runbook.match(/^```sql$/gm)).toHaveLength(8)
  })
})
