/** Shows that workers live through the loss of their connections, of all at once and again and again. */
import { beforeAll, expect, inject, it } from 'vitest'
import { useDatabase } from '../support/database.js'
import { until } from '../support/until.js'
import { createRuns, crew, LONG_MS, tell } from './crew.js'

const database = useDatabase()
beforeAll(() => createRuns(database))

const TASKS = 2_000 * inject('scale')
const CUTS = 20 * inject('scale')

it(
  `${TASKS} tasks finish in their first attempt although every connection of their workers is ended ${CUTS} times`,
  { timeout: LONG_MS },
  async () => {
    const mailers = crew(database, 'cut off')
    await mailers.push(TASKS, 5)
    // Nobody is silent for as long as this, so nothing is taken from anybody.
    const members = [await mailers.start({ reenqueueOrphanedAfterMs: 20_000 })]
    members.push(await mailers.start({ reenqueueOrphanedAfterMs: 20_000 }))
    for (let cut = 1; cut <= CUTS; cut++) {
      await mailers.untilFinished(Math.floor((cut * TASKS) / (CUTS + 2)))
      await terminateOthers()
    }
    await mailers.untilFinished(TASKS, LONG_MS)
    for (const member of members) await member.stop()

    const tasks = await mailers.tasks()
    expect(tasks.filter(({ status, attempts, runs }) => status !== 'Done' || attempts !== 1 || runs !== 1)).toEqual([])
    tell(`${TASKS} tasks, ${CUTS} times all connections ended: one execution each`)
    for (const { lines } of members) expect(lines.filter((line) => line.includes('"task.stale"'))).toEqual([])
  },
)

/** Every connection to this database but the one that asks; resolves when there was one. */
async function terminateOthers(): Promise<void> {
  await until(async () => {
    const ended = await database.sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`
    return ended.length > 0
  }, 'a connection is ended')
}
