/** Helpers for applications' own tests. */
import type { WorkerEvent } from './vocabulary/events.js'

export interface RecordedEvents {
  /** Pass it as `onEvent`. */
  readonly onEvent: (event: WorkerEvent) => void
  /** Everything so far, oldest first. */
  readonly all: readonly WorkerEvent[]
  /**
   * The next event of a type that no earlier call has returned; waits for it if need be. Use the timeout of the test
   * against one that never comes.
   *
   * @param matches - Passes over events for which it is false.
   */
  next<Type extends WorkerEvent['type']>(
    type: Type,
    matches?: (event: EventOf<Type>) => boolean,
  ): Promise<EventOf<Type>>
}

type EventOf<Type extends WorkerEvent['type']> = WorkerEvent & { readonly type: Type }

/**
 * Records the events of workers, so that a test waits for what happens and not for time to pass.
 *
 * @example
 * const events = recordEvents()
 * const worker = storage.worker(handler, { onEvent: events.onEvent })
 * await events.next('task.done')
 */
export function recordEvents(): RecordedEvents {
  const all: WorkerEvent[] = []
  const returned = new Set<WorkerEvent>()
  let waiting: (() => void)[] = []
  return {
    all,
    onEvent: (event) => {
      all.push(event)
      const waiters = waiting
      waiting = []
      for (const look of waiters) look()
    },
    next: (type, matches = () => true) => {
      type Event = EventOf<typeof type>
      return new Promise<Event>((resolve) => {
        const look = () => {
          const isNext = (event: WorkerEvent): event is Event =>
            event.type === type && !returned.has(event) && matches(event as Event)
          const found = all.find(isNext)
          if (found === undefined) return void waiting.push(look)
          returned.add(found)
          resolve(found)
        }
        look()
      })
    },
  }
}
