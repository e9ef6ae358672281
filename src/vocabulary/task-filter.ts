import { STATUSES } from '../schema.js'
import { parseCursor, type Position } from './cursor.js'
import { InvalidArgumentError } from './errors.js'
import { checkInt4, typeOf } from './limits.js'
import { isStatus, type Status } from './row.js'

/** Which tasks a list shows, and which part of them. */
export interface TaskFilter {
  /** Default `Pending`. */
  status?: Status | undefined
  /** From 1, the default. The cost of a page grows with its number; to read far into a list, go on with `after`. */
  page?: number | undefined
  /** At most so many tasks. Default 10. */
  pageSize?: number | undefined
  /** The `cursor` of the last task seen: the list goes on behind it, also where tasks were added or removed meanwhile. Not with `page`. */
  after?: string | undefined
}

/** A filter after its checks. */
export interface TaskPage {
  /** `undefined` for all queues. */
  readonly queue: string | undefined
  readonly status: Status
  readonly limit: number
  readonly offset: number
  readonly after: Position | undefined
}

/**
 * @param queue - The queue whose tasks are listed; `undefined` for all.
 * @throws {InvalidArgumentError} for an unknown status, page 0, sizes that are no counts, and a cursor of another list.
 */
export function taskPage(filter: TaskFilter, queue: string | undefined): TaskPage {
  if (typeof filter !== 'object' || filter === null) {
    throw new InvalidArgumentError('filter', `an object such as { status: 'Done' } is needed, not ${typeOf(filter)}.`)
  }
  const { status = 'Pending', page = 1, pageSize = 10, after } = filter
  if (typeof status !== 'string' || !isStatus(status)) {
    throw new InvalidArgumentError('status', `one of ${STATUSES.join(', ')} is needed.`)
  }
  checkInt4('page', page, 1)
  checkInt4('pageSize', pageSize, 0)
  const offset = (page - 1) * pageSize
  if (!Number.isSafeInteger(offset + pageSize)) {
    throw new InvalidArgumentError('page', `page ${page} of ${pageSize} tasks each is beyond what can be counted.`)
  }
  if (after === undefined) return { queue, status, limit: pageSize, offset, after }
  if (filter.page !== undefined) {
    throw new InvalidArgumentError('after', 'pass either page or after: a cursor already says where the page begins.')
  }
  return { queue, status, limit: pageSize, offset, after: ownCursor(after, queue, status) }
}

/** The tasks of a queue are listed among those of all queues too, so their cursors are good for both. */
function ownCursor(after: string, queue: string | undefined, status: Status): Position {
  const position = parseCursor(after)
  const elsewhere =
    position.status !== status
      ? `tasks that are ${position.status}, and this lists those that are ${status}`
      : queue !== undefined && position.queue !== queue
        ? `queue ${JSON.stringify(position.queue)}, and this lists queue ${JSON.stringify(queue)}`
        : undefined
  if (elsewhere === undefined) return position
  throw new InvalidArgumentError('after', `the cursor comes from a list of ${elsewhere}.`)
}
