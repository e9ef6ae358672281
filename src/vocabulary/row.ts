/** From a stored row to the fields of a task. Rows may have been written by any program, so nothing is taken for granted. */
import { STATUSES } from '../schema.js'
import type { TaskFields } from './claim.js'
import { RowError } from './errors.js'
import type { Metadata } from './task.js'
import { isTaskId } from './task-id.js'

/** Spelled out, because the types of the schema differ between Drizzle lines and must not stand in other declarations. */
export type Status = 'Pending' | 'Queued' | 'Running' | 'Done' | 'Failed' | 'Killed'

/** The columns that every reader of tasks selects. */
export interface TaskRow {
  readonly id: string
  readonly status: string
  readonly attempts: number
  readonly maxAttempts: number
  readonly priority: number | null
  readonly runAt: Date | null
  /** JSON text: drivers may rename the keys of parsed JSON. */
  readonly metadata: string | null
  readonly idempotencyKey: string | null
}

/** @throws {RowError} `ROW` when a column holds what the contract forbids. */
export function taskFields(
  queue: string,
  row: TaskRow,
): TaskFields & { readonly status: Status; readonly attempts: number } {
  const { id, status, runAt } = row
  if (!isTaskId(id)) throw new RowError('id', 'is not a ULID of 26 upper-case characters')
  if (!isStatus(status)) throw new RowError('status', 'is none of the six known')
  if (runAt === null) throw new RowError('run_at', 'is missing')
  if (Number.isNaN(runAt.getTime())) throw new RowError('run_at', 'is not a time that a Date can hold')
  return {
    id,
    queue,
    status,
    runAt,
    attempts: Math.max(row.attempts, 0),
    maxAttempts: Math.max(row.maxAttempts, 0),
    priority: Math.max(row.priority ?? 0, 0),
    metadata: readMetadata(row.metadata),
    idempotencyKey: row.idempotencyKey,
  }
}

export function isStatus(value: string): value is Status {
  return (STATUSES as readonly string[]).includes(value)
}

/** Other programs may have stored something else than an object; it carries no fields, so it counts as none. */
function readMetadata(text: string | null): Metadata {
  if (text === null) return {}
  const value: unknown = JSON.parse(text)
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Metadata) : {}
}
