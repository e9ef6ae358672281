/**
 * The drain in claims of 100, while a session holds a snapshot under which 200,000 tasks were worked before, beside the same
 * drain without that session in the same round. Nothing that the 200,000 left behind can be removed under the snapshot.
 */
import postgres from 'postgres'
import type { Scenario } from '../harness/bench.ts'
import { drain } from '../harness/drain.ts'

const SIDES = ['apalis-drizzle'] as const
const COUNT = 50_000
const WORKED_BEFORE = 200_000

export const drainSnapshot: Scenario = {
  ids: ['drain-snapshot'],
  async run(bench) {
    const count = bench.scaled(COUNT)
    const running = await bench.processes(SIDES)
    const values = await bench.inRounds(SIDES, async (side) => {
      const { database, processes } = running[side]
      const free = await drain(database, processes, { mode: 'small-batches', count })
      await database.side.clear(database.sql)
      const session = postgres(database.url, { max: 1, onnotice: () => undefined })
      const held = await session.reserve()
      await held`begin isolation level repeatable read`
      await held`select count(*) from apalis.jobs`
      await drain(database, processes, { mode: 'fast', count: bench.scaled(WORKED_BEFORE), keep: true })
      const under = await drain(database, processes, { mode: 'small-batches', count, keep: true })
      await held`commit`
      held.release()
      await session.end()
      return { under: under.perSecond, free: free.perSecond }
    })
    return [
      {
        id: 'drain-snapshot',
        unit: 'tasks/s',
        better: 'higher',
        target: { baseline: 0.6 },
        values: values('under'),
        baseline: values('free'),
      },
    ]
  },
}
