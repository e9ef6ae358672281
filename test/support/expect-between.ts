import { expect } from 'vitest'

/** Both bounds included. */
export function expectBetween(value: unknown, low: number, high: number): void {
  expect(value).toBeGreaterThanOrEqual(low)
  expect(value).toBeLessThanOrEqual(high)
}
