/// <reference lib="esnext.disposable" preserve="true" />
export { defineQueue } from './vocabulary/queue.js'
export type { Queue, QueueOptions } from './vocabulary/queue.js'
export type { Metadata, Task, TaskOptions } from './vocabulary/task.js'
export { jsonCodec, superjsonCodec } from './vocabulary/codec.js'
export type { Codec } from './vocabulary/codec.js'
export { typed } from './vocabulary/standard-schema.js'
export type { StandardSchema } from './vocabulary/standard-schema.js'
export type { Backoff } from './vocabulary/retry.js'

export { pushTaskWithTx, pushTasksWithTx } from './processes/push-with-tx.js'
export type { OnConflict } from './processes/push-with-tx.js'
export { PostgresStorage } from './storage.js'
export { admin } from './admin.js'
export type { Admin } from './admin.js'
export type { StoredTask } from './vocabulary/stored-task.js'
export type { TaskResult } from './vocabulary/task-result.js'
export type { TaskFilter } from './vocabulary/task-filter.js'
export type { PrunableStatus, Pruned, PruneOptions } from './vocabulary/prune-options.js'
export type { QueueDepth, QueueInfo, QueueStatsSnapshot } from './vocabulary/queue-info.js'
export type { Retention } from './vocabulary/retention.js'
export type { Change } from './vocabulary/change.js'
export type { Selection } from './vocabulary/selection.js'
export type { Statistic } from './vocabulary/statistics.js'
export type { WorkerRow } from './vocabulary/worker-row.js'
export { runWorkers } from './processes/run-workers.js'
export type { RunOptions, Worker } from './processes/run-workers.js'
export { shutdownSignal } from './processes/shutdown-signal.js'
export type { PollOptions, StorageConfig, WaitOptions, WorkerOptions } from './vocabulary/settings.js'
export type { Claim, Handler, TaskContext, TaskFields } from './vocabulary/claim.js'
export type { Completed } from './vocabulary/completed.js'
export type { Outcome } from './vocabulary/outcome.js'
export type { WorkerEvent } from './vocabulary/events.js'
export { createNotifyListener } from './processes/listener.js'
export type { NotifyListener } from './vocabulary/notify-listener.js'
export type { PollInterval } from './vocabulary/poll-backoff.js'
export type { Status } from './vocabulary/row.js'

export { setup } from './processes/setup.js'
export type { SetupOptions } from './processes/setup.js'
export { verifySchema } from './processes/verify-schema.js'

export type { PgDb, PgTx, TxOf } from './vocabulary/db.js'

export {
  AbortTaskError,
  AlreadyRegisteredError,
  ApalisError,
  BatchFailedError,
  DatabaseError,
  DecodeError,
  DeferTaskError,
  IdempotencyConflictError,
  InvalidArgumentError,
  isApalisError,
  MigrationError,
  MissingFieldError,
  NotifyListenerError,
  OutcomeUnknownError,
  PoolError,
  RetryAfterError,
  RowError,
  SchemaError,
  StaleAcknowledgementError,
  TaskAbortedError,
  TaskNotFoundError,
  WorkerNotRegisteredError,
} from './vocabulary/errors.js'
export type { AnyApalisError, Issue, TaskId } from './vocabulary/errors.js'
