/** What workers are told by NOTIFY. */
import { isTaskId, type TaskId } from './task-id.js'

/** New tasks of a queue, announced by the trigger on `apalis.jobs` among others. Shared with the Rust crates. */
export const CHANNEL = 'apalis::job::insert'

/** Tasks that a worker holds were cancelled. This library's own. */
export const CANCEL_CHANNEL = 'apalis_drizzle::cancel'

/** A payload of the server has at most 8,000 bytes; this bounds what a hand-made one can make us hold. */
const MAX_IDS = 65_536

export interface Notification {
  readonly queue: string
  /** Which tasks are new; empty when the sender named none. */
  readonly ids: readonly TaskId[]
}

/**
 * Reads `{"job_type", "ids"}` and the older `{"job_type", "id"}`. Everything else is nobody's announcement: an empty
 * payload, which Rust listeners send to themselves, and whatever other programs put on the channel.
 */
export function parseNotification(payload: string): Notification | undefined {
  const value = parseObject(payload)
  if (value === undefined || typeof value['job_type'] !== 'string') return undefined
  const { job_type: queue, ids, id } = value
  const named: unknown[] = Array.isArray(ids) && ids.length > 0 ? ids.slice(0, MAX_IDS) : [id]
  return { queue, ids: named.filter(isTaskId) }
}

/** Whose tasks were cancelled. */
export interface Cancellation {
  readonly queue: string
  readonly worker: string
}

/** Reads `{"job_type", "worker"}`. */
export function parseCancellation(payload: string): Cancellation | undefined {
  const { job_type: queue, worker } = parseObject(payload) ?? {}
  return typeof queue === 'string' && typeof worker === 'string' ? { queue, worker } : undefined
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}
