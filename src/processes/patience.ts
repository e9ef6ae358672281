/** How a setup gets past other sessions: it tries again for a while, and lets them pass in between. */
import { databaseError } from '../vocabulary/database-error.js'

export const LOCK_TIMEOUT = '55P03'
const DEADLOCK = '40P01'

/** How long to go on although other sessions are in the way. */
export class Patience {
  readonly #ms: number
  #deadline: number

  constructor(ms: number) {
    this.#ms = ms
    this.#deadline = Date.now() + ms
  }

  leftMs(): number {
    return Math.max(0, this.#deadline - Date.now())
  }

  /** The same as a timeout of PostgreSQL, to which zero means for ever. */
  waitMs(): number {
    return Math.max(1, this.leftMs())
  }

  renew(): void {
    this.#deadline = Date.now() + this.#ms
  }

  /** @param attempt - Gets how long to wait for a lock: briefly at first, because everybody who comes later waits behind it. */
  async retry<Result>(attempt: (lockTimeoutMs: number) => Promise<Result>): Promise<Result> {
    for (let lockTimeoutMs = 100; ; lockTimeoutMs = Math.min(2 * lockTimeoutMs, 2_000)) {
      try {
        return await attempt(lockTimeoutMs)
      } catch (error) {
        if (!isInTheWay(error) || this.leftMs() === 0) throw error
      }
      await pause()
    }
  }
}

/** The enqueues that queued behind a lock request run in it. */
export function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 500))
}

/** A deadlock is with somebody else's DDL, and the server chose us. */
function isInTheWay(error: unknown): boolean {
  const sqlState = setupSqlState(error)
  return sqlState === LOCK_TIMEOUT || sqlState === DEADLOCK
}

/** Of an error of the library or of the driver. */
export function setupSqlState(error: unknown): string | undefined {
  const wrapped = databaseError('setting up the apalis schema', error)
  return 'sqlState' in wrapped ? (wrapped.sqlState as string | undefined) : undefined
}
