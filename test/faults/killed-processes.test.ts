/** Shows that tasks survive their processes: whoever is killed, each task finishes, and nothing runs more often than it must. */
import { beforeAll, expect, inject, it } from 'vitest'
import { useDatabase } from '../support/database.js'
import { createRuns, crew, LONG_MS, tell, type Member } from './crew.js'

const database = useDatabase()
beforeAll(() => createRuns(database))

const TASKS = 5_000 * inject('scale')
const KILLS = 8 * inject('scale')

it(
  `${TASKS} tasks finish although their worker processes are killed ${KILLS} times`,
  { timeout: LONG_MS },
  async () => {
    const mailers = crew(database, 'killed', { effects: true })
    await mailers.push(TASKS, 5)
    const alive: Member[] = [await mailers.start(), await mailers.start()]
    let openAtKills = 0
    for (let kill = 0; kill < KILLS; kill++) {
      // Some way into the work, and not only at its beginning.
      await mailers.untilFinished(Math.floor(((kill + 1) * TASKS) / (KILLS + 2)))
      const victim = alive.shift()!
      await victim.kill()
      openAtKills += await mailers.openClaims(victim.name)
      alive.push(await mailers.start())
    }
    await mailers.untilFinished(TASKS, LONG_MS)
    for (const member of alive) await member.stop()

    const tasks = await mailers.tasks()
    expect(tasks).toHaveLength(TASKS)
    expect(tasks.filter(({ status }) => status !== 'Done')).toEqual([])
    // However often it ran, what was committed with its completion was committed once.
    expect(tasks.filter(({ runs, effects }) => runs === 0 || effects !== 1)).toEqual([])
    const runs = tasks.reduce((sum, task) => sum + task.runs, 0)
    tell(`${TASKS} tasks, ${KILLS} kills, ${openAtKills} claims open at them: ${runs} executions`)
    expect(openAtKills).toBeGreaterThan(0)
    expect(runs).toBeLessThanOrEqual(TASKS + openAtKills)
  },
)
