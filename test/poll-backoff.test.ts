import { describe, expect, it } from 'vitest'
import { firstPoll, nextPoll, withJitter, type Poll, type PollInterval } from '../src/vocabulary/poll-backoff.js'

/** The waits after looks that found work (`true`) or nothing. */
function waits(interval: PollInterval, looks: readonly boolean[], listening = false): number[] {
  let poll: Poll = firstPoll(interval)
  return looks.map((foundWork) => (poll = nextPoll(poll, interval, foundWork, listening)).delayMs)
}

const nothing = (times: number) => Array.from({ length: times }, () => false)

describe('the wait between two looks at the queue', () => {
  it('begins with the interval', () => {
    expect(firstPoll(100).delayMs).toBe(100)
    expect(firstPoll(() => 7).delayMs).toBe(7)
  })

  it('grows by half while nothing is found, up to a second', () => {
    expect(waits(100, nothing(7))).toEqual([150, 225, 337.5, 506.25, 759.375, 1000, 1000])
  })

  it('grows up to five seconds where notifications arrive', () => {
    expect(waits(100, nothing(20), true).at(-1)).toBe(5_000)
  })

  it('never shrinks below an interval that is longer than that, and is five seconds at most [NEXT-43]', () => {
    expect(waits(4_000, nothing(3))).toEqual([4_000, 4_000, 4_000])
    expect(waits(4_000, nothing(3), true)).toEqual([5_000, 5_000, 5_000])
    expect(waits(5_000, nothing(3), true)).toEqual([5_000, 5_000, 5_000])
  })

  it('is short after work, and grows again from there, for as long as the worker runs [NEXT-43]', () => {
    expect(waits(100, [true, false, false, true, false])).toEqual([2, 3, 4.5, 2, 3])
    const again = waits(100, [...nothing(30), true, ...nothing(30)])
    expect(again.slice(-2)).toEqual([1000, 1000])
  })

  it('is at most half of the time since the last work and 2 ms, or the longest that there is', () => {
    let sinceWork = 0
    for (const wait of waits(100, [true, ...nothing(30)], true)) {
      expect(wait).toBeLessThanOrEqual(Math.min(sinceWork / 2 + 2, 5_000) + 1e-6)
      sinceWork += wait
    }
  })

  it('is what a function says, by the looks in a row that found nothing', () => {
    expect(waits((emptyLooks) => 10 * (emptyLooks + 1), [false, false, true, false])).toEqual([20, 30, 10, 20])
  })

  it.each<[string, () => number]>([
    [
      'throws',
      () => {
        throw new Error('no idea')
      },
    ],
    ['says no number', () => 'soon' as unknown as number],
    ['says that it is to spin', () => 0],
    ['says NaN', () => Number.NaN],
    ['says more than a timer takes', () => 2 ** 31],
  ])('is a second when the function %s [FETCH-04]', (_, interval) => {
    expect(firstPoll(interval).delayMs).toBe(1_000)
    expect(waits(interval, nothing(2))).toEqual([1_000, 1_000])
  })

  it('is shorter by up to a tenth, and never longer', () => {
    expect([0, 0.5, 1].map((random) => withJitter(1_000, random))).toEqual([1_000, 950, 900])
  })
})
