import { pauseQueue, resumeQueue } from './processes/pause.js'
import { prune } from './processes/prune.js'
import { registerByAdmin } from './statements/register-by-admin.js'
import type { Claim } from './vocabulary/claim.js'
import { databaseError } from './vocabulary/database-error.js'
import type { Change } from './vocabulary/change.js'
import { databaseOrTransaction, isTransaction, type PgDb, type PgTx } from './vocabulary/db.js'
import { checkQueueName, checkWorkerName } from './vocabulary/limits.js'
import type { Pruned, PruneOptions } from './vocabulary/prune-options.js'
import type { QueueDepth, QueueInfo, QueueStatsSnapshot } from './vocabulary/queue-info.js'
import type { Selection } from './vocabulary/selection.js'
import type { Statistic } from './vocabulary/statistics.js'
import type { StoredTask } from './vocabulary/stored-task.js'
import type { TaskFilter } from './vocabulary/task-filter.js'
import type { WorkerRow } from './vocabulary/worker-row.js'
import { lockAnyTask } from './processes/lock-task.js'
import * as reads from './reads.js'
import * as steering from './steering.js'

/**
 * What a person or a dashboard asks across queues; see {@link admin}. All of it throws {@link DatabaseError} when a statement
 * fails.
 *
 * The calls that take a {@link Selection} are one statement each. They tell which tasks they have changed, and of those that
 * were named by id also which they have not, and why; with `{ queue }` they change all that they can. They wait for tasks
 * that a transaction holds: in the caller's transaction as long as that session does, otherwise for two seconds, after
 * which they throw {@link DatabaseError} with `sqlState` `55P03` and nothing is changed.
 */
