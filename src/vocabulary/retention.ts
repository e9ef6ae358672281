import { InvalidArgumentError } from './errors.js'
import { checkDelay, checkOptionNames, typeOf } from './limits.js'
import { PRUNABLE, type PrunableStatus } from './prune-options.js'

/** For how long tasks that have ended are kept, in milliseconds since then and at least a minute. What is left out is kept for good. */
export interface Retention {
  doneMs?: number | undefined
  /** Of failed tasks without an attempt left, as other programs leave them; those with one are still to run. */
  failedMs?: number | undefined
  killedMs?: number | undefined
}

/** Whoever waits for a task, and an acknowledgement whose answer was lost, read its row after its end. */
const MIN_RETENTION_MS = 60_000

const OPTION_OF = { Done: 'doneMs', Failed: 'failedMs', Killed: 'killedMs' } as const satisfies Record<
  PrunableStatus,
  keyof Retention
>

const OPTION_NAMES = { doneMs: true, failedMs: true, killedMs: true } as const satisfies Record<keyof Retention, true>

/** The statuses that are to be pruned, with their ages. */
export function retentionAges(retention: Retention): [PrunableStatus, number][] {
  return PRUNABLE.flatMap((status): [PrunableStatus, number][] => {
    const olderThanMs = retention[OPTION_OF[status]]
    return olderThanMs === undefined ? [] : [[status, olderThanMs]]
  })
}

/** @throws {InvalidArgumentError} */
export function checkRetention(retention: Retention): void {
  if (typeof retention !== 'object' || retention === null) {
    throw new InvalidArgumentError(
      'retention',
      `an object such as { doneMs: 604_800_000 } is needed, not ${typeOf(retention)}.`,
    )
  }
  checkOptionNames(retention, OPTION_NAMES, 'retention')
  for (const name of Object.values(OPTION_OF)) {
    const value = retention[name]
    if (value === undefined) continue
    checkDelay(`retention.${name}`, value)
    if (value < MIN_RETENTION_MS) {
      throw new InvalidArgumentError(
        `retention.${name}`,
        `${MIN_RETENTION_MS} ms are the least, because results are read after the end of a task.`,
      )
    }
  }
}
