/** From the call that enqueues to the start of the handler: an idle worker, 20 tasks a second, 1,000 over five rounds. */
import type { Scenario } from '../harness/bench.ts'
import { settle } from '../harness/server.ts'
import { percentile } from '../harness/statistics.ts'
import { verifyWorked } from '../harness/verify.ts'
import { SIDES } from '../side.ts'

const COUNT = 200
const PER_SECOND = 20
const WARM_UP = 40
/** In which workers calm down: they look more often right after work. */
const IDLE_MS = 500

export const latency: Scenario = {
  ids: ['latency-p50', 'latency-p99'],
  async run(bench) {
    const running = await bench.processes(SIDES)
    const values = await bench.inRounds(SIDES, async (side, round) => {
      const { database, processes } = running[side]
      const count = bench.scaled(round === 0 ? WARM_UP : COUNT)
      await database.side.clear(database.sql)
      await settle(database)
      await processes[0]!.call('startWorker', { mode: 'latency', count })
      await new Promise((resolve) => setTimeout(resolve, IDLE_MS))
      const ms = await processes[0]!.call('latencies', { count, perSecond: PER_SECOND })
      while (await database.side.hasUnfinished(database.sql));
      const { handled } = await processes[0]!.call('worked')
      await processes[0]!.call('stopWorker')
      await verifyWorked(database, count, [handled])
      return { p50: percentile(ms, 0.5), p99: percentile(ms, 0.99) }
    })
    return [
      {
        id: 'latency-p50',
        unit: 'ms',
        better: 'lower',
        target: { peer: 0.75, floor: 1.3 },
        values: values('p50'),
      },
      {
        id: 'latency-p99',
        unit: 'ms',
        better: 'lower',
        target: { peer: 0.8, floor: 1.3 },
        values: values('p99'),
      },
    ]
  },
}
