import { isApalisError } from '../vocabulary/errors.js'
import type { WorkerEvent, WorkerEventBody } from '../vocabulary/events.js'

const MAX_LENGTH = 500

/** Reports an event of one worker. `message` must not contain a payload. */
export type Report = (level: WorkerEvent['level'], message: string, body: WorkerEventBody) => void

/**
 * Hands events to the application's callback; without one, warnings and errors go to the console. A callback that throws
 * harms nothing: the loops do not depend on their observers.
 */
export function reporter(
  queue: string,
  worker: string,
  onEvent: ((event: WorkerEvent) => unknown) | undefined,
): Report {
  return (level, message, body) => {
    // Of each task there are two, and nobody would read them.
    if (onEvent === undefined && !isNotable(level)) return
    const event = { level, message: `${worker} (${queue}): ${message}`, queue, worker, ...body } as WorkerEvent
    // The error of a handler may quote a payload, as those of Drizzle do; who logs the event as a whole must not log that.
    if ('cause' in event) Object.defineProperty(event, 'cause', { enumerable: false })
    try {
      const returned = (onEvent ?? print)(event)
      // An async callback, whose rejection would otherwise end the process.
      if (returned instanceof Promise) returned.catch(() => undefined)
    } catch {
      // Reporting the failure of the reporter has no address.
    }
  }
}

function isNotable(level: WorkerEvent['level']): boolean {
  return level === 'warn' || level === 'error'
}

function print({ level, type, message }: WorkerEvent): void {
  console[level](`apalis-drizzle ${type}: ${message}`)
}

/**
 * An error in one line, for a message. Of an error that is not this library's only name and code, such as
 * `TypeError` or `DrizzleQueryError 23505`: the message of an application's error may quote a payload. The event carries the
 * error itself as `cause`, for those who may see it.
 */
export function inWords(error: unknown): string {
  try {
    if (!(error instanceof Error)) return `a thrown ${error === null ? 'null' : typeof error}`
    const text = isApalisError(error) ? error.message : [error.name, ...codeOf(error)].join(' ')
    return text.replaceAll(/\s+/g, ' ').slice(0, MAX_LENGTH)
  } catch {
    return 'an error that cannot be read'
  }
}

/** The code of a system error or an SQLSTATE, also of an error that another one wraps. */
function codeOf(error: Error): string[] {
  for (const link of [error, error.cause] as { code?: unknown }[]) {
    if (typeof link?.code === 'string' && /^\w{1,40}$/.test(link.code)) return [link.code]
  }
  return []
}
