/** What an idle worker asks of the database: counted over minutes of a clock that is turned by hand, and once by the server. */
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { ClaimLoop } from '../src/processes/claim-loop.js'
import { Listener } from '../src/processes/listener.js'
import { startProxy } from './support/proxy.js'
import { useDatabase } from './support/database.js'
import { useWorkers } from './support/workers.js'

const database = useDatabase()
const work = useWorkers(() => database.db)
const MINUTE = 60_000

afterEach(() => {
  vi.useRealTimers()
})

/** Statements per minute of a claim loop that finds nothing, once its polls are as far apart as they get. */
async function looksPerMinute(listening: boolean): Promise<number> {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] })
  let statements = 0
  const loop = new ClaimLoop(100, {
    room: () => 20,
    claim: () => {
      statements += 1
      return Promise.resolve(0)
    },
    nextDueMs: () => {
      statements += 1
      return Promise.resolve(undefined)
    },
    listening: () => listening,
    hurried: () => false,
    onFailure: (error) => expect.unreachable(String(error)),
    onSuccess: () => undefined,
  })
  await vi.advanceTimersByTimeAsync(MINUTE)
  const before = statements
  await vi.advanceTimersByTimeAsync(10 * MINUTE)
  await loop.stop()
  return (statements - before) / 10
}

/** Statements per minute of a listener that hears nothing but itself. */
async function signsOfLifePerMinute(): Promise<number> {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] })
  let statements = 0
  let hear: (channel: string) => void = () => undefined
  const listener = new Listener((channels, _signal, { onNotification }) => {
    const alive = channels.at(-1)
    if (alive !== undefined) hear = () => onNotification(alive, '')
    const execute = () => {
      statements += 1
      hear(alive ?? '')
      return Promise.resolve()
    }
    return Promise.resolve({ execute, close: () => Promise.resolve() })
  })
  const told: string[] = []
  const tell = (what: string) => () => void told.push(what)
  const leave = listener.subscribe({
    queue: 'mail',
    onWake: tell('wake'),
    onCancel: tell('cancel'),
    onUp: tell('up'),
    onDown: tell('down'),
  })
  await vi.advanceTimersByTimeAsync(MINUTE)
  const before = statements
  await vi.advanceTimersByTimeAsync(10 * MINUTE)
  await leave()
  expect(told).toEqual(['up', 'wake'])
  return (statements - before) / 10
}

describe('an idle worker', () => {
  it('with a listener issues fewer than 20 statements a minute', async () => {
    const [looks, signs] = [await looksPerMinute(true), await signsOfLifePerMinute()]
    expect(looks).toBeGreaterThan(10)
    expect(signs).toBeGreaterThan(1)
    expect(looks + signs).toBeLessThan(20)
  })

  it('without a listener looks about once a second', async () => {
    const looks = await looksPerMinute(false)
    expect(looks).toBeGreaterThan(50)
    expect(looks).toBeLessThan(70)
  })

  it('really sends one statement for each look', async () => {
    const proxy = await startProxy(database.url)
    onTestFinished(() => proxy.stop())
    const { db } = database.connect({ host: '127.0.0.1', port: Number(new URL(proxy.url).port) })
    const { started } = work<number>({}, db)
    let looks = 0
    let seen: () => void = () => undefined
    const idle = new Promise<void>((resolve) => (seen = resolve))
    // Asked for the next wait after every look, twenty of them while the polls are far apart.
    const pollIntervalMs = () => {
      looks += 1
      if (looks === 20) seen()
      return 250
    }
    await started(() => undefined, { listen: false, pollIntervalMs })
    const before = { looks, turns: proxy.turns }
    await idle
    // Beside the first look, which is a claim and a question: connecting and preparing both takes a few turns each.
    expect(proxy.turns - before.turns).toBeLessThanOrEqual(20 - before.looks + 10)
    expect(proxy.turns - before.turns).toBeGreaterThanOrEqual(20 - before.looks - 2)
  })
})
