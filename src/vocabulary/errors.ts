/**
 * Every error of the library: one class per `code`, the ids as fields, the cause, and the next step in the message.
 * Messages carry ids and queue names, never payloads, tokens or connection strings.
 */
import type { Task } from './task.js'

/** Shared by all copies of the library in one process, so that `isApalisError` works across them. */
const BRAND = Symbol.for('apalis-drizzle.error')

/** A task id: a ULID of 26 characters. Functions return it; their inputs accept any string and check it. */
export type TaskId = string & { readonly [brand]: 'TaskId' }
declare const brand: unique symbol

/** What all errors of this library are. `isApalisError` recognises them, also those of another copy of the package. */
export abstract class ApalisError extends Error {
  abstract readonly code: string
  /** Declared here for programs whose `lib` is older than ES2022. */
  declare readonly cause: unknown
  readonly [BRAND] = true

  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    // Not enumerable, as on native errors, so that logs show the code and the ids and not this.
    Object.defineProperty(this, BRAND, { enumerable: false })
    Object.defineProperty(this, 'name', { value: new.target.name, configurable: true, enumerable: false })
  }
}

/** A problem with one argument, as a place in it and what is wrong there. */
export interface Issue {
  readonly path: readonly PropertyKey[]
  readonly message: string
}

/** `DATABASE`: the database or the connection failed. `cause` is the driver's error without its parameters. */
export class DatabaseError extends ApalisError {
  readonly code = 'DATABASE'
  /** What the library was doing, in plain words. */
  readonly operation: string
  /** The SQLSTATE, if the server sent one; `undefined` when the connection failed. */
  readonly sqlState: string | undefined

  constructor(operation: string, sqlState: string | undefined, cause: Error | undefined, hint?: string) {
    super(
      `Database error while ${operation}${sqlState === undefined ? '' : ` (${sqlState})`}: ${cause?.message ?? 'unknown'}.${hint === undefined ? '' : ` ${hint}`}`,
      { cause },
    )
    this.operation = operation
    this.sqlState = sqlState
  }
}

/** `POOL`: no connection of the application's pool became free in time. Nothing was stored. */
export class PoolError extends ApalisError {
  readonly code = 'POOL'
  readonly operation: string
  readonly waitedMs: number

  constructor(operation: string, waitedMs: number) {
    super(
      `No database connection became free within ${waitedMs} ms while ${operation}; nothing was stored. Inside db.transaction call pushWithTx or pushTaskWithTx with the transaction; otherwise raise the size of the pool.`,
    )
    this.operation = operation
    this.waitedMs = waitedMs
  }
}

/** `OUTCOME_UNKNOWN`: the statement was sent and its answer was lost or did not come in time, so the task may or may not be stored. */
export class OutcomeUnknownError extends ApalisError {
  readonly code = 'OUTCOME_UNKNOWN'
  readonly operation: string
  readonly taskId: TaskId
  /** All ids of the push; a push of many is stored as a whole or not at all. */
  readonly taskIds: readonly TaskId[]

  constructor(operation: string, taskIds: readonly [TaskId, ...TaskId[]], cause?: Error, hint?: string) {
    const [first, ...others] = taskIds
    const tasks = others.length === 0 ? `task ${first}` : `task ${first} and ${others.length} more`
    super(
      `The outcome of ${operation} is unknown: ${tasks} may or may not be stored. Look the id up, or push again with the same id, which stores the task at most once.${hint === undefined ? '' : ` ${hint}`}`,
      cause === undefined ? undefined : { cause },
    )
    this.operation = operation
    this.taskId = first
    this.taskIds = taskIds
  }
}

/**
 * `BATCH_FAILED`: a series of tasks, of `pushAll` or a sink, ended at a batch that could not be stored, or at a task that
 * could not be one. `cause` says why. What was stored before stays.
 */
export class BatchFailedError extends ApalisError {
  readonly code = 'BATCH_FAILED'
  /** How many were stored: the first so many of the series. What the series holds behind `tasks` was not stored either. */
  readonly stored: number
  /** The ids that `tasks` got, in the same order; one that could not be a task stands last and has none. */
  readonly taskIds: readonly TaskId[]
  readonly #tasks: readonly Task[]

  constructor(tasks: readonly Task[], taskIds: readonly TaskId[], stored: number, cause: unknown) {
    const failed = tasks.length === 1 ? '1 task' : `${tasks.length} tasks`
    super(
      `The series of tasks failed after ${stored} that were stored, with ${failed}: ${cause instanceof Error ? cause.message : 'unknown'} The field tasks has them, to push them again or put them elsewhere.`,
      { cause },
    )
    this.stored = stored
    this.taskIds = taskIds
    this.#tasks = tasks
  }

