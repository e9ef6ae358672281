/** When to look at the queue again. Pure; randomness is passed in. */

/**
 * Milliseconds before the first look at an empty queue is repeated, from which the waits grow, at most 5,000; or a function
 * that says each wait, given how many looks in a row have found nothing.
 */
export type PollInterval = number | ((emptyLooks: number) => number)

/** Found work is often followed by more: the next looks come quickly and then ever more slowly. */
const AFTER_WORK_MS = 2
const GROWTH = 1.5
/** An idle worker looks at least this often. */
const MAX_IDLE_MS = 1_000
/**
 * With a listener it is told of new tasks, and looks in case it was not, and for delayed ones. No interval is longer: a task
 * that is announced to nobody because it is due later than that would start late.
 */
export const MAX_LISTENING_MS = 5_000
/**
 * Workers that start together should not look together. Waits only become shorter: the trigger announces what is due within
 * five seconds, and an idle worker has to look before anything later is due.
 */
const JITTER = 0.1

export interface Poll {
  /** The wait, without jitter, that comes next. */
  readonly delayMs: number
  readonly emptyLooks: number
}

export function firstPoll(interval: PollInterval): Poll {
  return { delayMs: typeof interval === 'number' ? interval : chosen(interval, 0), emptyLooks: 0 }
}

/** @param listening - Whether notifications arrive, so that there is less need to look. */
export function nextPoll(poll: Poll, interval: PollInterval, foundWork: boolean, listening: boolean): Poll {
  const emptyLooks = foundWork ? 0 : poll.emptyLooks + 1
  if (typeof interval !== 'number') return { delayMs: chosen(interval, emptyLooks), emptyLooks }
  if (foundWork) return { delayMs: AFTER_WORK_MS, emptyLooks }
  const maxMs = Math.max(interval, listening ? MAX_LISTENING_MS : MAX_IDLE_MS)
  return { delayMs: Math.min(poll.delayMs * GROWTH, maxMs), emptyLooks }
}

export function withJitter(delayMs: number, random: number): number {
  return delayMs * (1 - JITTER * random)
}

/** A function that fails must neither stop the worker nor make it look without a pause. */
function chosen(interval: (emptyLooks: number) => number, emptyLooks: number): number {
  try {
    const delayMs: unknown = interval(emptyLooks)
    if (typeof delayMs === 'number' && delayMs >= 1 && delayMs <= 2 ** 31 - 1) return delayMs
  } catch {
    // As for a value that is no delay.
  }
  return MAX_IDLE_MS
}
