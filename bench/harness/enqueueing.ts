import { SIDES } from '../side.ts'
import type { Scenario } from './bench.ts'
import type { Target } from './metric.ts'
import { settle } from './server.ts'
import { verifyEnqueued } from './verify.ts'

const CALLERS = 16
const MS = 2_000

/** Concurrent callers for a fixed time. */
export function enqueueing(id: string, options: { inTransaction: boolean; target: Target }): Scenario {
  return {
    ids: [id],
    async run(bench) {
      const running = await bench.processes(SIDES)
      const values = await bench.inRounds(SIDES, async (side) => {
        const { database, processes } = running[side]
        await database.side.clear(database.sql)
        await settle(database)
        const { inTransaction } = options
        const { count, ms } = await processes[0]!.call('enqueue', {
          callers: CALLERS,
          ms: bench.scaled(MS),
          inTransaction,
        })
        await verifyEnqueued(database, count)
        return { perSecond: count / (ms / 1_000) }
      })
      const { target } = options
      return [{ id, unit: 'tasks/s', better: 'higher', target, values: values('perSecond') }]
    },
  }
}
