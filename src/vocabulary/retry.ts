/** How long a failed task waits for its next attempt. Pure: the randomness is passed in. */
import { InvalidArgumentError } from './errors.js'
import { checkDelay, isDelay, MAX_DELAY_MS, shown } from './limits.js'
import { errorName, isThenable } from './standard-schema.js'

/**
 * Exponential backoff: attempt `n` is followed by `baseMs * factor ** (n - 1)`, at most `maxMs`, less a random part.
 *
 * The defaults wait about 1 s, 5 s, 25 s and 2 min: the first retry heals a hiccup, the last of the default five attempts
 * outlives a restart of what the task talks to. With `maxAttempts: 8` the retries span two hours.
 */
export interface Backoff {
  /** The delay after the first attempt, in milliseconds. Default: 1,000. */
  baseMs?: number | undefined
  /** What each delay is multiplied by for the next one, at least 1. Default: 5. */
  factor?: number | undefined
  /** The longest delay, in milliseconds. Default: 3,600,000 (an hour). */
  maxMs?: number | undefined
  /** The share of a delay that is random, from 0 to 1, so that tasks which failed together do not return together. Default: 0.2. */
  jitter?: number | undefined
}

/** Gives the delay in milliseconds; `attempt` is 1 after the first run, `error` is what the handler threw. */
export type RetryFunction = (attempt: number, error: unknown) => number

export type Retry = Required<{ [Key in keyof Backoff]: number }> | RetryFunction

export interface RetryDelay {
  readonly delayMs: number
  /** Why the queue's own function was not followed; to be reported. */
  readonly failure: Error | undefined
}

/** Constants with their defaults, or the function as it is. @throws {InvalidArgumentError} */
export function checkRetry(retry: Backoff | RetryFunction = {}): Retry {
  if (typeof retry === 'function') return retry
  if (typeof retry !== 'object' || retry === null) {
    throw new InvalidArgumentError(
      'retry',
      `an object with baseMs, factor, maxMs and jitter or a function is needed, not ${shown(retry)}.`,
    )
  }
  const maxMs = checkDelay('retry.maxMs', retry.maxMs ?? Math.max(3_600_000, retry.baseMs ?? 0))
  const baseMs = checkDelay('retry.baseMs', retry.baseMs ?? Math.min(1000, maxMs))
  const { factor = 5, jitter = 0.2 } = retry
  if (baseMs > maxMs) throw new InvalidArgumentError('retry.baseMs', `it must not exceed retry.maxMs (${maxMs}).`)
  if (!Number.isFinite(factor) || factor < 1) {
    throw new InvalidArgumentError('retry.factor', `a finite number of at least 1 is needed, not ${shown(factor)}.`)
  }
  if (!(typeof jitter === 'number' && jitter >= 0 && jitter <= 1)) {
    throw new InvalidArgumentError('retry.jitter', `a number from 0 to 1 is needed, not ${shown(jitter)}.`)
  }
  return { baseMs, factor, maxMs, jitter }
}

const DEFAULT = checkRetry() as Exclude<Retry, RetryFunction>

/** @param random - At least 0 and less than 1, as from `Math.random()`. */
export function backoffMs(
  attempt: number,
  { baseMs, factor, maxMs, jitter }: Exclude<Retry, RetryFunction>,
  random: number,
): number {
  if (baseMs === 0) return 0
  const delayMs = Math.min(baseMs * factor ** (attempt - 1), maxMs)
  return Math.round(delayMs * (1 - jitter * random))
}

/** The delay after a failed attempt. Never throws: a faulty function is replaced by the default backoff. */
export function retryDelay(retry: Retry, attempt: number, error: unknown, random: number): RetryDelay {
  if (typeof retry !== 'function') return { delayMs: backoffMs(attempt, retry, random), failure: undefined }
  const fallback = (what: string, cause?: unknown): RetryDelay => ({
    delayMs: backoffMs(attempt, DEFAULT, random),
    failure: new Error(`The queue's retry function ${what}; the default backoff was used instead.`, { cause }),
  })
  try {
    const delayMs: unknown = retry(attempt, error)
    if (isDelay(delayMs)) return { delayMs: Math.round(delayMs), failure: undefined }
    // An async function: nobody awaits it, and its rejection must not end the process.
    if (isThenable(delayMs)) {
      Promise.resolve(delayMs).catch(() => undefined)
      return fallback('returned a promise instead of a number')
    }
    return fallback(`returned ${shown(delayMs)} instead of milliseconds from 0 to ${MAX_DELAY_MS}`)
  } catch (cause) {
    return fallback(`threw ${errorName(cause)}`, cause)
  }
}
