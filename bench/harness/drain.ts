/** Working a full queue until it is empty. */
import type { WorkMode } from '../side.ts'
import type { Remote } from './remote.ts'
import { settle, type Database } from './server.ts'
import { LostOrDoubled, verifyWorked } from './verify.ts'

const LOOK_MS = 5
const PATIENCE_MS = 180_000

export type Drained = {
  readonly perSecond: number
  /** Processor time of the processes. */
  readonly cpuMicrosPerTask: number
}

export interface DrainOptions {
  readonly mode: WorkMode
  readonly count: number
  /** Whether what the table holds already stays. */
  readonly keep?: boolean
  /** Enqueues the tasks; the first of the processes by default. */
  readonly filler?: Remote
  /** Called every few milliseconds while tasks are worked. */
  readonly onLook?: () => Promise<void>
}

/** From the start of the first handler until the database says that nothing is left. */
export async function drain(
  database: Database,
  processes: readonly Remote[],
  { mode, count, keep = false, filler = processes[0]!, onLook }: DrainOptions,
): Promise<Drained> {
  const { side } = database
  if (!keep) await side.clear(database.sql)
  const before = keep ? ((await side.count(database.sql)).finished ?? 0) : 0
  await filler.call('fill', { count })
  await settle(database)
  await Promise.all(processes.map((process) => process.call('startWorker', { mode, count })))
  const deadline = Date.now() + PATIENCE_MS
  while ((await total(processes)) < count) {
    if (Date.now() > deadline) {
      throw new LostOrDoubled(`${side.name}: ${count - (await total(processes))} tasks were not handled in time.`)
    }
    await onLook?.()
    await sleep(LOOK_MS)
  }
  let endedAt = now()
  while (await side.hasUnfinished(database.sql)) {
    if (Date.now() > deadline) throw new LostOrDoubled(`${side.name}: tasks were handled and not finished in time.`)
    endedAt = now()
  }
  const worked = await Promise.all(processes.map((process) => process.call('worked')))
  await Promise.all(processes.map((process) => process.call('stopWorker')))
  await verifyWorked(
    database,
    count,
    worked.map(({ handled }) => handled),
    before,
  )
  const startedAt = Math.min(...worked.filter(({ firstAt }) => firstAt > 0).map(({ firstAt }) => firstAt))
  return {
    perSecond: count / ((endedAt - startedAt) / 1_000),
    cpuMicrosPerTask: worked.reduce((sum, { cpuMicros }) => sum + cpuMicros, 0) / count,
  }
}

async function total(processes: readonly Remote[]): Promise<number> {
  const handled = await Promise.all(processes.map((process) => process.call('progress')))
  return handled.reduce((sum, of) => sum + of, 0)
}

function now(): number {
  return performance.timeOrigin + performance.now()
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
