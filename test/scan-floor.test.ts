/** Shows when a worker claims above the floor, when it looks everywhere, and where the floor is. */
import { describe, expect, it } from 'vitest'
import { ScanFloor } from '../src/processes/scan-floor.js'
import type { ClaimedRow } from '../src/vocabulary/claimed-row.js'

/** What a look sees of a row, and what it took the server to find it. */
type Row = Pick<ClaimedRow, 'priority' | 'runAtUs' | 'id'>

const EVERYWHERE = 'everywhere'
const SLOW_MS = 30

const row = (n: number, priority = 0): Row => ({ priority, runAtUs: n, id: `id ${n}` })

function setUp() {
  const state = { now: 0, working: true, sure: false }
  const floor = new ScanFloor({ working: () => state.working, mustBeSure: () => state.sure }, () => state.now)
  /** Claims with looks that bring these rows, one after the other. @returns where they looked. */
  const claim = async (...answers: { rows: Row[]; ms?: number }[]) => {
    const looks: unknown[] = []
    const found = await floor.claim(async (floors) => {
      looks.push(floors ?? EVERYWHERE)
      const { rows, ms = 0 } = answers[looks.length - 1]!
      return rows.map((row, index) => ({ ...row, foundInMs: index === 0 ? ms : null }) as ClaimedRow)
    })
    expect(looks).toHaveLength(answers.length)
    return { looks, found }
  }
  const looksEverywhere = async () => (await claim({ rows: [] })).looks[0] === EVERYWHERE
  return { state, claim, looksEverywhere }
}

describe('after a look everywhere', () => {
  it.each([
    ['everywhere', 'quick', 1, 5],
    ['above the floor', 'slow', 1, 6],
    ['everywhere', 'quick for so many', 1_000, 25],
    ['above the floor', 'slow for so many', 1_000, 26],
  ])('the next one is %s if it was %s: %i tasks in %i ms', async (where, _, count, ms) => {
    const { claim, looksEverywhere } = setUp()
    await claim({ rows: Array.from({ length: count }, (_, n) => row(n)), ms })
    if (where === 'everywhere') expect(await looksEverywhere()).toBe(true)
    else expect((await claim({ rows: [row(9)] })).looks).toEqual([[row(count - 1)]])
  })

  it.each([
    [30, 600],
    [49, 980],
    [51, 1_000],
    [2_000, 1_000],
  ])('that took %i ms, claims are above the floor until %i ms after it was sent', async (ms, until) => {
    const { state, claim, looksEverywhere } = setUp()
    await claim({ rows: [row(1)], ms })
    state.now = until - 1
    expect((await claim({ rows: [row(2)], ms: 500 })).looks).toEqual([[row(1)]])
    state.now = until
    expect(await looksEverywhere()).toBe(true)
  })

  it('that brought nothing, claims are where they were before', async () => {
    const { state, claim, looksEverywhere } = setUp()
    expect(await looksEverywhere()).toBe(true)
    expect(await looksEverywhere()).toBe(true)
    await claim({ rows: [row(1)], ms: SLOW_MS })
    await claim({ rows: [] }, { rows: [] })
    state.now = SLOW_MS * 20 - 1
    expect((await claim({ rows: [] })).looks).toEqual([[row(1)]])
    state.now += 1
    expect(await looksEverywhere()).toBe(true)
  })
})

describe('the floor', () => {
  it('is the last task that was claimed in each priority, by either look', async () => {
    const { state, claim } = setUp()
    await claim({ rows: [row(5, 9), row(7, 9), row(1, 3)], ms: SLOW_MS })
    expect((await claim({ rows: [row(8, 9), row(9, 9)] })).looks).toEqual([[row(7, 9), row(1, 3)]])
    expect((await claim({ rows: [row(2, 3)] })).looks).toEqual([[row(9, 9), row(1, 3)]])
    state.now = 1_000
    await claim({ rows: [row(4, 1)], ms: SLOW_MS })
    expect((await claim({ rows: [row(3, 3)] })).looks).toEqual([[row(9, 9), row(2, 3), row(4, 1)]])
  })

  it('goes back to a task from before it, so that those between are found in their order', async () => {
    const { state, claim } = setUp()
    await claim({ rows: [row(100)], ms: SLOW_MS })
    state.now = 1_000
    await claim({ rows: [row(10)], ms: SLOW_MS })
    expect((await claim({ rows: [row(11)] })).looks).toEqual([[row(10)]])
  })

  it.each([Number.NEGATIVE_INFINITY, -1e17])('is not at a task that is due since %d', async (runAtUs) => {
    const { claim, looksEverywhere } = setUp()
    await claim({ rows: [row(1, 2), { ...row(2), runAtUs }], ms: SLOW_MS })
    expect((await claim({ rows: [{ ...row(3, 2), runAtUs }] })).looks).toEqual([[row(1, 2)]])
    expect(await looksEverywhere()).toBe(true)
  })

  it('is forgotten when there are more than 64 priorities', async () => {
    const { claim, looksEverywhere } = setUp()
    await claim({ rows: Array.from({ length: 64 }, (_, n) => row(n, 100 - n)), ms: SLOW_MS })
    expect((await claim({ rows: [row(1, 7)] })).looks).toEqual([expect.objectContaining({ length: 64 })])
    expect(await looksEverywhere()).toBe(true)
  })
})

describe('when nothing is above the floor', () => {
  it('the whole queue is asked at once, so that a claim misses nothing that is due', async () => {
    const { claim } = setUp()
    await claim({ rows: [row(1)], ms: SLOW_MS })
    const { looks, found } = await claim({ rows: [] }, { rows: [row(2, 5)] })
    expect(looks).toEqual([[row(1)], EVERYWHERE])
    expect(found).toMatchObject({ rows: [row(2, 5)] })
  })

  it('and nothing was anywhere the last time, that has to do, unless somebody waits to know', async () => {
    const { state, claim } = setUp()
    await claim({ rows: [row(1)], ms: SLOW_MS })
    state.now = 100
    expect((await claim({ rows: [] }, { rows: [] })).found).toEqual({ rows: [], nothingDueAt: 100 })
    state.now = 200
    expect((await claim({ rows: [] })).found).toEqual({ rows: [] })
    state.sure = true
    expect((await claim({ rows: [] }, { rows: [] })).found).toEqual({ rows: [], nothingDueAt: 200 })
  })

  it('a worker that has stopped meanwhile claims nothing more', async () => {
    const { state, claim } = setUp()
    await claim({ rows: [row(1)], ms: SLOW_MS })
    state.working = false
    expect((await claim({ rows: [] })).found).toEqual({ rows: [] })
  })
})
