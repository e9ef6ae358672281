/** Memory of the process while it drains 1,000,000 tasks, in one round. */
import type { Scenario } from '../harness/bench.ts'
import { drain } from '../harness/drain.ts'

const SIDES = ['apalis-drizzle'] as const
const COUNT = 1_000_000

export const memory: Scenario = {
  ids: ['memory'],
  async run(bench) {
    const database = await bench.server.database('apalis-drizzle')
    let growth = 0
    const values = await bench.inRounds(
      SIDES,
      async (side) => {
        const process = bench.process(side, database.url)
        const filler = bench.process(side, database.url)
        const megabytes: number[] = []
        const onLook = async () => void megabytes.push(await process.call('residentMegabytes'))
        await drain(database, [process], { mode: 'fast', count: bench.scaled(COUNT), filler, onLook })
        const quarter = (n: number) => {
          const size = megabytes.length / 4
          return Math.max(...megabytes.slice(Math.floor(n * size), Math.ceil((n + 1) * size)))
        }
        growth = quarter(3) - quarter(1)
        return { megabytes: Math.max(...megabytes), growth }
      },
      { rounds: 1, warmUp: false },
    )
    const note = `one round; the maximum of the last quarter is ${growth.toFixed(0)} MB above that of the second`
    return [{ id: 'memory', unit: 'MB', better: 'lower', target: { value: 200 }, values: values('megabytes'), note }]
  },
}
