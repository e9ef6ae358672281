/** One execution of a claimed task: decode, run the handler, check its result, and say what is to be recorded. */
import type { Claim, Handler } from '../vocabulary/claim.js'
import { COMPLETED } from '../vocabulary/completed.js'
import { DatabaseError, InvalidArgumentError, steeringOf } from '../vocabulary/errors.js'
import { MAX_DELAY_MS, MAX_RUN_AT_MS } from '../vocabulary/limits.js'
import type { AckOutcome, Due } from '../vocabulary/outcome.js'
import type { QueueDefinition } from '../vocabulary/definition.js'
import { errResult, okResult, unstorableResult } from '../vocabulary/result.js'
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

/**
 * Never rejects: whatever goes wrong is an outcome of the task. So is, whoever acknowledges, that it cannot be read.
 *
 * @param handOut - Called before the handler with a task that the application acknowledges itself.
 */
export async function runTask<Args, Result>(
  inTx: TxClaim,
  runner: TaskRunner<Args, Result>,
  handOut: (task: Claim<Args>) => void,
): Promise<Execution> {
  const claim = inTx.held
  let handedOut = false
  let succeeded = false
  const work = execute(inTx, runner, {
    handOut: (task) => {
      handedOut = true
      handOut(task)
    },
    onSuccess: () => (succeeded = true),
  })
  try {
    const waited = await unlessIgnored(claim, runner.queue.timeoutMs, work)
    if ('ended' in waited) return waited.ended
    const { overrun } = waited
    if (handedOut) return { outcome: undefined, overrun }
    if (succeeded) return { ...unstorable(resultUnchecked()), overrun }
    return { ...failed(claim, runner, claim.signal.reason), overrun }
  } catch (error) {
    return handedOut ? { outcome: undefined, cause: error } : failed(claim, runner, error)
  }
}

interface Stages<Args> {
  readonly handOut: (task: Claim<Args>) => void
  /** The handler has done its work, and only its result is still to be checked. */
  readonly onSuccess: () => void
}

/** All that may take time, schemas included. Rejects with what kept the handler from running, or with what it threw. */
async function execute<Args, Result>(
  inTx: TxClaim,
  runner: TaskRunner<Args, Result>,
  { handOut, onSuccess }: Stages<Args>,
): Promise<Execution> {
  const { handler, worker, queue, autoAck } = runner
  const claim = inTx.held
  const { signal } = claim
  const task = await readClaim(runner.queue, worker, claim.row)
  // A schema may take its time, and the claim may be lost or given up meanwhile.
  signal.throwIfAborted()
  if (!autoAck) handOut(task)
  const result = await handler(task.args, {
    task,
    id: task.id,
    attempt: task.attempt,
    signal,
    worker,
    completeWithTx: async (tx, value) => {
      await completeInTx(tx, inTx, queue, value)
      return COMPLETED
    },
  })
  if (result === COMPLETED) return { outcome: undefined, unlessCompleted: () => notCompleted(claim, runner) }
  if (!autoAck) return { outcome: undefined }
  onSuccess()
  return done(runner, result as Result)
}

/** Waits until the work ends, or until it has ignored the claim's signal for the grace period. */
async function unlessIgnored<T>(
  claim: HeldClaim,
  timeoutMs: number | undefined,
  work: Promise<T>,
): Promise<{ readonly ended: T } | { readonly overrun: Promise<void> }> {
  const { signal } = claim
  const timers: ReturnType<typeof setTimeout>[] = []
  let onAbort: () => void = () => undefined
  const ignored = new Promise<{ overrun: Promise<void> }>((resolve) => {
    const overrun = work.then(
      () => undefined,
      () => undefined,
    )
    onAbort = () => timers.push(setTimeout(() => resolve({ overrun }), ABORT_GRACE_MS))
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    if (timeoutMs !== undefined) timers.push(setTimeout(() => claim.abort('timeout'), timeoutMs))
  })
  try {
    return await Promise.race([work.then((ended) => ({ ended })), ignored])
  } finally {
    timers.forEach(clearTimeout)
    signal.removeEventListener('abort', onAbort)
  }
}

/** The handler has done its work, so the task ends here even if its result cannot be stored: a rerun would repeat the work. */
async function done<Args, Result>({ queue }: TaskRunner<Args, Result>, result: Result): Promise<Execution> {
  try {
    return { outcome: { status: 'Done', result: await okResult(queue, result) } }
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
  const cause: unknown = claim.abortedBecause === 'timeout' ? claim.signal.reason : error
  return { outcome: outcomeOfError(runner.queue, claim.attempt, cause, runner.onRetryFailure), cause }
}

/** No later than a column can hold: the server would refuse the whole acknowledgement. */
function dueAt(delayMsOrAt: number | Date): Due {
  if (delayMsOrAt instanceof Date) return { atMs: Math.min(delayMsOrAt.getTime(), MAX_RUN_AT_MS) }
  return { delayMs: Math.min(delayMsOrAt, MAX_DELAY_MS) }
}
