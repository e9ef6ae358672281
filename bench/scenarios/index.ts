import type { Scenario } from '../harness/bench.ts'
import { drainAcked } from './drain-acked.ts'
import { drainLargeTable } from './drain-large-table.ts'
import { drainOne } from './drain.ts'
import { drainProcesses } from './drain-processes.ts'
import { drainSnapshot } from './drain-snapshot.ts'
import { enqueueBulk } from './enqueue-bulk.ts'
import { enqueueSingle } from './enqueue-single.ts'
import { enqueueTx } from './enqueue-tx.ts'
import { latency } from './latency.ts'
import { memory } from './memory.ts'

export const scenarios: readonly Scenario[] = [
  enqueueSingle,
  enqueueTx,
  enqueueBulk,
  drainOne,
  drainAcked,
  latency,
  drainProcesses,
  drainLargeTable,
  drainSnapshot,
  memory,
]
