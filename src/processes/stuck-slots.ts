import { FIRST_REMINDER_MS, MAX_REMINDER_MS } from './outages.js'
import type { Report } from './report.js'

const OPERATION = 'finding a free slot'

/**
 * What a worker tells when every slot is held by a handler that ignored its signal. Nothing runs then although nothing
 * fails, so nothing else would tell: one line when it begins, reminders that become ever rarer, and one line when a slot
 * comes back. It belongs to the worker and not to one registration, as `Slots`.
 */
export class StuckSlots {
  #since: number | undefined
  #handedBack = 0
  #told = 0
  #reminder: ReturnType<typeof setTimeout> | undefined

  constructor(private readonly report: Report) {}

  /** @param handedBack - How many tasks went back to the queue, for other processes. */
  began(slots: number, handedBack: number): void {
    this.#handedBack += handedBack
    if (this.#since !== undefined) return
    this.#since = performance.now()
    this.#tell(slots, FIRST_REMINDER_MS)
  }

  /** A slot came back. */
  ended(): void {
    if (this.#since === undefined) return
    const message = `a slot is free again after ${secondsSince(this.#since)} s in which all were held`
    const failures = this.#told
    this.stop()
    this.report('warn', message, { type: 'worker.recovered', operation: OPERATION, failures })
  }

  /** Tells nothing more. */
  stop(): void {
    clearTimeout(this.#reminder)
    this.#since = undefined
    this.#handedBack = 0
    this.#told = 0
  }

  #tell(slots: number, reminderMs: number): void {
    this.#told += 1
    const held = slots === 1 ? 'the only slot is held by a handler' : `all ${slots} slots are held by handlers`
    const cause = new Error(`${held} that ignored ${slots === 1 ? 'its' : 'their'} signal`)
    const tasks = this.#handedBack === 1 ? '1 task was' : `${this.#handedBack} tasks were`
    const message = `${cause.message}, for ${secondsSince(this.#since!)} s; ${tasks} handed back; restart the process if ${slots === 1 ? 'it does' : 'they do'} not end`
    this.report('warn', message, { type: 'worker.error', operation: OPERATION, cause })
    const next = Math.min(reminderMs * 2, MAX_REMINDER_MS)
    this.#reminder = setTimeout(() => this.#tell(slots, next), reminderMs)
    this.#reminder.unref()
  }
}

function secondsSince(since: number): number {
  return Math.round((performance.now() - since) / 1_000)
}
