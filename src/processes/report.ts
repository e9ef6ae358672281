import type { WorkerEvent, WorkerEventBody } from '../vocabulary/events.js'

/** Reports an event of one worker. `message` must not contain a payload. */
export type Report = (level: WorkerEvent['level'], message: string, body: WorkerEventBody) => void

/**
 * Hands events to the application's callback; without one, warnings and errors go to the console. A callback that throws
 * harms nothing: the loops do not depend on their observers.
 */
export function reporter(queue: string, worker: string, onEvent: ((event: WorkerEvent) => void) | undefined): Report {
  return (level, message, body) => {
    const event = { level, message: `${worker} (${queue}): ${message}`, queue, worker, ...body } as WorkerEvent
    try {
      if (onEvent === undefined) printIfNotable(event)
      else onEvent(event)
    } catch {
      // Reporting the failure of the reporter has no address.
    }
  }
}

function printIfNotable({ level, type, message }: WorkerEvent): void {
  if (level === 'warn' || level === 'error') console[level](`apalis-drizzle ${type}: ${message}`)
}

/** An error in one line, for a message. */
export function inWords(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : `a thrown ${typeof error}`
  return text.replaceAll(/\s+/g, ' ').slice(0, 500)
}
