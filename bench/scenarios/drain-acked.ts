/** 20,000 tasks in 24 slots under default settings; a slot takes its next task when the end of the last one is committed. */
import type { Scenario } from '../harness/bench.ts'
import { drain } from '../harness/drain.ts'

const SIDES = ['apalis-drizzle', 'pg-boss', 'graphile-worker'] as const
const COUNT = 20_000

export const drainAcked: Scenario = {
  ids: ['drain-acked'],
  async run(bench) {
    const running = await bench.processes(SIDES)
    const values = await bench.inRounds(SIDES, async (side) => {
      const { database, processes } = running[side]
      return drain(database, processes, { mode: 'acked', count: bench.scaled(COUNT) })
    })
    const target = { peer: 5 }
    return [{ id: 'drain-acked', unit: 'tasks/s', better: 'higher', target, values: values('perSecond') }]
  },
}
