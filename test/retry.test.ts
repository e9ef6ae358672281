import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MAX_DELAY_MS } from '../src/vocabulary/limits.js'
import { backoffMs, checkRetry, type Backoff, retryDelay } from '../src/vocabulary/retry.js'

const constants = (backoff?: Backoff) => checkRetry(backoff) as Required<{ [Key in keyof Backoff]: number }>

describe('backoff', () => {
  it.each([
    [1, 1000],
    [2, 5000],
    [3, 25_000],
    [4, 125_000],
    [5, 625_000],
    [6, 3_125_000],
    [7, 3_600_000],
    [2 ** 31 - 1, 3_600_000],
  ])('by default waits after attempt %i for %i ms, and at most a fifth less', (attempt, delayMs) => {
    expect(backoffMs(attempt, constants(), 0)).toBe(delayMs)
    expect(backoffMs(attempt, constants(), 0.5)).toBe(delayMs * 0.9)
    expect(backoffMs(attempt, constants(), 1)).toBe(delayMs * 0.8)
  })

  it.each<[string, Backoff, number, number]>([
    ['a constant delay', { baseMs: 300, factor: 1, jitter: 0 }, 9, 300],
    ['no delay', { baseMs: 0 }, 2 ** 31 - 1, 0],
    ['a base above the default maximum', { baseMs: 7_200_000, jitter: 0 }, 3, 7_200_000],
    ['a maximum below the default base', { maxMs: 10, jitter: 0 }, 1, 10],
    ['doubling', { baseMs: 100, factor: 2, jitter: 0 }, 4, 800],
  ])('gives %s', (_, backoff, attempt, delayMs) => {
    expect(backoffMs(attempt, constants(backoff), 0)).toBe(delayMs)
  })

  it('is always between its share of jitter and the maximum', () => {
    const backoff = fc.record({
      baseMs: fc.nat(10_000),
      factor: fc.double({ min: 1, max: 1e300, noNaN: true }),
      maxMs: fc.integer({ min: 10_000, max: MAX_DELAY_MS }),
      jitter: fc.double({ min: 0, max: 1, noNaN: true }),
    })
    const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 - 1 }), backoff, random, (attempt, given, chance) => {
        const { jitter, maxMs } = given
        const longest = backoffMs(attempt, { ...given, jitter: 0 }, 0)
        const delayMs = backoffMs(attempt, constants(given), chance)
        expect(delayMs).toBeLessThanOrEqual(Math.min(longest, maxMs))
        expect(delayMs).toBeGreaterThanOrEqual(Math.floor(longest * (1 - jitter)) - 1)
      }),
    )
  })
})

describe('a retry function', () => {
  const error = new Error('handler')

  it('is given the attempt and the error, and followed', () => {
    const calls: unknown[] = []
    const retry = (...call: unknown[]) => (calls.push(call), 12.4)
    expect(retryDelay(retry, 3, error, 0)).toEqual({ delayMs: 12, failure: undefined })
    expect(calls).toEqual([[3, error]])
  })

  it.each([0, MAX_DELAY_MS])('may return %d', (delayMs) => {
    expect(retryDelay(() => delayMs, 1, error, 0)).toEqual({ delayMs, failure: undefined })
  })

  it.each<[string, unknown, string]>([
    ['NaN', NaN, 'returned NaN instead of milliseconds from 0 to'],
    ['Infinity', Infinity, 'returned Infinity'],
    ['a negative number', -1, 'returned -1'],
    ['more than a hundred years', MAX_DELAY_MS + 1, 'returned 3155760000001'],
    ['nothing', undefined, 'returned undefined'],
    ['text', '1000', 'returned a string'],
    ['a bigint', 1n, 'returned a bigint'],
  ])('that returns %s is replaced by the default backoff, and reported', (_, value, message) => {
    const { delayMs, failure } = retryDelay(() => value as number, 2, error, 0)
    expect(delayMs).toBe(5000)
    expect(failure?.message).toContain(`The queue's retry function ${message}`)
  })

  it("that is asynchronous is replaced by the default backoff, and its rejection is nobody else's matter", () => {
    const retry = (async () => Promise.reject(error)) as unknown as () => number
    const { delayMs, failure } = retryDelay(retry, 1, error, 0)
    expect(delayMs).toBe(1000)
    expect(failure?.message).toContain('returned a promise instead of a number')
  })

  it('that throws is replaced by the default backoff, and reported with its error', () => {
    const thrown = new RangeError('secret')
    const retry = () => {
      throw thrown
    }
    const { delayMs, failure } = retryDelay(retry, 1, error, 0)
    expect(delayMs).toBe(1000)
    expect(failure?.message).toBe("The queue's retry function threw RangeError; the default backoff was used instead.")
    expect(failure?.cause).toBe(thrown)
  })
})
