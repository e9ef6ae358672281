/** When to look at the queue again. Pure; randomness is passed in. */

/** Found work is often followed by more: the next looks come quickly and then ever more slowly. */
const AFTER_WORK_MS = 2
const GROWTH = 1.5
/** An idle worker looks at least this often. */
const MAX_IDLE_MS = 1_000
/** Workers that start together should not look together. */
const JITTER = 0.1

export interface PollBackoff {
  /** The wait, without jitter, that comes next. */
  readonly delayMs: number
  readonly maxMs: number
}

export function firstPoll(pollIntervalMs: number): PollBackoff {
  return { delayMs: pollIntervalMs, maxMs: Math.max(pollIntervalMs, MAX_IDLE_MS) }
}

export function nextPoll(poll: PollBackoff, foundWork: boolean): PollBackoff {
  const delayMs = foundWork ? AFTER_WORK_MS : Math.min(poll.delayMs * GROWTH, poll.maxMs)
  return { ...poll, delayMs }
}

export function withJitter(delayMs: number, random: number): number {
  return delayMs * (1 + JITTER * (2 * random - 1))
}
