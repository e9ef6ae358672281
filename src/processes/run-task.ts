/** One execution of a claimed task: decode, run the handler, check its result, and say what is to be recorded. */
import type { Claim, Handler, TaskContext } from '../vocabulary/claim.js'
import { COMPLETED } from '../vocabulary/completed.js'
import { DatabaseError, InvalidArgumentError, steeringOf, type TaskId } from '../vocabulary/errors.js'
import { MAX_DELAY_MS, MAX_RUN_AT_MS } from '../vocabulary/limits.js'
import type { AckOutcome, Due } from '../vocabulary/outcome.js'
import type { QueueDefinition } from '../vocabulary/definition.js'
import { errResult, okResult, unstorableResult } from '../vocabulary/result.js'
import { isThenable } from '../vocabulary/standard-schema.js'
import { completeInTx, type TxClaim } from './ack-in-tx.js'
import type { HeldClaim } from './held-claim.js'
import { readClaim, outcomeOfError } from './read-claim.js'

/** How long a handler may take to react to its signal before the worker stops waiting for it. */
export const ABORT_GRACE_MS = 1_000

export interface Execution {
  /** `undefined` when a handler was called whose task the application acknowledges itself, or says that it has completed. */
  readonly outcome: AckOutcome | undefined
  /** What the handler threw, or what kept it from running; `undefined` when the task is done. */
  readonly cause?: unknown
  /** Set when the handler says that a transaction has completed its task: what to record if it has not. */
  readonly unlessCompleted?: () => Execution
  /** Set when the handler, or a schema, ignored the signal: settles when it ends after all. */
  readonly overrun?: Promise<void>
}

/** What a worker runs the tasks of its queue with. */
export interface TaskRunner<Args, Result> {
  readonly worker: string
  readonly queue: QueueDefinition<Args, Result>
  readonly handler: Handler<Args, Result>
  /** Whether what comes of the handler is the outcome of its task. Otherwise `storage.ack` tells it. */
  readonly autoAck: boolean
  /** Told when the queue's own retry function fails; the default backoff is used instead. */
  readonly onRetryFailure: (error: unknown) => void
}

/** What a session does for the tasks that it runs. */
export interface RunHooks<Args> {
  /** For a handler that acknowledges its task in a transaction. */
  inTx(claim: HeldClaim): TxClaim
  /** Called before the handler with a task that the application acknowledges itself. */
  handOut(claim: HeldClaim, task: Claim<Args>): void
}

/** How far an execution has come. */
interface Progress {
  handedOut: boolean
  /** The handler has done its work, and only its result is still to be checked. */
  succeeded: boolean
}

/**
 * Whatever goes wrong is an outcome of the task. So is, whoever acknowledges, that it cannot be read.
 *
 * @param onEnd - Told once: when the execution ends, or when it has ignored the claim's signal for the grace period. A
 * callback, because a promise more for each task shows.
 */
export function runTask<Args, Result>(
  claim: HeldClaim,
  runner: TaskRunner<Args, Result>,
  hooks: RunHooks<Args>,
  onEnd: (execution: Execution) => void,
): void {
  const { timeoutMs } = runner.queue
  const progress: Progress = { handedOut: false, succeeded: false }
  const timeout = timeoutMs === undefined ? undefined : setTimeout(() => claim.abort('timeout'), timeoutMs)
  let grace: ReturnType<typeof setTimeout> | undefined
  let isIgnored = false
  const over = execute(claim, runner, hooks, progress).then((execution) => {
    if (timeout !== undefined) clearTimeout(timeout)
    if (grace !== undefined) clearTimeout(grace)
    claim.onAbort = undefined
    if (!isIgnored) onEnd(execution)
  })
  claim.onAbort = () => {
    grace = setTimeout(() => {
      isIgnored = true
      onEnd({ ...ignored(claim, runner, progress), overrun: over })
    }, ABORT_GRACE_MS)
  }
  if (claim.abortReason !== undefined) claim.onAbort()
}

/** What to record of an execution that goes on. */
function ignored<Args, Result>(claim: HeldClaim, runner: TaskRunner<Args, Result>, progress: Progress): Execution {
  if (progress.handedOut) return { outcome: undefined }
  if (progress.succeeded) return unstorable(resultUnchecked())
  return failed(claim, runner, claim.abortReason)
}

