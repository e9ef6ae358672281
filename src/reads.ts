/**
 * What `admin` and `PostgresStorage` answer from the tables. Every function takes the database or transaction to read
 * in, and throws `DatabaseError` when that fails.
 */
import { databaseError } from './vocabulary/database-error.js'
import type { Db } from './vocabulary/db.js'
import { decodeArgs, decodeByDefault } from './vocabulary/decode.js'
import type { QueueDefinition } from './vocabulary/definition.js'
import type { QueueDepth, QueueInfo, QueueStatsSnapshot } from './vocabulary/queue-info.js'
import type { Statistic } from './vocabulary/statistics.js'
import { storedTask, type ReadPayload, type StoredRow, type StoredTask } from './vocabulary/stored-task.js'
import { taskPage, type TaskFilter, type TaskPage } from './vocabulary/task-filter.js'
import { parseTaskId } from './vocabulary/task-id.js'
import type { WorkerRow } from './vocabulary/worker-row.js'
import { fetchTask } from './statements/fetch-task.js'
import { listPendingTasks } from './statements/list-pending-tasks.js'
import { listQueues as selectQueues } from './statements/list-queues.js'
import { listTasks as selectTasks } from './statements/list-tasks.js'
import { listAllWorkers as selectAllWorkers, listWorkers as selectWorkers } from './statements/list-workers.js'
import { metrics as selectMetrics } from './statements/metrics.js'
import { queueDepths as selectDepths } from './statements/queue-depths.js'
import { readSnapshot, refreshSnapshot } from './statements/queue-stats-snapshot.js'

/**
 * The task with this id, if it belongs to the queue.
 *
 * @throws {InvalidArgumentError} if it is no task id.
 */
export async function fetchById<Args>(
  db: Db,
  definition: QueueDefinition<Args>,
  id: string,
): Promise<StoredTask<Args> | undefined> {
  const taskId = parseTaskId(id)
  const row = await reading(`fetching task ${taskId}`, () => fetchTask(db, definition.name, taskId))
  return row && storedTask(row, ownPayload(definition))
}

/**
 * Tasks of a queue, of one status. A task whose payload cannot be read is listed with the reason.
 *
 * @throws {InvalidArgumentError} for a filter that no list can answer.
 */
export async function listTasks<Args>(
  db: Db,
  definition: QueueDefinition<Args>,
  filter: TaskFilter = {},
): Promise<StoredTask<Args>[]> {
  return storedTasks(await selectPage(db, taskPage(filter, definition.name)), ownPayload(definition))
}

/**
 * Tasks of all queues, of one status. What the codec or schema of a queue makes of a payload is known to the storage of
 * that queue only; here payloads are read as the default codec writes them.
 *
 * @throws {InvalidArgumentError} for a filter that no list can answer.
 */
export async function listAllTasks(db: Db, filter: TaskFilter = {}): Promise<StoredTask<unknown>[]> {
  return storedTasks(await selectPage(db, taskPage(filter, undefined)), anyPayload)
}

/** The workers registered in a queue, live or not, the one that was heard of last first. */
export function listWorkers(db: Db, queue: string): Promise<WorkerRow[]> {
  return reading(`listing the workers of queue ${queue}`, () => selectWorkers(db, queue))
}

export function listAllWorkers(db: Db): Promise<WorkerRow[]> {
  return reading('listing workers', () => selectAllWorkers(db))
}

/** Every queue that has a task or a worker. Reads the whole table. */
export function listQueues(db: Db): Promise<QueueInfo[]> {
  return reading('listing queues', () => selectQueues(db))
}

/** The statistics of a queue, or of all together. Reads the whole table. */
export function metrics(db: Db, queue?: string): Promise<Statistic[]> {
  return reading('reading metrics', () => selectMetrics(db, queue))
}

/** What waits and runs in each queue. Its cost does not depend on finished tasks, so exporters may ask often. */
export function queueDepths(db: Db): Promise<QueueDepth[]> {
  return reading('reading queue depths', () => selectDepths(db))
}

/** Makes the snapshot anew. Reads the whole table. */
export function refreshQueueStatsSnapshot(db: Db): Promise<void> {
  return reading('refreshing the queue statistics snapshot', () => refreshSnapshot(db))
}

/** The counts of the last refresh. */
export function queueStatsSnapshot(db: Db): Promise<QueueStatsSnapshot[]> {
  return reading('reading the queue statistics snapshot', () => readSnapshot(db))
}

function selectPage(db: Db, page: TaskPage): Promise<StoredRow[]> {
  const { status } = page
  return reading('listing tasks', () =>
    status === 'Pending' ? listPendingTasks(db, page) : selectTasks(db, { ...page, status }),
  )
}

function storedTasks<Args>(rows: readonly StoredRow[], read: ReadPayload<Args>): Promise<StoredTask<Args>[]> {
  return Promise.all(rows.map((row) => storedTask(row, read)))
}

function ownPayload<Args>(definition: QueueDefinition<Args>): ReadPayload<Args> {
  return (id, { job }) => decodeArgs(definition, id, job)
}

const anyPayload: ReadPayload<unknown> = (id, { queue, job }) => decodeByDefault(queue, id, job)

async function reading<Result>(operation: string, read: () => Promise<Result>): Promise<Result> {
  try {
    return await read()
  } catch (error) {
    throw databaseError(operation, error)
  }
}
