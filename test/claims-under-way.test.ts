import { expect, it } from 'vitest'
import { ClaimsUnderWay } from '../src/processes/claims-under-way.js'

it('knows what claims may bring until they are through, also those that fail', async () => {
  const underWay = new ClaimsUnderWay()
  expect(underWay.firstSentAt).toBe(Number.POSITIVE_INFINITY)
  const before = performance.now()
  let fail: (error: Error) => void = () => undefined
  const first = underWay.run(2, () => new Promise((_, reject) => (fail = reject)))
  const between = performance.now()
  const second = underWay.run(3, () => Promise.resolve('rows'))
  expect(underWay.promised).toBe(5)
  expect(underWay.firstSentAt).toBeGreaterThanOrEqual(before)
  expect(underWay.firstSentAt).toBeLessThanOrEqual(between)
  expect(await second).toBe('rows')
  expect(underWay.promised).toBe(2)
  fail(new Error('lost'))
  await expect(first).rejects.toThrow('lost')
  expect(underWay.promised).toBe(0)
  expect(underWay.firstSentAt).toBe(Number.POSITIVE_INFINITY)
})
