/** Shows that a deploy costs nothing: a stop charges no attempt, loses no task and repeats none that could finish. */
import { beforeAll, expect, inject, it } from 'vitest'
import { useDatabase } from '../support/database.js'
import { createRuns, crew, LONG_MS, tell } from './crew.js'

const database = useDatabase()
beforeAll(() => createRuns(database))

const DEPLOYS = 6 * inject('scale')
const TASKS = 250 * (DEPLOYS + 1)

it(
  `${TASKS} tasks finish in their first attempt although their worker is stopped and started ${DEPLOYS} times`,
  { timeout: LONG_MS },
  async () => {
    const mailers = crew(database, 'deployed')
    await mailers.push(TASKS, 5)
    const names = new Set<string>()
    for (let deploy = 1; deploy <= DEPLOYS; deploy++) {
      const member = await mailers.start()
      names.add(member.name)
      await mailers.untilFinished(deploy * 250)
      await member.stop()
      expect(await mailers.openClaims(member.name)).toBe(0)
    }
    const last = await mailers.start()
    await mailers.untilFinished(TASKS)
    await last.stop()
    const tasks = await mailers.tasks()
    expect(tasks.filter(({ status, attempts, runs }) => status !== 'Done' || attempts !== 1 || runs !== 1)).toEqual([])
    tell(`${TASKS} tasks, ${DEPLOYS} deploys: one execution each`)
    expect(names).toEqual(new Set([last.name]))
  },
)

it('handlers that do not end in time are charged nothing either', { timeout: 60_000 }, async () => {
  const mailers = crew(database, 'aborted')
  await mailers.push(20, 1_500)
  for (let deploy = 0; deploy < 3; deploy++) {
    const member = await mailers.start({ stopTimeoutMs: 0, bufferSize: 10, concurrency: 10 })
    await member.next('task.claimed')
    await member.stop()
    const tasks = await mailers.tasks()
    expect(tasks.filter(({ status, attempts }) => status !== 'Pending' || attempts !== 0)).toEqual([])
  }
})
