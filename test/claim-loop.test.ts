/** Shows when the loop looks for tasks, for how many, and when it waits. By a clock that stands still unless it is told. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { ClaimLoop, type ClaimLoopHooks } from '../src/processes/claim-loop.js'
import type { PollInterval } from '../src/vocabulary/poll-backoff.js'

const loops: ClaimLoop[] = []

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  // No jitter.
  vi.spyOn(Math, 'random').mockReturnValue(0)
})

afterEach(async () => {
  await Promise.all(loops.splice(0).map((loop) => loop.stop()))
  vi.restoreAllMocks()
  vi.useRealTimers()
})

/** A loop over a queue of which each claim finds what `found` says next; then nothing. */
function looking(interval: PollInterval, found: (number | Error)[] = [], hooks: Partial<ClaimLoopHooks> = {}) {
  const start = performance.now()
  const seen = { looks: [] as { at: number; limit: number }[], asked: [] as number[], failures: [] as unknown[] }
  const now = () => Math.round(performance.now() - start)
  const loop = new ClaimLoop(interval, {
    room: () => 10,
    claim: (limit) => {
      seen.looks.push({ at: now(), limit })
      const next = found.shift() ?? 0
      return next instanceof Error ? Promise.reject(next) : Promise.resolve(next)
    },
    nextDueMs: () => {
      seen.asked.push(now())
      return Promise.resolve(undefined)
    },
    listening: () => true,
    hurried: () => false,
    onFailure: (error) => seen.failures.push(error),
    onSuccess: () => undefined,
    ...hooks,
  })
  loops.push(loop)
  return { ...seen, loop, times: () => seen.looks.map(({ at }) => at) }
}

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms)

