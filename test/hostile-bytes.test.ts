import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, it } from 'vitest'
import type { Cost } from './support/hostile-bytes.js'

const program = fileURLToPath(new URL('./support/hostile-bytes.ts', import.meta.url))

describe('reading hostile bytes', () => {
  let costs: Cost[]

  // In a process of its own, whose memory and processor time are its own: other tests do not count, nor does waiting.
  beforeAll(async () => {
    const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', program], { timeout: 50_000 })
    costs = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Cost)
  })

  it('ends in a value or in UnreadableValue', () => {
    expect(costs.length).toBeGreaterThan(15)
    expect(costs.filter(({ outcome }) => !['read', 'UnreadableValue'].includes(outcome))).toEqual([])
  })

  it('takes less than two seconds of processor time each', () => {
    expect(costs.filter(({ cpuMs }) => cpuMs > 2000)).toEqual([])
  })

  it('takes less than half a gigabyte', () => {
    expect(Math.max(...costs.map(({ peakMemoryMb }) => peakMemoryMb))).toBeLessThan(512)
  })
})
