/**
 * How often a process announces the tasks that it pushes inside transactions. PostgreSQL lets one notifying transaction
 * commit at a time, in the whole cluster, so an application that enqueues in every transaction would queue up behind
 * that lock. Workers find tasks that were not announced by polling.
 */
import type { EncodedTask } from './task.js'

/** Announcements that may come at once after a quiet time. */
const BURST = 20

/** A bucket of tokens: full at first, refilled at a rate. Time is passed in, in milliseconds. */
export class NotifyLimit {
  #tokens = BURST
  #refilledAt: number | undefined

  /** @returns Whether to announce now; if so, a token is spent. */
  take(maxPerSecond: number, now: number): boolean {
    const elapsed = now - (this.#refilledAt ?? now)
    this.#refilledAt = now
    this.#tokens = Math.min(BURST, this.#tokens + (elapsed / 1_000) * maxPerSecond)
    if (this.#tokens < 1) return false
    this.#tokens -= 1
    return true
  }
}

const limits = new Map<string, NotifyLimit>()

/** Whether a statement with these tasks, in a transaction of the application, announces them: if one of its queues may. */
export function mayAnnounce(tasks: readonly EncodedTask[], now: number): boolean {
  const queues = new Map(tasks.map(({ queue, notify }) => [queue, notify]))
  const allowed = [...queues].filter(([queue, notify]) => {
    if (typeof notify === 'string') return notify === 'always'
    const limit = limits.get(queue) ?? new NotifyLimit()
    limits.set(queue, limit)
    return limit.take(notify.maxPerSecond, now)
  })
  return allowed.length > 0
}

/** Whether a statement outside of such a transaction announces its tasks: only one of them holds the lock at a time. */
export function announcesOutsideTx(tasks: readonly EncodedTask[]): boolean {
  return tasks.some(({ notify }) => notify !== 'never')
}
