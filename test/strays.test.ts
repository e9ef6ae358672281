import { describe, expect, it } from 'vitest'
import { Strays } from '../src/processes/strays.js'

const claim = (id: string, lockAt = 1_000) => ({ id, attempts: 0, lockAt })

describe('strays', () => {
  it('are given up once they were unknown for the grace period, and not before', () => {
    const strays = new Strays(20_000)
    expect(strays.seen([claim('a')], 100_000)).toEqual([])
    expect(strays.seen([claim('a')], 119_999)).toEqual([])
    expect(strays.seen([claim('a')], 120_000)).toEqual([claim('a')])
  })

  it('are not reported again while the database still shows them', () => {
    const strays = new Strays(20_000)
    strays.seen([claim('a')], 0)
    expect(strays.seen([claim('a')], 20_000)).toEqual([claim('a')])
    expect(strays.seen([claim('a')], 1_000_000)).toEqual([])
  })

  it('begin anew when the claim was held in between, or is another claim of the task', () => {
    const strays = new Strays(20_000)
    strays.seen([claim('a'), claim('b')], 0)
    strays.seen([claim('b', 2_000)], 10_000)
    expect(strays.seen([claim('a'), claim('b', 2_000)], 20_000)).toEqual([])
    expect(strays.seen([claim('a'), claim('b', 2_000)], 30_000)).toEqual([claim('b', 2_000)])
    expect(strays.seen([claim('a')], 40_000)).toEqual([claim('a')])
  })

  it('are each counted from their own first time', () => {
    const strays = new Strays(20_000)
    strays.seen([claim('a')], 0)
    strays.seen([claim('a'), claim('b')], 5_000)
    expect(strays.seen([claim('a'), claim('b')], 20_000)).toEqual([claim('a')])
    expect(strays.seen([claim('a'), claim('b')], 25_000)).toEqual([claim('b')])
  })
})
