/** One execution of a claimed task: decode, run the handler, check its result, and say what is to be recorded. */
import type { Claim, Handler } from '../vocabulary/claim.js'
import { COMPLETED } from '../vocabulary/completed.js'
import { DatabaseError, InvalidArgumentError, steeringOf } from '../vocabulary/errors.js'
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

/** Never rejects: whatever goes wrong is an outcome of the task. So is, whoever acknowledges, that it cannot be read. */
export async function runTask<Args, Result>(
  claim: HeldClaim,
  runner: TaskRunner<Args, Result>,
  hooks: RunHooks<Args>,
): Promise<Execution> {
  const progress: Progress = { handedOut: false, succeeded: false }
  try {
    const waited = await unlessIgnored(claim, runner.queue.timeoutMs, execute(claim, runner, hooks, progress))
    if ('ended' in waited) return waited.ended
    const { overrun } = waited
    if (progress.handedOut) return { outcome: undefined, overrun }
    if (progress.succeeded) return { ...unstorable(resultUnchecked()), overrun }
    return { ...failed(claim, runner, claim.abortReason), overrun }
  } catch (error) {
    return progress.handedOut ? { outcome: undefined, cause: error } : failed(claim, runner, error)
  }
}

/** All that may take time, schemas included. Rejects with what kept the handler from running, or with what it threw. */
async function execute<Args, Result>(
  claim: HeldClaim,
  runner: TaskRunner<Args, Result>,
  hooks: RunHooks<Args>,
  progress: Progress,
): Promise<Execution> {
  const { handler, worker, queue, autoAck } = runner
  const reading = readClaim(queue, worker, claim.row)
  const task = isThenable(reading) ? await reading : reading
  // A schema may take its time, and the claim may be lost or given up meanwhile.
  if (claim.abortReason !== undefined) throw claim.abortReason
  if (!autoAck) {
    hooks.handOut(claim, task)
    progress.handedOut = true
  }
  const result = await handler(task.args, {
    task,
    id: task.id,
    attempt: task.attempt,
    get signal() {
      return claim.signal
    },
    worker,
    completeWithTx: async (tx, value) => {
      await completeInTx(tx, hooks.inTx(claim), queue, value)
      return COMPLETED
    },
  })
  if (result === COMPLETED) return { outcome: undefined, unlessCompleted: () => notCompleted(claim, runner) }
  if (!autoAck) return { outcome: undefined }
  progress.succeeded = true
  return done(runner, result as Result)
}

/** Waits until the work ends, or until it has ignored the claim's signal for the grace period. */
function unlessIgnored<T>(
  claim: HeldClaim,
  timeoutMs: number | undefined,
  work: Promise<T>,
): Promise<{ readonly ended: T } | { readonly overrun: Promise<void> }> {
  return new Promise((resolve, reject) => {
    let grace: ReturnType<typeof setTimeout> | undefined
    const timeout = timeoutMs === undefined ? undefined : setTimeout(() => claim.abort('timeout'), timeoutMs)
    const stopWaiting = () => {
      clearTimeout(timeout)
      clearTimeout(grace)
      claim.onAbort = undefined
    }
    const ended = work.then(
      (value) => {
        stopWaiting()
        resolve({ ended: value })
      },
      (error: unknown) => {
        stopWaiting()
        // Whatever the handler has thrown.
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors
        reject(error)
      },
    )
    claim.onAbort = () => {
      grace = setTimeout(() => resolve({ overrun: ended }), ABORT_GRACE_MS)
    }
    if (claim.abortReason !== undefined) claim.onAbort()
  })
}

/** The handler has done its work, so the task ends here even if its result cannot be stored: a rerun would repeat the work. */
async function done<Args, Result>({ queue }: TaskRunner<Args, Result>, result: Result): Promise<Execution> {
  try {
    const written = okResult(queue, result)
    return { outcome: { status: 'Done', result: isThenable(written) ? await written : written } }
  } catch (error) {
    return unstorable(error)
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