export interface Admin {
  /**
   * Tasks of all queues, of one status. A task whose payload cannot be read is listed with the reason.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a filter that no list can answer.
   */
  listAllTasks(filter?: TaskFilter): Promise<StoredTask<unknown>[]>
  /** The workers of all queues, the one seen last first. */
  listAllWorkers(): Promise<WorkerRow[]>
  /** Every queue that has tasks or workers, with its statistics. Reads all tasks, so its time grows with the table. */
  listQueues(): Promise<QueueInfo[]>
  /** Statistics over all queues. Reads all tasks, so its time grows with the table. */
  metrics(): Promise<Statistic[]>
  /** Due, delayed and running tasks per queue: for exporters and autoscalers, in milliseconds also on a large table. */
  queueDepths(): Promise<QueueDepth[]>
  /**
   * From now on, for the transaction's from its commit on, no worker of this library claims a task of the queue, in any
   * process, until `resume`. Tasks that are claimed already still run, those in the workers' buffers included; tasks may be
   * pushed. Rust workers do not see it. Pausing a paused queue changes nothing.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a name that no queue can have.
   */
  pause(queue: string): Promise<void>
  /** Ends a pause, and wakes the workers of the queue. Without one it changes nothing. Throws as `pause`. */
  resume(queue: string): Promise<void>
  /**
   * Deletes the tasks of all queues that ended long ago, in batches of 1,000, and waits for nobody: what other transactions
   * lock is left for the next call. With a task its idempotency key becomes free. In a transaction all of it is undone by a
   * rollback, and locked until the end.
   *
   * Also deletes workers that have been silent for that long, and for a day at least, and that no task names, but only in
   * databases with the index `jobs_job_type_lock_by_idx` of Rust 0.6. Their names are used again, so their number stays
   * small without it.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a negative age and for statuses of tasks that have not ended.
   * @throws whatever `signal` was aborted with.
   */
  prune(options: PruneOptions): Promise<Pruned>
  /**
   * Counts of each queue as of the last `refreshQueueStatsSnapshot`, for dashboards that ask often; none before the first. Reads
   * no task.
   */
  queueStatsSnapshot(): Promise<QueueStatsSnapshot[]>
  /** Brings the snapshot, the view `apalis.queue_stats_snapshot`, up to date. Reads all tasks; readers are not held up. Not inside a transaction that others wait for. */
  refreshQueueStatsSnapshot(): Promise<void>
  /**
   * Registers a worker name without a process behind it, for `lockTask`, `claimByIds` and consumers in other programs. Called
   * again it renews the registration: that is the heartbeat of such a name, due well within `reenqueueOrphanedAfterMs` for as
   * long as it holds tasks. The row of a worker is left as it is.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for names that cannot be stored.
   */
  registerWorker(queue: string, name: string): Promise<void>
  /**
   * Claims one task of any queue by its id; see {@link PostgresStorage.lockTask}. With a transaction the claim holds once that
   * commits: it is acknowledged after that with `ack` of the queue's storage, or in the same transaction with `ackWithTx`.
   * Payloads are read as the default codec writes them; a task that cannot be read so goes back uncharged. The name counts as
   * registered for 300,000 ms.
   *
   * @throws as `PostgresStorage.lockTask`.
   */
  lockTask(id: string, worker: string): Promise<Claim<unknown>>
  /**
   * Ends tasks that have not ended: they are Killed at once, and say in their result that they were cancelled. A handler that runs is told by
   * its signal (`why` is `cancelled`) within a second where its worker listens, otherwise with its next heartbeat, and
   * whatever it still does is not recorded. The attempt of a task that was Running is charged.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a malformed selection, and for a status other than Pending,
   * Queued, Running and Failed.
   */
  cancel(which: Selection): Promise<Change>
  /**
   * Runs tasks now, or within a second, that are Killed (cancelled ones as well), Failed or due later. One that has used
   * its attempts gets one more. Of a queue it retries what is Failed or Killed; tasks that are due later only with
   * `status: 'Pending'`.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a malformed selection, and for a status other than Pending,
   * Failed and Killed.
   */
  retryNow(which: Selection): Promise<Change>
  /**
   * Makes waiting tasks due at another time, Failed ones with attempts left among them.
   *
   * @param runAt - In the past: now.
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a malformed selection, a status other than Pending and Failed, and
   * an instant that is no valid date.
   */
  reschedule(which: Selection, runAt: Date): Promise<Change>
  /**
   * Gives waiting tasks another priority, Failed ones with attempts left among them.
   *
   * @param priority - From 0; higher runs first.
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a malformed selection, a status other than Pending and Failed, and
   * a priority that is no integer from 0 to 2^31-1.
   */
  setPriority(which: Selection, priority: number): Promise<Change>
  /**
   * Deletes tasks that have ended, of Failed ones those without an attempt left. Their idempotency keys become free.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a malformed selection, and for a status other than Done, Killed
   * and Failed.
   */
  remove(which: Selection): Promise<Change>
}

/**
 * Everything that spans queues. With a transaction it happens in that transaction.
 *
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for anything but a Drizzle database or transaction on Postgres.
 */
export function admin(dbOrTx: PgDb | PgTx): Admin {
  const db = databaseOrTransaction(dbOrTx, 'admin')
  const place = { db, inTransaction: isTransaction(dbOrTx) }
  return {
    listAllTasks: (filter) => reads.listAllTasks(db, filter),
    listAllWorkers: () => reads.listAllWorkers(db),
    listQueues: () => reads.listQueues(db),
    metrics: () => reads.metrics(db),
    queueDepths: () => reads.queueDepths(db),
    pause: (queue) => pauseQueue(db, queue),
    resume: (queue) => resumeQueue(db, queue),
    prune: (options) => prune(db, options),
    queueStatsSnapshot: () => reads.queueStatsSnapshot(db),
    refreshQueueStatsSnapshot: () => reads.refreshQueueStatsSnapshot(db),
    lockTask: (id, worker) => lockAnyTask(db, id, worker),
    registerWorker: async (queue, name) => {
      checkQueueName(queue)
      checkWorkerName(name)
      try {
        await registerByAdmin(db, queue, name)
      } catch (error) {
        throw databaseError(`registering worker ${name} in queue ${queue}`, error)
      }
    },
    cancel: (which) => steering.cancel(place, which),
    retryNow: (which) => steering.retryNow(place, which),
    reschedule: (which, runAt) => steering.reschedule(place, which, runAt),
    setPriority: (which, priority) => steering.setPriority(place, which, priority),
    remove: (which) => steering.remove(place, which),
  }
}