  /** All that were taken and are not stored, or of which that is unknown. A getter on the prototype, so that printing the error does not print them. */
  get tasks(): readonly Task[] {
    return this.#tasks
  }
}

/** `SCHEMA`: the `apalis` schema of the database is not one the library can work with. Nothing was changed. */
export class SchemaError extends ApalisError {
  readonly code = 'SCHEMA'
  /** What differs, one line each. */
  readonly differences: readonly string[]

  constructor(summary: string, differences: readonly string[]) {
    super(`${summary}${differences.length === 0 ? '' : `\n- ${differences.join('\n- ')}`}`)
    this.differences = differences
  }
}

/** `MIGRATION`: a step of `setup` failed. Steps before it stay; running `setup` again continues. */
export class MigrationError extends ApalisError {
  readonly code = 'MIGRATION'
  readonly migration: string
  readonly sqlState: string | undefined

  constructor(migration: string, sqlState: string | undefined, cause: Error | undefined, hint?: string) {
    super(
      `Migration ${migration} of the apalis schema failed${sqlState === undefined ? '' : ` (${sqlState})`}: ${cause?.message ?? 'unknown'}. ${hint ?? 'Running setup again continues where it stopped.'}`,
      { cause },
    )
    this.migration = migration
    this.sqlState = sqlState
  }
}

/** `INVALID_ARGUMENT`: a value from outside was refused before any SQL. */
export class InvalidArgumentError extends ApalisError {
  readonly code = 'INVALID_ARGUMENT'
  readonly argument: string
  readonly #issues: readonly Issue[]

  constructor(argument: string, message: string, issues: readonly Issue[] = []) {
    super(`Invalid ${argument}: ${message}`)
    this.argument = argument
    this.#issues = issues
  }

  /**
   * The places that were refused. With a schema these are its own messages, which may quote the value. A getter on the
   * prototype, so that printing the error does not print them.
   */
  get issues(): readonly Issue[] {
    return this.#issues
  }
}

/** `IDEMPOTENCY_CONFLICT`: a key is already taken in its queue. The batch is not stored; the caller's transaction goes on. */
export class IdempotencyConflictError extends ApalisError {
  readonly code = 'IDEMPOTENCY_CONFLICT'
  readonly queue: string
  /** The distinct keys that did not get a row: stored before, or repeated inside the batch. */
  readonly conflictingKeys: readonly string[]
  /** How many tasks were pushed together. */
  readonly total: number

  constructor(queue: string, conflictingKeys: readonly string[], refused: number, total: number) {
    super(
      `Idempotency conflict in queue ${JSON.stringify(queue)}: ${refused} of ${total} ${total === 1 ? 'task' : 'tasks'} refused, nothing of this push was stored. Conflicting keys: ${listed(conflictingKeys)}. A key is taken until its task is deleted. Where the stored task will do, catch this error, or call pushTaskWithTx(tx, task, { onConflict: 'doNothing' }), which does not throw it.`,
    )
    this.queue = queue
    this.conflictingKeys = conflictingKeys
    this.total = total
  }
}

/** `DECODE`: the stored payload or result does not fit the queue's codec or schema. */
export class DecodeError extends ApalisError {
  readonly code = 'DECODE'
  readonly taskId: TaskId
  readonly queue: string
  readonly #issues: readonly Issue[]

  constructor(taskId: TaskId, queue: string, reason: string, issues: readonly Issue[] = []) {
    super(
      `Task ${taskId} of queue ${JSON.stringify(queue)} cannot be decoded: ${reason}. Check that producer and consumer use the same codec and schema.`,
    )
    this.taskId = taskId
    this.queue = queue
    this.#issues = issues
  }

  /** What the schema refused; its messages may quote the value, so printing the error does not print them. */
  get issues(): readonly Issue[] {
    return this.#issues
  }
}

/** `ROW`: a stored row cannot become a task, because another program wrote a column in a way the contract forbids. */
export class RowError extends ApalisError {
  readonly code = 'ROW'
  readonly column: string

  constructor(column: string, reason: string) {
    super(
      `A row of apalis.jobs cannot become a task: column ${column} ${reason}. Find out which program wrote it; the row itself was not changed.`,
    )
    this.column = column
  }
}

/** `MISSING_FIELD`: a claim lacks a field that only the library can fill in. */
export class MissingFieldError extends ApalisError {
  readonly code = 'MISSING_FIELD'
  readonly field: string

