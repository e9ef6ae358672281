import { InvalidArgumentError } from './errors.js'
import { checkQueueName, typeOf } from './limits.js'
import type { Status } from './row.js'
import { parseTaskIds, type TaskId } from './task-id.js'

/**
 * Which tasks a call is about: those with these ids, or those of a queue that the call can change, of one status if it is
 * given.
 */
export type Selection = { ids: Iterable<string> } | { queue: string; status?: Status | undefined }

/** A selection after its checks; ids stand once each, in the order in which they were given. */
export type CheckedSelection =
  { readonly ids: readonly TaskId[] } | { readonly queue: string; readonly status: Status | undefined }

/** Their text stays well below what one statement may have. */
const MAX_IDS = 100_000

/**
 * @param statuses - Those of tasks that the call can change.
 * @throws {InvalidArgumentError} for anything but a selection, for malformed ids, and for a status of tasks that the call
 * never changes.
 */
export function checkSelection(which: Selection, statuses: readonly Status[]): CheckedSelection {
  if (typeof which !== 'object' || which === null) {
    throw new InvalidArgumentError('which', `pass { ids } or { queue, status }, not ${typeOf(which)}.`)
  }
  const { ids, queue, status } = which as { ids?: Iterable<string>; queue?: string; status?: Status }
  if ((ids === undefined) === (queue === undefined)) {
    throw new InvalidArgumentError('which', 'pass either { ids } or { queue }, which may have a status.')
  }
  if (queue === undefined) return { ids: checkIds(ids!, status) }
  checkQueueName(queue, 'which.queue')
  if (status !== undefined && !statuses.includes(status)) {
    throw new InvalidArgumentError('which.status', `this call changes tasks that are ${statuses.join(', ')}.`)
  }
  return { queue, status }
}

function checkIds(ids: Iterable<string>, status: Status | undefined): TaskId[] {
  if (status !== undefined) {
    throw new InvalidArgumentError('which.status', 'it goes with a queue; tasks named by id have the status they have.')
  }
  const distinct = parseTaskIds(ids, 'which.ids')
  if (distinct.size > MAX_IDS) {
    throw new InvalidArgumentError(
      'which.ids',
      `${distinct.size} are more than the ${MAX_IDS} of one call; divide them.`,
    )
  }
  return [...distinct]
}