describe('the claim loop', () => {
  it('begins with a look, whatever another one has seen [FETCH-01] [FETCH-02]', async () => {
    const first = looking(100, [10, 10, 3])
    await pass(60_000)
    expect(first.looks[0]).toEqual({ at: 0, limit: 10 })
    const second = looking(100)
    await pass(0)
    expect(second.looks).toEqual([{ at: 0, limit: 10 }])
    await pass(150)
    // The growing waits begin anew as well.
    expect(second.times()).toEqual([0, 150])
  })

  it('does not look before its time has come [FETCH-03] [FETCH-06]', async () => {
    const { times } = looking(100)
    await pass(149)
    expect(times()).toEqual([0])
    await pass(1)
    expect(times()).toEqual([0, 150])
  })

  it.each([
    ['nothing', () => undefined as unknown as number],
    ['zero', () => 0],
    ['not a number', () => Number.NaN],
    [
      'an error',
      () => {
        throw new Error('exhausted')
      },
    ],
  ])('waits a second where the function for the waits gives %s [FETCH-04]', async (_, interval) => {
    const { looks, asked } = looking(interval)
    await pass(5_500)
    expect(looks.length + asked.length).toBeLessThanOrEqual(1 + 6)
    expect(looks.length + asked.length).toBeGreaterThan(1)
  })

  it('reports a failed look and tries again, later each time, for as many as there is room for [FETCH-05]', async () => {
    const broken = [new Error('one'), new Error('two'), new Error('three')]
    const room = vi.fn(() => 10)
    const { looks, failures, times } = looking(100, [10, ...broken, 2], { room })
    await pass(0)
    expect(failures).toEqual([broken[0]])
    room.mockReturnValue(4)
    await pass(100 + 200 + 400)
    expect(failures).toEqual(broken)
    expect(times()).toEqual([0, 0, 100, 300, 700])
    expect(looks.map(({ limit }) => limit)).toEqual([10, 10, 4, 4, 4])
  })

  it('looks again at once after a full claim, and soon after one that found less than there was room for [FETCH-07]', async () => {
    const { looks, times } = looking(100, [10, 10, 7])
    await pass(4)
    expect(times().slice(0, 3)).toEqual([0, 0, 0])
    expect(times()[3]).toBe(2)
    expect(looks.every(({ limit }) => limit === 10)).toBe(true)
  })

  it('does not look while there is no room, and does as soon as there is [FETCH-08]', async () => {
    let room = 3
    const { loop, looks } = looking(100, [3, 1], { room: () => room })
    expect(looks).toEqual([{ at: 0, limit: 3 }])
    room = 0
    await pass(60_000)
    expect(looks).toHaveLength(1)
    room = 1
    loop.wake()
    await pass(0)
    expect(looks[1]).toEqual({ at: 60_000, limit: 1 })
  })

  it('claims once for a hint, and leaves its waits as they are', async () => {
    const { loop, times } = looking(100)
    await pass(150)
    loop.hint()
    await pass(0)
    expect(times()).toEqual([0, 150, 150])
    await pass(1)
    expect(times()).toEqual([0, 150, 150])
  })

  it('follows its function for as long as it lives: after work, hints and failures [NEXT-43]', async () => {
    const asked: number[] = []
    const interval = (emptyLooks: number) => {
      asked.push(emptyLooks)
      return 40 + 10 * Math.min(emptyLooks, 3)
    }
    const { loop, times, failures } = looking(interval, [0, 0, 2, 0, new Error('broken'), 0, 0])
    await pass(50 + 60 + 40 + 50)
    expect(times()).toEqual([0, 50, 110, 150, 200])
    expect(failures).toHaveLength(1)
    await pass(200)
    loop.hint()
    await pass(1_000)
    expect(asked.slice(0, 5)).toEqual([0, 1, 2, 0, 1])
    expect(asked.at(-1)).toBeGreaterThan(10)
    const waits = times().map((at, n) => at - (times()[n - 1] ?? 0))
    expect(waits.slice(-8)).toEqual(Array.from({ length: 8 }, () => 70))
  })

  it('asks when the next task is due instead of claiming, when looks are far apart', async () => {
    const { looks, asked, times } = looking(1_000, [], {})
    await pass(1_500)
    expect(times()).toEqual([0])
    expect(asked).toEqual([0, 1_500])
    expect(looks).toHaveLength(1)
  })

  it('forgets failures once anything has worked again, also when it only asked', async () => {
    let down = false
    const failedAt: number[] = []
    const answer = <T>(value: T) => (down ? Promise.reject(new Error('away')) : Promise.resolve(value))
    looking(300, [], {
      claim: () => answer(0),
      nextDueMs: () => answer(undefined),
      onFailure: () => failedAt.push(Math.round(performance.now())),
    })
    const waitsOfAnOutage = async () => {
      down = true
      failedAt.length = 0
      await vi.waitUntil(() => failedAt.length === 3, { timeout: 60_000 })
      down = false
      return failedAt.slice(1).map((at, index) => at - failedAt[index]!)
    }
    await pass(10_000)
    expect(await waitsOfAnOutage()).toEqual([100, 200])
    await pass(10_000)
    expect(await waitsOfAnOutage()).toEqual([100, 200])
  })

  it('looks no more when it is stopped, also when that is while it waits', async () => {
    const { loop, times } = looking(100)
    await pass(10)
    await loop.stop()
    loop.wake()
    loop.hint()
    await pass(10_000)
    expect(times()).toEqual([0])
  })

  it('claims on a hint also while it asks when the next task is due', async () => {
    const { looks, asked, loop } = looking(5_000, [], {
      nextDueMs: () => (asked.push(0), new Promise(() => undefined)),
    })
    await pass(0)
    expect(asked.length).toBe(1)
    expect(looks.length).toBe(1)
    loop.hint()
    await pass(0)
    expect(looks.length).toBe(2)
  })

  it('does not take a question that a hint made needless for an answer', async () => {
    let successes = 0
    const unanswered = new Promise<number>(() => undefined)
    const { asked, looks, loop } = looking(5_000, [], {
      nextDueMs: () => (asked.push(0), asked.length === 1 ? Promise.resolve(undefined) : unanswered),
      claim: (limit) => (looks.push({ at: 0, limit }), looks.length === 1 ? Promise.resolve(0) : unanswered),
      onSuccess: () => (successes += 1),
    })
    loops.splice(loops.indexOf(loop), 1)
    await pass(10_000)
    expect([asked.length, looks.length, successes]).toEqual([2, 1, 1])
    loop.hint()
    await pass(0)
    expect([looks.length, successes]).toEqual([2, 1])
  })

  it('reports the failure of a question that it waited for, and nothing of one that a hint made needless', async () => {
    let fail: (error: Error) => void = () => undefined
    const { failures, loop } = looking(5_000, [], { nextDueMs: () => new Promise((_, reject) => (fail = reject)) })
    await pass(0)
    loop.hint()
    const needless = fail
    await pass(0)
    needless(new Error('needless'))
    await pass(0)
    expect(failures).toEqual([])
    fail(new Error('waited for'))
    await pass(0)
    expect(failures).toEqual([new Error('waited for')])
  })

  describe('while claims bring all they ask for', () => {
    /** A loop whose claims are answered by hand. */
    function answering(room: () => number) {
      const answers: ((found: number) => void)[] = []
      const looking500 = looking(5_000, [], { room, claim: () => new Promise((resolve) => answers.push(resolve)) })
      const answer = async (found: number) => {
        answers.shift()!(found)
        await pass(0)
      }
      return { ...looking500, underWay: () => answers.length, answer }
    }

    it.each([
      [500, 2],
      [199, 1],
    ])('for %i tasks, %i are under way', async (room, count) => {
      const { underWay, answer } = answering(() => room)
      await pass(0)
      expect(underWay()).toBe(1)
      for (let n = 0; n < 5; n++) {
        await answer(room)
        expect(underWay()).toBe(count)
      }
      for (let n = 0; n < count; n++) await answer(0)
      expect(underWay()).toBe(0)
    })

    it('goes on when the room that was promised to the other one is free again', async () => {
      const rooms = [500, 500, 0]
      const { underWay, answer } = answering(() => rooms.shift() ?? 500)
      await pass(0)
      await answer(500)
      // That of the other one; for the loop itself there was no room.
      expect(underWay()).toBe(1)
      await answer(0)
      expect(underWay()).toBe(1)
      await answer(0)
    })

    it('stops when both are answered', async () => {
      const { loop, answer } = answering(() => 500)
      await pass(0)
      await answer(500)
      let stopped = false
      const stopping = loop.stop().then(() => (stopped = true))
      await answer(500)
      expect(stopped).toBe(false)
      await answer(500)
      await stopping
    })
  })
})
