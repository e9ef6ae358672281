import { describe, expect, it } from 'vitest'
import { DEADLINES } from '../src/processes/deadlines.js'
import { Strays } from '../src/processes/strays.js'

const claim = (id: string, lockAt = 1_000) => ({ id, attempts: 0, lockAt })
/** A heartbeat that is answered at once. */
const at = (time: number) => ({ sentAt: time, receivedAt: time })

describe('strays', () => {
  it('are waited for until the answer of their claim cannot come any more; lock times are whole seconds', () => {
    expect(DEADLINES.strayMs).toBeGreaterThan(DEADLINES.answerMs + 1_000)
  })

  it('are given up once they were unknown for the grace period, and not before', () => {
    const strays = new Strays(20_000)
    expect(strays.seen([claim('a')], at(100_000))).toEqual([])
    expect(strays.seen([claim('a')], at(119_999))).toEqual([])
    expect(strays.seen([claim('a')], at(120_000))).toEqual([claim('a')])
  })

  it('are not reported again while the database still shows them', () => {
    const strays = new Strays(20_000)
    strays.seen([claim('a')], at(0))
    expect(strays.seen([claim('a')], at(20_000))).toEqual([claim('a')])
    expect(strays.seen([claim('a')], at(1_000_000))).toEqual([])
  })

  it('begin anew when the claim was held in between, or is another claim of the task', () => {
    const strays = new Strays(20_000)
    strays.seen([claim('a'), claim('b')], at(0))
    strays.seen([claim('b', 2_000)], at(10_000))
    expect(strays.seen([claim('a'), claim('b', 2_000)], at(20_000))).toEqual([])
    expect(strays.seen([claim('a'), claim('b', 2_000)], at(30_000))).toEqual([claim('b', 2_000)])
    expect(strays.seen([claim('a')], at(40_000))).toEqual([claim('a')])
  })

  it('are each counted from their own first time', () => {
    const strays = new Strays(20_000)
    strays.seen([claim('a')], at(0))
    strays.seen([claim('a'), claim('b')], at(5_000))
    expect(strays.seen([claim('a'), claim('b')], at(20_000))).toEqual([claim('a')])
    expect(strays.seen([claim('a'), claim('b')], at(25_000))).toEqual([claim('b')])
  })

  it('are not given up by a heartbeat that was asked for earlier: the process was too busy to read its answer, or that of the claim', () => {
    const strays = new Strays(20_000)
    strays.seen([claim('a')], { sentAt: 0, receivedAt: 1_000 })
    expect(strays.seen([claim('a')], { sentAt: 2_000, receivedAt: 30_000 })).toEqual([])
    expect(strays.seen([claim('a')], { sentAt: 20_999, receivedAt: 30_001 })).toEqual([])
    expect(strays.seen([claim('a')], { sentAt: 21_000, receivedAt: 30_002 })).toEqual([claim('a')])
  })

  it('may yet be brought by a claim under way that is older', () => {
    const strays = new Strays(20_000)
    strays.seen([claim('a')], at(1_000))
    expect(strays.seen([claim('a')], at(30_000), 900)).toEqual([])
    expect(strays.seen([claim('a')], at(30_001), 1_001)).toEqual([claim('a')])
  })
})
