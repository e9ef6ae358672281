/** Loads a file of a million lines. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, it } from 'vitest'
import { useDatabase } from '../support/database.js'
import { pipeLines } from '../support/pipe-lines.js'

const database = useDatabase()
const LINES = 1_000_000
const CAPACITY = 1_000

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

it('a sink takes a million lines of a file with flat memory', async () => {
  const heaps: number[] = []
  const { mostHeld } = await pipeLines(database.connect().client, LINES, CAPACITY, (read) => {
    if (read % 100_000 !== 0) return
    collect()
    heaps.push(process.memoryUsage().heapUsed)
  })
  const [count] = await database.sql<{ tasks: number }[]>`
    select count(distinct convert_from(job, 'UTF8'))::int as tasks from apalis.jobs`
  expect(count?.tasks).toBe(LINES)
  expect(mostHeld).toBeLessThanOrEqual(3 * CAPACITY + 1)
  expect(heaps).toHaveLength(10)
  // Of a million tasks in memory it would be hundreds of megabytes.
  expect(heaps.at(-1)! - heaps[0]!).toBeLessThan(16 * 1024 * 1024)
})
