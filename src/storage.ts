import type { Codec } from './vocabulary/codec.js'
import type { Claim, Handler } from './vocabulary/claim.js'
import { database, type PgDb, type PgTx } from './vocabulary/db.js'
import { definitionOf, definitionOfTask } from './vocabulary/definition.js'
import { InvalidArgumentError, type TaskId } from './vocabulary/errors.js'
import { checkSeries } from './vocabulary/limits.js'
import type { Outcome } from './vocabulary/outcome.js'
import type { Queue } from './vocabulary/queue.js'
import type { Statistic } from './vocabulary/statistics.js'
import type { StoredTask } from './vocabulary/stored-task.js'
import type { TaskFilter } from './vocabulary/task-filter.js'
import type { WorkerRow } from './vocabulary/worker-row.js'
import type { TaskResult } from './vocabulary/task-result.js'
import {
  checkStorageConfig,
  type PollOptions,
  type StorageConfig,
  type WaitOptions,
  type WorkerOptions,
} from './vocabulary/settings.js'
import type { Task, TaskOptions } from './vocabulary/task.js'
import type { Consumer } from './processes/ack-alone.js'
import { acknowledge, acknowledgeWithTx } from './processes/handed-out.js'
import { claimByIds, lockTask } from './processes/lock-task.js'
import { poll } from './processes/poll.js'
import { pushAll } from './processes/push-all.js'
import { pushGroup, type PushGroup } from './processes/push-group.js'
import { pushTaskWithTx } from './processes/push-with-tx.js'
import { sink } from './processes/sink.js'
import type { Worker } from './processes/run-workers.js'
import { checkStatus, waitFor, waitForSingle } from './processes/wait-for.js'
import { QueueWorker } from './processes/worker.js'
import { fetchById, listTasks, listWorkers, metrics } from './reads.js'

/**
 * The tasks of one queue in one database: push, and make workers. Cheap to create and without state of its own; nothing
 * is opened before it is used.
 *
 * @example const storage = new PostgresStorage(db, emails)
 */
export class PostgresStorage<Args, Result = void, Input = Args> {
  /** What the storage was made for. */
  readonly queue: Queue<Args, Result, Input>
  /** As it was given, without the defaults. */
  readonly config: Readonly<StorageConfig>
  // Private, because printing a storage must not print the client and with it the password.
  readonly #db: PgDb
  readonly #pushes: PushGroup

  /** @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a transaction in place of a database, and for settings that cannot work. */
  constructor(db: PgDb, queue: Queue<Args, Result, Input>, config: StorageConfig = {}) {
    this.#db = db
    this.#pushes = pushGroup(database(db, 'PostgresStorage'))
    definitionOf(queue)
    checkStorageConfig(config)
    this.queue = queue
    this.config = Object.freeze({ ...config })
  }

  /** The database that it was given. */
  get db(): PgDb {
    return this.#db
  }

  /** The same storage with other bytes: `new PostgresStorage(db, queue.withCodec(codec), config)`. */
  withCodec(codec: Codec | Codec<Input>): PostgresStorage<Args, Result, Input> {
    return new PostgresStorage(this.db, this.queue.withCodec(codec), this.config)
  }

  /** Inserts one task in the caller's transaction; see {@link pushTaskWithTx} for what it promises and throws. */
  pushWithTx(tx: PgTx, args: Input, options?: TaskOptions): Promise<TaskId> {
    return pushTaskWithTx(tx, this.queue.task(args, options))
  }