  constructor(field: string) {
    super(
      `The claim lacks ${field}. Acknowledge the very object that poll or lockTask returned, or ctx.task of a worker with autoAck: false: a task has to pass poll, then lock, then ack.`,
    )
    this.field = field
  }
}

/** `TASK_NOT_FOUND`: no task in the state that the operation needs. */
export class TaskNotFoundError extends ApalisError {
  readonly code = 'TASK_NOT_FOUND'
  readonly operation: string
  readonly taskId: string
  readonly queue: string | undefined

  /** @param reason - What else may be the case with it, and what to do. */
  constructor(operation: string, taskId: string, queue: string | undefined, reason = NOT_CLAIMABLE) {
    const where = queue === undefined ? '(any)' : JSON.stringify(queue)
    super(`No task for ${operation}: id ${taskId}, queue ${where}. ${reason}`)
    this.operation = operation
    this.taskId = taskId
    this.queue = queue
  }
}

const NOT_CLAIMABLE =
  'It may be delayed, locked by another worker, finished, deleted or in another queue, or its queue is paused: look it up with fetchById of a storage of its queue.'

/** `STALE_ACKNOWLEDGEMENT`: the claim is no longer the task's. Nothing was changed. */
export class StaleAcknowledgementError extends ApalisError {
  readonly code = 'STALE_ACKNOWLEDGEMENT'
  readonly taskId: TaskId
  readonly queue: string
  readonly worker: string

  /** @param reason - What this process knows of it. */
  constructor(taskId: TaskId, queue: string, worker: string, options?: ErrorOptions, reason = CLAIM_LOST) {
    super(
      `Task ${taskId} of queue ${JSON.stringify(queue)} is no longer held by this claim of worker ${JSON.stringify(worker)}: ${reason}`,
      options,
    )
    this.taskId = taskId
    this.queue = queue
    this.worker = worker
  }
}

const CLAIM_LOST =
  'its status, owner, attempt or lock time changed, and another run may have started. Usual cause: no heartbeat for reenqueueOrphanedAfterMs (blocked event loop, lost connection).'

/** `ALREADY_REGISTERED`: another process, or a worker, holds this worker name in this queue. */
export class AlreadyRegisteredError extends ApalisError {
  readonly code = 'ALREADY_REGISTERED'
  readonly queue: string
  readonly worker: string

  constructor(queue: string, worker: string, detail = ALREADY_REGISTERED) {
    super(`Worker ${JSON.stringify(worker)} is registered in queue ${JSON.stringify(queue)}, ${detail}`)
    this.queue = queue
    this.worker = worker
  }
}

const ALREADY_REGISTERED =
  'or being registered, by another process, which may be dead: then the name is free reenqueueOrphanedAfterMs after its last heartbeat, so let the supervisor try again. Give each process its own name, or leave out the number ("name" instead of "name#1") to get the next free one at once.'

/** `WORKER_NOT_REGISTERED`: the worker's registration is missing, or it is gone or was taken over. */
export class WorkerNotRegisteredError extends ApalisError {
  readonly code = 'WORKER_NOT_REGISTERED'
  readonly operation: string
  readonly queue: string
  readonly worker: string

  constructor(operation: string, queue: string, worker: string, detail = REGISTRATION_GONE) {
    super(
      `Worker ${JSON.stringify(worker)} is not registered in queue ${JSON.stringify(queue)} (${operation}): ${detail}`,
    )
    this.operation = operation
    this.queue = queue
    this.worker = worker
  }
}

const REGISTRATION_GONE =
  'its row was deleted, released or taken over by another process. Claims stop until it has registered again.'

/** `NOTIFY_LISTENER`: the LISTEN connection failed; wake-ups are off until it is back. */
export class NotifyListenerError extends ApalisError {
  readonly code = 'NOTIFY_LISTENER'

  constructor(reason: string, options?: ErrorOptions) {
    super(
      `Notifications are off: ${reason}. Tasks are still found by polling; the listener reconnects by itself.`,
      options,
    )
  }
}

/** `TASK_ABORTED`: the reason of `ctx.signal`. */
export class TaskAbortedError extends ApalisError {
  readonly code = 'TASK_ABORTED'
  readonly why: 'shutdown' | 'timeout' | 'claim-lost' | 'cancelled'
  readonly taskId: TaskId

  constructor(why: TaskAbortedError['why'], taskId: TaskId) {
    super(`Task ${taskId} is to stop: ${ABORT_REASONS[why]}`)
    this.why = why
    this.taskId = taskId
  }
}

