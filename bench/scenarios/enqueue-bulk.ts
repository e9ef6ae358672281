/** Enqueue 50,000 tasks in chunks of 1,000, one chunk after the other. */
import type { Scenario } from '../harness/bench.ts'
import { settle } from '../harness/server.ts'
import { verifyEnqueued } from '../harness/verify.ts'
import { SIDES } from '../side.ts'

const COUNT = 50_000
const CHUNK = 1_000

export const enqueueBulk: Scenario = {
  ids: ['enqueue-bulk'],
  async run(bench) {
    const count = bench.scaled(COUNT, CHUNK)
    const running = await bench.processes(SIDES)
    const values = await bench.inRounds(SIDES, async (side) => {
      const { database, processes } = running[side]
      await database.side.clear(database.sql)
      await settle(database)
      const { ms } = await processes[0]!.call('enqueueInChunks', { count, chunk: CHUNK })
      await verifyEnqueued(database, count)
      return { perSecond: count / (ms / 1_000) }
    })
    const target = { peer: 1.8, floor: 0.85 }
    return [{ id: 'enqueue-bulk', unit: 'tasks/s', better: 'higher', target, values: values('perSecond') }]
  },
}