  /**
   * Inserts one task of this queue in the caller's transaction; see {@link pushTaskWithTx}.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` also for a task of another queue.
   */
  async pushTaskWithTx(tx: PgTx, task: Task<Input>): Promise<TaskId> {
    return pushTaskWithTx(tx, this.#own(task))
  }

  /**
   * Stores one task, outside of any transaction; resolves once it is committed. Concurrent calls share statements.
   * Inside `db.transaction` use `pushWithTx`: this would take a second connection and survive a rollback.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` before any SQL.
   * @throws {IdempotencyConflictError} `IDEMPOTENCY_CONFLICT` when the key is taken.
   * @throws {PoolError} `POOL` when no connection became free within 30 s; nothing was stored.
   * @throws {OutcomeUnknownError} `OUTCOME_UNKNOWN` when there was no answer within 30 s, and the statement may still be
   * executed; or when the answer was lost and the task could not be looked up.
   * @throws {DatabaseError} `DATABASE` also when another session has taken the key and not committed within 4 s.
   */
  push(args: Input, options?: TaskOptions): Promise<TaskId> {
    return this.#pushes.pushTask(this.queue.task(args, options))
  }

  /** As `push`, for a task made by this storage's queue. */
  async pushTask(task: Task<Input>): Promise<TaskId> {
    return this.#pushes.pushTask(this.#own(task))
  }

  /** Stores all tasks or none; ids in the order of the tasks. Throws as `push`. */
  async pushTasks(tasks: Iterable<Task<Input>>): Promise<TaskId[]> {
    return this.#pushes.pushTasks(Array.from(checkSeries('tasks', tasks, '[task]'), (task) => this.#own(task)))
  }

  /**
   * Stores a long or endless series of tasks in batches of up to 1,000 tasks or 2 MiB, reading no further ahead than one
   * batch. Each batch is stored as a whole or not at all; those before a failing one stay stored. When the series itself
   * throws, what it gave before is stored first.
   *
   * @param options.signal - Ends it with the signal's reason at the next task, after those read so far are stored. A series
   * that waits for its next task has to watch the signal itself.
   * @returns How many tasks were stored.
   * @throws {BatchFailedError} `BATCH_FAILED` with the first batch that fails: its `tasks`, and as `cause` what `pushTasks`
   * would have thrown.
   */
  pushAll(
    tasks: AsyncIterable<Task<Input>> | Iterable<Task<Input>>,
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<number> {
    return pushAll(this.#pushes, tasks, (task) => this.#own(task), options.signal)
  }

  /**
   * A Web stream that stores the tasks written to it, in order and in batches: `lines.pipeTo(storage.sink())`. Each call
   * makes one of its own.
   *
   * - Its high-water mark is `bufferSize` (0 acts as 1), and a batch has at most as many tasks, or 2 MiB. It holds at most
   *   three times as many: in the stream, in the next batch, and in the one being stored. For bulk loads set 1,000.
   * - A write is done when its task is taken, which is stored at once or with the next batch; `close` is done when all are
   *   stored. `abort` too stores what was taken, and drops what still waits in the stream, whose writes reject.
   * - The first batch that fails ends the stream with a {@link BatchFailedError}, which holds its tasks and those taken after
   *   them; `stored` says how many of the series are stored. Writes that still waited reject with it too.
   */
  sink(): WritableStream<Task<Input>> {
    return sink(this.#pushes, (task) => this.#own(task), Math.max(this.config.bufferSize ?? 10, 1))
  }

  /**
   * Makes a worker; it begins with `start` or `run`. Several may live in one process.
   *
   * @param handler - Runs one task. It may run more than once for a task, so its effects should bear repetition.
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for options that cannot work.
   */
  worker(handler: Handler<Args, Result>, options: WorkerOptions = {}): Worker {
    return new QueueWorker(this.db, definitionOf(this.queue), handler, this.config, options)
  }

  /**
   * Claims of due tasks, for a loop of the application's own. Each one is acknowledged with `ack`; the worker of the loop
   * keeps it, with heartbeats, for as long as that takes. It claims no more than `bufferSize` tasks ahead of the loop.
   *
   * It registers with the first `next()`, so a loop that cannot register throws there: `AlreadyRegisteredError` or
   * `DatabaseError`; what fails later is an event, and is tried again. Each loop over it is a worker of its own. A task
   * whose payload cannot be read is charged a failed attempt, reported as `task.failed`, and passed over.
   *
   * When the loop ends, claims that it did not get are handed back uncharged. Those that it did get remain its own until
   * they are acknowledged: only then the name is free, and the process can end by itself. `timeoutMs` of the queue and
   * `concurrency` have no effect here.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a name that cannot be one.
   * @example
   * for await (const claim of storage.poll({ worker: 'importer', signal })) {
   *   await storage.ack(claim, { status: 'Done', result: await work(claim.args) })
   * }
   */
  poll(options: PollOptions): AsyncIterable<Claim<Args>> {
    return poll(this.db, definitionOf(this.queue), this.config, options)
  }

  /**
   * Claims one task by its id, for an application that decides itself which comes next: one that is due and waits, or that
   * this name holds already. It is Running until it is acknowledged with `ack`. A task whose payload cannot be read is
   * charged a failed attempt.
   *
   * @param worker - A name that `admin(db).registerWorker(queue, name)` has registered; that of a worker is refused. Nothing
   * renews it but calling `registerWorker` again: when it has not been for `reenqueueOrphanedAfterMs`, workers return its
   * tasks to the queue, charged. Who shares a name shares its tasks, so each process needs its own.
   * @throws {TaskNotFoundError} `TASK_NOT_FOUND` when it is delayed, finished, held by another worker, locked by another
   * transaction, of another queue, or not there at all.
   * @throws {WorkerNotRegisteredError} `WORKER_NOT_REGISTERED` when the name is not registered in this queue, or was not renewed.
   * @throws {AlreadyRegisteredError} `ALREADY_REGISTERED` when it is the name of a worker.
   * @throws {DecodeError} `DECODE`, and {RowError} `ROW`, for a task that cannot be read.
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` before any SQL.
   * @throws {DatabaseError} `DATABASE`
   */
  lockTask(id: string, worker: string): Promise<Claim<Args>> {
    return lockTask(this.#consumer('lockTask'), id, worker)
  }

  /**
   * Claims those of the given tasks that are due and wait, such as the ids of a notification; highest priority first, then
   * the oldest. Others are left out, also those that the name holds already. Tasks whose payload cannot be read are charged
   * a failed attempt, reported as `task.failed`, and left out.
   *
   * @param worker - As of `lockTask`.
   * @returns One claim for each task, all in memory at once. In the database all of them are Running.
   * @throws as `lockTask`, except that nothing is refused for the tasks' sake. Those that it got then are back in the queue,
   * except where an answer was lost: `lockTask` claims such a task again.
   */
  claimByIds(ids: Iterable<string>, worker: string): Promise<Claim<Args>[]> {
    return claimByIds(this.#consumer('claimByIds'), ids, worker)
  }

  /**
   * Records what came of a claim of `poll`, `lockTask` or `claimByIds`, or of `ctx.task` where `autoAck` is `false`; resolves
   * when it is recorded. While the database fails it is tried again; for a claim without a worker, for 30 s.
   *
   * @param claim - The very object. Its `attempt` is not read: what counts is the claim as the database made it.
   * @throws {StaleAcknowledgementError} `STALE_ACKNOWLEDGEMENT` when the claim was lost, or is acknowledged already.
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` before any SQL, for an outcome that cannot be stored, and for a claim
   * of another queue; the claim stays as it is.
   * @throws {MissingFieldError} `MISSING_FIELD` for any other object.
   * @throws {DatabaseError} `DATABASE` when its worker stopped, or the 30 s were over, before the database took the outcome;
   * the task may run again.
   */
  ack(claim: Claim<Args>, outcome: Outcome<Result>): Promise<void> {
    return acknowledge(this.#consumer('ack'), claim, outcome)
  }

  /**
   * As `ack`, in the caller's transaction, one round trip: what is written there and the outcome are committed together. If
   * it rolls back, the claim is still held and can be acknowledged again.
   *
   * The worker of a claim looks into the database to learn of the commit, soon after it, and reports it then. That of a
   * claim without a worker is not reported.
   *
   * @throws {StaleAcknowledgementError} `STALE_ACKNOWLEDGEMENT` as `ack`, and beyond read committed also for a claim that is
   * younger than the transaction. Let it leave the callback of the transaction, so that this rolls back.
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` as `ack`, and for a `db` in place of a `tx`.
   * @throws {MissingFieldError} `MISSING_FIELD` as `ack`.
   * @throws {DatabaseError} `DATABASE` when the statement fails; as after any SQL error the transaction can only roll back.
   * @example
   * await db.transaction(async (tx) => {
   *   await tx.insert(receipts).values(receipt)
   *   await storage.ackWithTx(tx, claim, { status: 'Done', result: receipt })
   * })
   */
  ackWithTx(tx: PgTx, claim: Claim<Args>, outcome: Outcome<Result>): Promise<void> {
    return acknowledgeWithTx(this.#consumer('ackWithTx'), tx, claim, outcome)
  }

  /**
   * The task with this id, if it belongs to this queue.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` if it is no task id.
   * @throws {DatabaseError} `DATABASE`
   */
  fetchById(id: string): Promise<StoredTask<Args> | undefined> {
    return fetchById(database(this.db, 'fetchById'), definitionOf(this.queue), id)
  }

  /**
   * Tasks of this queue, of one status; `Pending` by default. A task whose payload cannot be read is listed with the reason.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a filter that no list can answer.
   * @throws {DatabaseError} `DATABASE`
   */
  listTasks(filter?: TaskFilter): Promise<StoredTask<Args>[]> {
    return listTasks(database(this.db, 'listTasks'), definitionOf(this.queue), filter)
  }

  /** The workers of this queue, the one seen last first. @throws {DatabaseError} `DATABASE` */
  listWorkers(): Promise<WorkerRow[]> {
    return listWorkers(database(this.db, 'listWorkers'), this.queue.name)
  }

  /** Statistics of this queue. Reads all of its tasks, so its time grows with them. @throws {DatabaseError} `DATABASE` */
  metrics(): Promise<Statistic[]> {
    return metrics(database(this.db, 'metrics'), this.queue.name)
  }

  /**
   * Tasks as they end, of any queue: Done, Killed, or Failed without attempts left. Their results are read as results of
   * this queue. It ends when all of them have ended; with no ids at once. Tasks that a worker of this process runs are
   * seen as soon as they end, others within two seconds.
   *
   * Errors come from `next()`. A task whose result cannot be read, or that is not stored (any more), throws once and is not
   * asked for again; a `for await` ends with that, and a loop that calls `next()` itself may go on with the other tasks.
   * Every other error ends the wait: the reason of `signal`, a `DOMException` named `TimeoutError`, or a `DatabaseError` for
   * the third failure in a row. Do not wait inside `db.transaction`, for which a worker may be waiting.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` at once, for ids and options that cannot be ones.
   * @throws {DecodeError} `DECODE` from `next()`, for one task.
   * @throws {TaskNotFoundError} `TASK_NOT_FOUND` from `next()`, for a task that two polls in a row did not find.
   * @throws {DatabaseError} `DATABASE` from `next()`.
   */
  waitFor(ids: Iterable<string>, options?: WaitOptions): AsyncIterable<TaskResult<Result>> {
    return waitFor(database(this.db, 'waitFor'), definitionOf(this.queue), ids, options)
  }

  /** How one task ends, of any queue; rejects as `next()` of {@link waitFor} throws. */
  async waitForSingle(id: string, options?: WaitOptions): Promise<TaskResult<Result>> {
    return waitForSingle(database(this.db, 'waitForSingle'), definitionOf(this.queue), id, options)
  }

  /**
   * Those of the tasks, of any queue, that have ended, in the order of their ids; without waiting. Those that have not, and
   * those that are not stored, are left out.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for ids that cannot be ones.
   * @throws {DecodeError} `DECODE` when a result cannot be read: `taskId` says which one to leave out.
   * @throws {DatabaseError} `DATABASE`
   */
  async checkStatus(ids: Iterable<string>): Promise<TaskResult<Result>[]> {
    return checkStatus(database(this.db, 'checkStatus'), definitionOf(this.queue), ids)
  }

  #consumer(call: string): Consumer<Args, Result> {
    return { db: database(this.#db, call), queue: definitionOf(this.queue), config: this.config }
  }

  #own(task: Task<Input>): Task<Input> {
    const { name } = definitionOfTask(task)
    if (name === this.queue.name) return task
    throw new InvalidArgumentError(
      'task',
      `it belongs to queue ${JSON.stringify(name)}, and this storage to ${JSON.stringify(this.queue.name)}. Push it with the storage of its own queue, or with pushTasksWithTx, which takes mixed queues.`,
    )
  }
}
