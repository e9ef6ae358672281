import { describe, expect, it } from 'vitest'
import { Prefetch } from '../src/processes/prefetch.js'

describe('a worker claims ahead', () => {
  it('what the application has said, however fast its tasks are', () => {
    const prefetch = new Prefetch(7, false, 0)
    expect(prefetch.size(0, 0)).toBe(7)
    expect(prefetch.size(10_000, 100)).toBe(7)
  })

  it.each([
    ['nothing has ended', 0, 100, 10],
    ['few end', 9, 100, 10],
    ['as many as end in a tenth of a second', 150, 100, 150],
    ['as many as end in a tenth of a second, over a longer time', 150, 1_000, 15],
    ['no more than 500', 10_000, 100, 500],
  ])('%s', (_, ended, elapsedMs, ahead) => {
    expect(new Prefetch(10, true, 0).size(ended, elapsedMs)).toBe(ahead)
  })

  it('by the last tenth of a second that is over', () => {
    const prefetch = new Prefetch(10, true, 0)
    expect(prefetch.size(80, 99)).toBe(10)
    expect(prefetch.size(80, 100)).toBe(80)
    expect(prefetch.size(81, 199)).toBe(80)
    expect(prefetch.size(81, 200)).toBe(10)
  })
})
