import { describe, expect, it } from 'vitest'
import { isApalisError } from '../src/vocabulary/errors.js'
import {
  checkStorageConfig,
  workerSettings,
  type StorageConfig,
  type WorkerOptions,
} from '../src/vocabulary/settings.js'

describe('workerSettings', () => {
  it('has the documented defaults', () => {
    expect(workerSettings({}, {})).toMatchObject({
      name: 'worker',
      concurrency: 10,
      bufferSize: 10,
      keepAliveMs: 30_000,
      reenqueueOrphanedAfterMs: 300_000,
      pollIntervalMs: 100,
      listen: true,
      stopTimeoutMs: 25_000,
    })
  })

  it('takes options over the storage’s config over defaults, and undefined for not set', () => {
    const config = { keepAliveMs: 1_000, bufferSize: 50, pollIntervalMs: undefined }
    const options = { keepAliveMs: 2_000, bufferSize: undefined, name: 'mailer#3' }
    expect(workerSettings(config, options)).toMatchObject({
      keepAliveMs: 2_000,
      bufferSize: 50,
      pollIntervalMs: 100,
      name: 'mailer#3',
    })
  })

  it.each([
    [0, 1, 1],
    [0, 4, 4],
    [30, 4, 30],
  ])('buffers %i with %i slots as %i', (bufferSize, concurrency, expected) => {
    expect(workerSettings({ bufferSize }, { concurrency }).bufferSize).toBe(expected)
  })

  it.each<[StorageConfig & WorkerOptions, string]>([
    [{ keepAliveMs: 300_000 }, 'keepAliveMs'],
    [{ keepAliveMs: 5_000, reenqueueOrphanedAfterMs: 5_000 }, 'keepAliveMs'],
    [{ keepAliveMs: 0 }, 'keepAliveMs'],
    [{ keepAliveMs: 100, reenqueueOrphanedAfterMs: 999 }, 'reenqueueOrphanedAfterMs'],
    [{ reenqueueOrphanedAfterMs: 2 ** 31 }, 'reenqueueOrphanedAfterMs'],
    [{ bufferSize: -1 }, 'bufferSize'],
    [{ bufferSize: 1.5 }, 'bufferSize'],
    [{ pollIntervalMs: 0 }, 'pollIntervalMs'],
    [{ pollIntervalMs: Number.NaN }, 'pollIntervalMs'],
    [{ pollIntervalMs: 5_001 }, 'pollIntervalMs'],
    [{ onEvent: 'console' as unknown as () => void }, 'onEvent'],
    [{ listen: 'yes' as unknown as boolean }, 'listen'],
    [{ retention: 7 as unknown as object }, 'retention'],
    [{ retention: { doneMs: -1 } }, 'retention.doneMs'],
    [{ retention: { failedMs: 59_999 } }, 'retention.failedMs'],
    [{ retention: { killedMs: '7 days' as unknown as number } }, 'retention.killedMs'],
    [{ concurrency: 0 }, 'concurrency'],
    [{ concurrency: '4' as unknown as number }, 'concurrency'],
    [{ stopTimeoutMs: -1 }, 'stopTimeoutMs'],
    [{ stopTimeoutMs: 86_400_001 }, 'stopTimeoutMs'],
    [{ stopTimeoutMs: Number.POSITIVE_INFINITY }, 'stopTimeoutMs'],
    [{ name: '' }, 'name'],
    [{ name: 'x'.repeat(256) }, 'name'],
    [{ name: 'with\0NUL' }, 'name'],
  ])('refuses %j before anything is written [NEXT-29]', (options, argument) => {
    expect(argumentRefusedBy(() => workerSettings({}, options))).toBe(argument)
  })

  it('refuses a wrong config where the storage is made', () => {
    expect(argumentRefusedBy(() => checkStorageConfig({ keepAliveMs: 300_000 }))).toBe('keepAliveMs')
    expect(() => checkStorageConfig({ keepAliveMs: 299_999, pollIntervalMs: () => 5 })).not.toThrow()
    expect(argumentRefusedBy(() => checkStorageConfig({ onEvent: {} as () => void }))).toBe('onEvent')
    expect(() => checkStorageConfig({ retention: { doneMs: 60_000, killedMs: undefined } })).not.toThrow()
  })
})

function argumentRefusedBy(run: () => unknown): string | undefined {
  try {
    run()
    return undefined
  } catch (error) {
    return isApalisError(error, 'INVALID_ARGUMENT') ? error.argument : String(error)
  }
}
