/**
 * The drain in a table that also holds 1,000,000 finished tasks and 1,000,000 that are due later and have a higher priority,
 * beside the drain in an otherwise empty table in the same round.
 */
import type { Scenario } from '../harness/bench.ts'
import { drain } from '../harness/drain.ts'
import { fillWithOthers } from '../sides/apalis-tables.ts'

const SIDES = ['apalis-drizzle'] as const
const COUNT = 50_000
const OTHERS = 1_000_000

export const drainLargeTable: Scenario = {
  ids: ['drain-large-table'],
  async run(bench) {
    const count = bench.scaled(COUNT)
    const running = await bench.processes(SIDES)
    const large = await bench.server.database('apalis-drizzle', 'large')
    const inLarge = bench.process('apalis-drizzle', large.url)
    await fillWithOthers(large.sql, bench.scaled(OTHERS))
    const values = await bench.inRounds(SIDES, async (side) => {
      const { database, processes } = running[side]
      const empty = await drain(database, processes, { mode: 'fast', count })
      const full = await drain(large, [inLarge], { mode: 'fast', count, keep: true })
      return { full: full.perSecond, empty: empty.perSecond }
    })
    return [
      {
        id: 'drain-large-table',
        unit: 'tasks/s',
        better: 'higher',
        target: { baseline: 0.9 },
        values: values('full'),
        baseline: values('empty'),
      },
    ]
  },
}
