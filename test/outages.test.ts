/** What a worker tells of an operation that fails again and again. */
import { recordEvents } from 'apalis-drizzle/testing'
import { expect, it } from 'vitest'
import { Outages } from '../src/processes/outages.js'
import { reporter } from '../src/processes/report.js'

const SECOND = 1_000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE

function watched() {
  const { all, onEvent } = recordEvents()
  let now = 0
  const outages = new Outages(reporter('mails', 'mailer#1', onEvent), () => now)
  const at = (ms: number) => {
    now = ms
    return outages
  }
  return { all, at }
}

it('begins with an error and ends with a warning, however often it failed in between', () => {
  const { all, at } = watched()
  for (let n = 0; n < 40; n++) at(n * SECOND).failed('claiming tasks', new Error('gone'))
  expect(all).toHaveLength(1)
  expect(all[0]).toMatchObject({ type: 'worker.error', level: 'error', operation: 'claiming tasks', queue: 'mails' })
  expect(all[0]).toMatchObject({ cause: { code: 'DATABASE' } })
  at(45 * SECOND).worked('claiming tasks')
  at(46 * SECOND).worked('claiming tasks')
  expect(all).toHaveLength(2)
  expect(all[1]).toMatchObject({ type: 'worker.recovered', level: 'warn', operation: 'claiming tasks', failures: 40 })
  expect(all[1]!.message).toBe('mailer#1 (mails): claiming tasks works again after 40 failures in 45 s')
})

it('is told of ever more rarely while it lasts: a night takes some fifty lines', () => {
  const { all, at } = watched()
  const toldAt: number[] = []
  for (let now = 0; now < 10 * HOUR; now += SECOND) {
    const before = all.length
    at(now).failed('claiming tasks', new Error('gone'))
    if (all.length > before) toldAt.push(now / MINUTE)
  }
  expect(toldAt.slice(0, 8)).toEqual([0, 1, 3, 7, 15, 30, 45, 60])
  expect(toldAt.length).toBeLessThan(50)
  expect(all[1]!.message).toContain('Trying again; 61 failures in 60 s.')
})

it('says nothing of what never failed, and begins anew after what has worked', () => {
  const { all, at } = watched()
  at(0).worked('claiming tasks')
  expect(all).toEqual([])
  for (const second of [1, 3]) {
    at(second * SECOND).failed('claiming tasks', new Error('gone'))
    at((second + 1) * SECOND).worked('claiming tasks')
  }
  expect(all.map(({ type }) => type)).toEqual(['worker.error', 'worker.recovered', 'worker.error', 'worker.recovered'])
  expect(all[3]!.message).toContain('after 1 failure in 1 s')
})

it('tells operations apart', () => {
  const { all, at } = watched()
  at(0).failed('claiming tasks', new Error('gone'))
  at(0).failed('sending the heartbeat', new Error('gone'))
  at(SECOND).worked('sending the heartbeat')
  at(SECOND).failed('claiming tasks', new Error('gone'))
  expect(all.map((event) => [event.type, 'operation' in event && event.operation])).toEqual([
    ['worker.error', 'claiming tasks'],
    ['worker.error', 'sending the heartbeat'],
    ['worker.recovered', 'sending the heartbeat'],
  ])
})
