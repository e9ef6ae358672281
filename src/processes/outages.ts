/**
 * What a worker tells of statements that fail again and again, so that the log of a bad night can be read: one line when
 * an operation begins to fail, reminders that become ever rarer, and one line when it works again.
 */
import { databaseError } from '../vocabulary/database-error.js'
import { inWords, type Report } from './report.js'

export const FIRST_REMINDER_MS = 60_000
export const MAX_REMINDER_MS = 900_000

interface Outage {
  readonly since: number
  failures: number
  reminderMs: number
  reminderAt: number
}

/** They belong to the worker and not to one registration, which may be lost in the same night. */
export class Outages {
  readonly #outages = new Map<string, Outage>()

  constructor(
    private readonly report: Report,
    private readonly clock: () => number = () => performance.now(),
  ) {}

  /** @returns what `work` answers, or `undefined` when it fails, which is told. */
  async attempt<T>(operation: string, work: () => Promise<T>): Promise<T | undefined> {
    try {
      const answer = await work()
      this.worked(operation)
      return answer
    } catch (error) {
      this.failed(operation, error)
      return undefined
    }
  }

  failed(operation: string, error: unknown): void {
    const now = this.clock()
    const cause = databaseError(operation, error)
    const body = { type: 'worker.error', operation, cause } as const
    const outage = this.#outages.get(operation)
    if (outage === undefined) {
      const reminderAt = now + FIRST_REMINDER_MS
      this.#outages.set(operation, { since: now, failures: 1, reminderMs: FIRST_REMINDER_MS, reminderAt })
      return this.report('error', `${inWords(cause)} Trying again.`, body)
    }
    outage.failures += 1
    if (now < outage.reminderAt) return
    outage.reminderMs = Math.min(outage.reminderMs * 2, MAX_REMINDER_MS)
    outage.reminderAt = now + outage.reminderMs
    this.report('error', `${inWords(cause)} Trying again; ${soFar(outage, now)}.`, body)
  }

  worked(operation: string): void {
    const outage = this.#outages.get(operation)
    if (outage === undefined) return
    this.#outages.delete(operation)
    const { failures } = outage
    // As loud as the failures, which whoever read of them waits to see ended.
    const message = `${operation} works again after ${soFar(outage, this.clock())}`
    this.report('warn', message, { type: 'worker.recovered', operation, failures })
  }
}

function soFar({ failures, since }: Outage, now: number): string {
  return `${failures} ${failures === 1 ? 'failure' : 'failures'} in ${Math.round((now - since) / 1_000)} s`
}
