import type { TaskFields } from './claim.js'
import { unreadableReason } from './codec.js'
import { formatCursor } from './cursor.js'
import { DecodeError, isApalisError, RowError, type AnyApalisError, type TaskId } from './errors.js'
import { taskFields, type Status, type TaskRow } from './row.js'

/** A task as the database holds it. */
export interface StoredTask<Args> extends TaskFields {
  readonly status: Status
  /** Executions charged so far. */
  readonly attempts: number
  /** The worker that holds the task, or that ended it. */
  readonly lockBy: string | null
  readonly lockAt: Date | null
  /** When it last ended; `null` while it waits for its first end or was claimed again. */
  readonly doneAt: Date | null
  /** The text of its last failure, also while it waits for its next attempt or runs again; `null` if there was none, and once it is Done. */
  readonly error: string | null
  /** The payload, or why it cannot be read. */
  readonly payload: { readonly ok: true; readonly args: Args } | { readonly ok: false; readonly error: AnyApalisError }
  /** The task's place in the lists of its status: as `after` of a filter it lists what comes behind it. */
  readonly cursor: string
}

export interface StoredRow extends TaskRow {
  readonly queue: string
  readonly job: Uint8Array
  readonly lockBy: string | null
  readonly lockAt: Date | null
  readonly doneAt: Date | null
  readonly error: string | null
  readonly runAtUs: string
  readonly doneAtUs: string | null
}

/** From stored bytes to a payload; throws or rejects where they are none. */
export type ReadPayload<Args> = (id: TaskId, row: StoredRow) => Args | Promise<Args>

/** Never rejects: a row that cannot be a task is shown as it is, with the reason in place of the payload. */
export async function storedTask<Args>(row: StoredRow, read: ReadPayload<Args>): Promise<StoredTask<Args>> {
  const { fields, error } = readFields(row)
  return {
    ...fields,
    lockBy: row.lockBy,
    lockAt: row.lockAt,
    doneAt: row.doneAt,
    error: row.error,
    payload: error === undefined ? await readPayload(fields.id, row, read) : { ok: false, error },
    cursor: formatCursor({ ...row, status: fields.status }),
  }
}

type StoredFields = ReturnType<typeof taskFields>

function readFields(row: StoredRow): { fields: StoredFields; error?: RowError } {
  try {
    return { fields: taskFields(row.queue, row) }
  } catch (error) {
    if (!(error instanceof RowError)) throw error
    // A stand-in for what may be odd, to read the rest by the same rules.
    const rest = taskFields(row.queue, { ...row, id: '0'.repeat(26), status: 'Pending', runAt: new Date(0) })
    const odd = { id: row.id as TaskId, status: row.status as Status, runAt: row.runAt ?? new Date(NaN) }
    return { fields: { ...rest, ...odd }, error }
  }
}

async function readPayload<Args>(
  id: TaskId,
  row: StoredRow,
  read: ReadPayload<Args>,
): Promise<StoredTask<Args>['payload']> {
  try {
    return { ok: true, args: await read(id, row) }
  } catch (error) {
    return { ok: false, error: isApalisError(error) ? error : new DecodeError(id, row.queue, unreadableReason(error)) }
  }
}
