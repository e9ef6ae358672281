import { describe, expect, it } from 'vitest'
import { Prefetch } from '../src/processes/prefetch.js'

/** At 0 ms nothing has ended. @returns how many tasks to hold ahead when so many have ended at that time. */
function aheadOf(bufferSize: number, follows: boolean): (ended: number, ms: number) => number {
  const clock = { ms: 0 }
  const prefetch = new Prefetch(bufferSize, follows, () => clock.ms)
  return (ended, ms) => {
    clock.ms = ms
    return prefetch.size(ended)
  }
}

describe('a worker claims ahead', () => {
  it('what the application has said, however fast its tasks are', () => {
    const ahead = aheadOf(7, false)
    expect(ahead(0, 0)).toBe(7)
    expect(ahead(10_000, 100)).toBe(7)
  })

  it.each([
    ['nothing has ended', 0, 100, 10],
    ['few end', 9, 100, 10],
    ['as many as end in a tenth of a second', 150, 100, 150],
    ['as many as end in a tenth of a second, over a longer time', 150, 1_000, 15],
    ['no more than 500', 10_000, 100, 500],
  ])('%s', (_, ended, elapsedMs, expected) => {
    expect(aheadOf(10, true)(ended, elapsedMs)).toBe(expected)
  })

  it('by the last tenth of a second that is over', () => {
    const ahead = aheadOf(10, true)
    expect(ahead(80, 99)).toBe(10)
    expect(ahead(80, 100)).toBe(80)
    expect(ahead(81, 199)).toBe(80)
    expect(ahead(81, 200)).toBe(10)
  })
})