/** All that may take time, schemas included. Never rejects. */
async function execute<Args, Result>(
  claim: HeldClaim,
  runner: TaskRunner<Args, Result>,
  hooks: RunHooks<Args>,
  progress: Progress,
): Promise<Execution> {
  const { handler, worker, queue, autoAck } = runner
  try {
    const reading = readClaim(queue, worker, claim.row)
    const task = isThenable(reading) ? await reading : reading
    // A schema may take its time, and the claim may be lost or given up meanwhile.
    if (claim.abortReason !== undefined) throw claim.abortReason
    if (!autoAck) {
      hooks.handOut(claim, task)
      progress.handedOut = true
    }
    const result = await handler(task.args, new Context(task, claim, queue, hooks))
    if (result === COMPLETED) return { outcome: undefined, unlessCompleted: () => notCompleted(claim, runner) }
    if (!autoAck) return { outcome: undefined }
    progress.succeeded = true
    const written = okResult(queue, result as Result)
    return { outcome: { status: 'Done', result: isThenable(written) ? await written : written } }
  } catch (error) {
    if (progress.handedOut) return { outcome: undefined, cause: error }
    // The handler has done its work, so the task ends here even if its result cannot be stored: a rerun would repeat it.
    return progress.succeeded ? unstorable(error) : failed(claim, runner, error)
  }
}

/** Signal and `completeWithTx` are made when a handler asks for them, which few do. */
class Context<Args, Result> implements TaskContext<Args, Result> {
  readonly id: TaskId
  readonly attempt: number
  readonly worker: string
  readonly #claim: HeldClaim
  readonly #queue: QueueDefinition<Args, Result>
  readonly #hooks: RunHooks<Args>

  constructor(
    readonly task: Claim<Args>,
    claim: HeldClaim,
    queue: QueueDefinition<Args, Result>,
    hooks: RunHooks<Args>,
  ) {
    this.id = task.id
    this.attempt = task.attempt
    this.worker = task.worker
    this.#claim = claim
    this.#queue = queue
    this.#hooks = hooks
  }

  get signal(): AbortSignal {
    return this.#claim.signal
  }

  /** A function of its own, because handlers take it out of the context. */
  get completeWithTx(): TaskContext<Args, Result>['completeWithTx'] {
    return async (tx, value) => {
      await completeInTx(tx, this.#hooks.inTx(this.#claim), this.#queue, value)
      return COMPLETED
    }
  }
}

function unstorable(error: unknown): Execution {
  return { outcome: { status: 'Killed', result: unstorableResult(error) }, cause: error }
}

/** The schema is asynchronous and outlasts the attempt. Nobody knows whether the result can be stored. */
function resultUnchecked(): InvalidArgumentError {
  return new InvalidArgumentError('result', "the queue's schema had not answered when the attempt had to end.")
}

function notCompleted<Args, Result>(claim: HeldClaim, runner: TaskRunner<Args, Result>): Execution {
  const cause = new Error('the handler returned what completeWithTx resolves to, and its transaction did not commit')
  const hint = 'Nothing that it wrote is stored. Return it out of db.transaction, and catch no SQL error inside.'
  return failed(claim, runner, new DatabaseError(`completing task ${claim.id}`, undefined, cause, hint))
}

function failed<Args, Result>(claim: HeldClaim, runner: TaskRunner<Args, Result>, error: unknown): Execution {
  const steering = steeringOf(error)
  if (steering?.steering === 'abort') return { outcome: { status: 'Killed', result: errResult(error) }, cause: error }
  if (steering?.steering === 'defer') {
    return { outcome: { status: 'Pending', due: dueAt(steering.delayMsOrAt) }, cause: error }
  }
  if (steering?.steering === 'retry') {
    return { outcome: { status: 'Failed', result: errResult(error), due: dueAt(steering.delayMsOrAt) }, cause: error }
  }
  // Neither a deploy nor an outage costs an attempt: the task returns as if it had not been started. Of a lost claim nothing
  // is recorded at all.
  const isInterrupted = claim.abortedBecause === 'shutdown' || claim.abortedBecause === 'claim-lost'
  if (isInterrupted || claim.state === 'lost') {
    return { outcome: { status: 'Pending' }, cause: error }
  }
  // A handler that was aborted throws whatever its fetch or query threw; the reason is more to the point.
  const cause: unknown = claim.abortedBecause === 'timeout' ? claim.abortReason : error
  return { outcome: outcomeOfError(runner.queue, claim.attempt, cause, runner.onRetryFailure), cause }
}

/** No later than a column can hold: the server would refuse the whole acknowledgement. */
function dueAt(delayMsOrAt: number | Date): Due {
  if (delayMsOrAt instanceof Date) return { atMs: Math.min(delayMsOrAt.getTime(), MAX_RUN_AT_MS) }
  return { delayMs: Math.min(delayMsOrAt, MAX_DELAY_MS) }
}