const ABORT_REASONS = {
  shutdown: 'the worker is shutting down and its stopTimeoutMs has passed; the task returns to the queue uncharged.',
  timeout: "it ran longer than the queue's timeoutMs; the attempt counts as failed.",
  'claim-lost': 'the worker no longer holds it; whatever the handler still does is not recorded.',
  cancelled: 'it was cancelled; whatever the handler still does is not recorded.',
} as const satisfies Record<TaskAbortedError['why'], string>

/** Shared by all copies of the library, as `BRAND` is. */
const STEERING = Symbol.for('apalis-drizzle.steering')

/** Throw it from a handler to end the task as Killed now, whatever attempts are left. */
export class AbortTaskError extends Error {
  override readonly name = 'AbortTaskError'

  /** @param reason - Stored in the task's result. */
  constructor(reason: string, options?: ErrorOptions) {
    super(reason, options)
    Object.defineProperty(this, STEERING, { value: 'abort' })
  }
}

/** Throw it from a handler to fail this attempt and run the next one after the given delay, or at the given time. */
export class RetryAfterError extends Error {
  override readonly name = 'RetryAfterError'
  readonly delayMsOrAt: number | Date

  /**
   * @param delayMsOrAt - Milliseconds from now by the database's clock, or an instant.
   * @throws {InvalidArgumentError} for a negative or infinite delay and an invalid date.
   */
  constructor(delayMsOrAt: number | Date, options?: ErrorOptions) {
    super(`retry ${when(delayMsOrAt)}`, options)
    this.delayMsOrAt = delayMsOrAt
    Object.defineProperty(this, STEERING, { value: 'retry' })
  }
}

/** Throw it from a handler to run the task later without charging an attempt. */
export class DeferTaskError extends Error {
  override readonly name = 'DeferTaskError'
  readonly delayMsOrAt: number | Date

  /**
   * @param delayMsOrAt - Milliseconds from now by the database's clock, or an instant. Less than a second may become a second.
   * @throws {InvalidArgumentError} for a negative or infinite delay and an invalid date.
   */
  constructor(delayMsOrAt: number | Date, options?: ErrorOptions) {
    super(`deferred ${when(delayMsOrAt)}`, options)
    this.delayMsOrAt = delayMsOrAt
    Object.defineProperty(this, STEERING, { value: 'defer' })
  }
}

export type SteeringError =
  { readonly steering: 'abort' } | { readonly steering: 'retry' | 'defer'; readonly delayMsOrAt: number | Date }

/** What a handler's error asks for, if it is one of the three above. */
export function steeringOf(error: unknown): SteeringError | undefined {
  if (!(error instanceof Error) || !(STEERING in error)) return undefined
  const steering = error[STEERING] as SteeringError['steering']
  if (steering === 'abort') return { steering }
  return { steering, delayMsOrAt: (error as unknown as DeferTaskError).delayMsOrAt }
}

export type AnyApalisError =
  | DatabaseError
  | PoolError
  | OutcomeUnknownError
  | BatchFailedError
  | SchemaError
  | MigrationError
  | InvalidArgumentError
  | IdempotencyConflictError
  | DecodeError
  | RowError
  | MissingFieldError
  | TaskNotFoundError
  | StaleAcknowledgementError
  | AlreadyRegisteredError
  | WorkerNotRegisteredError
  | NotifyListenerError
  | TaskAbortedError

/** Whether an error is one of this library's, and with `code` whether it is that one. Works across copies of the package. */
export function isApalisError(error: unknown): error is AnyApalisError
export function isApalisError<C extends AnyApalisError['code']>(
  error: unknown,
  code: C,
): error is Extract<AnyApalisError, { code: C }>
export function isApalisError(error: unknown, code?: string): boolean {
  if (!(error instanceof Error) || !(BRAND in error)) return false
  return code === undefined || (error as AnyApalisError).code === code
}

function when(delayMsOrAt: number | Date): string {
  const value = delayMsOrAt instanceof Date ? delayMsOrAt.getTime() : delayMsOrAt
  if (!Number.isFinite(value) || value < 0) {
    throw new InvalidArgumentError('delayMsOrAt', 'pass milliseconds from 0 upwards, or a valid Date.')
  }
  return delayMsOrAt instanceof Date ? `at ${delayMsOrAt.toISOString()}` : `after ${delayMsOrAt} ms`
}

/** A few keys in full, so that a batch of thousands does not become a message of megabytes. */
function listed(keys: readonly string[]): string {
  const shown = keys.slice(0, 10).map((key) => JSON.stringify(key))
  return keys.length > shown.length ? `${shown.join(', ')} and ${keys.length - shown.length} more` : shown.join(', ')
}
