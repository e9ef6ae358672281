/** 50,000 tasks that do nothing, by one process, and what they cost it in processor time. */
import type { Scenario } from '../harness/bench.ts'
import { drain } from '../harness/drain.ts'
import { SIDES } from '../side.ts'

const COUNT = 50_000

export const drainOne: Scenario = {
  ids: ['drain', 'cpu-per-task'],
  async run(bench) {
    const running = await bench.processes(SIDES)
    const values = await bench.inRounds(SIDES, async (side) => {
      const { database, processes } = running[side]
      return drain(database, processes, { mode: 'fast', count: bench.scaled(COUNT) })
    })
    return [
      {
        id: 'drain',
        unit: 'tasks/s',
        better: 'higher',
        target: { peer: 1.6, floor: 0.9 },
        values: values('perSecond'),
      },
      {
        id: 'cpu-per-task',
        unit: 'µs',
        better: 'lower',
        target: { floor: 1.2 },
        values: values('cpuMicrosPerTask'),
      },
    ]
  },
}
