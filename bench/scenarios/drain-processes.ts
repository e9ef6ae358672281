/** The drain by two and by four processes on one queue, beside one process in the same round. */
import type { Metric } from '../harness/metric.ts'
import type { Scenario } from '../harness/bench.ts'
import { drain } from '../harness/drain.ts'

const SIDES = ['apalis-drizzle', 'pg-boss', 'graphile-worker'] as const
const COUNT = 50_000

export const drainProcesses: Scenario = {
  ids: ['drain-2', 'drain-4'],
  async run(bench) {
    const count = bench.scaled(COUNT)
    const running = await bench.processes(SIDES, 4)
    const values = await bench.inRounds(SIDES, async (side) => {
      const { database, processes } = running[side]
      const by = async (several: number) =>
        (await drain(database, processes.slice(0, several), { mode: 'fast', count })).perSecond
      return { one: await by(1), two: await by(2), four: await by(4) }
    })
    const metric = (id: string, name: string): Metric => ({
      id,
      unit: 'tasks/s',
      better: 'higher',
      target: { baseline: 0.85 },
      values: values(name),
      baseline: values('one'),
    })
    return [metric('drain-2', 'two'), metric('drain-4', 'four')]
  },
}
