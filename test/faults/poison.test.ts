/**
 * Shows what one task that kills its process at every start does to its neighbours: it costs those that were claimed as
 * Running with it an attempt, those that were Queued nothing, and itself its life.
 */
import { expect, it } from 'vitest'
import { useDatabase } from '../support/database.js'
import { startProgram } from '../support/program.js'
import { rowOf } from '../support/rows.js'
import { until } from '../support/until.js'
import { useWorkers } from '../support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)

it('a task that kills its process at every start ends Killed, and the queue drains', { timeout: 60_000 }, async () => {
  const { queue, storage } = work<{ poison: boolean }>()
  const ids = await storage.pushTasks(Array.from({ length: 60 }, () => queue.task({ poison: false })))
  // Three crashes keep this short; what each of them may cost the others is counted below.
  const poison = await storage.push({ poison: true }, { maxAttempts: 3, runAt: new Date(0) })

  const crashes: { running: string[]; queued: string[] }[] = []
  for (let drained = false; !drained;) {
    const program = startProgram('poisoned', { DATABASE_URL: database.url, QUEUE: queue.name })
    let crashed = false
    void program.ended.then(() => (crashed = true))
    await until(async () => crashed || (drained = await isDrained()), 'the program crashes or drains the queue', 30_000)
    if (drained) program.child.kill('SIGTERM')
    else crashes.push({ running: await idsOf('Running'), queued: await idsOf('Queued') })
    expect((await program.ended).end).toBe(drained ? 0 : 'SIGKILL')
  }

  expect(crashes).toHaveLength(3)
  expect(crashes[0]!.running).toHaveLength(10)
  expect(crashes[0]!.queued).toHaveLength(10)
  expect(await rowOf(database.sql, poison)).toMatchObject({ status: 'Killed', attempts: 3 })
  for (const id of ids) {
    const charged = crashes.filter(({ running }) => running.includes(id)).length
    expect(await rowOf(database.sql, id)).toMatchObject({ id, status: 'Done', attempts: charged + 1 })
  }

  async function idsOf(status: string): Promise<string[]> {
    const rows = await database.sql<{ id: string }[]>`
      select id from apalis.jobs where job_type = ${queue.name} and status = ${status}`
    return rows.map(({ id }) => id)
  }

  async function isDrained(): Promise<boolean> {
    const open = await database.sql`
      select 1 from apalis.jobs where job_type = ${queue.name} and status not in ('Done', 'Killed')`
    return open.length === 0
  }
})
