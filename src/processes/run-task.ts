/** One execution of a claimed task: decode, run the handler, and say what is to be recorded. */
import type { Claim, Handler } from '../vocabulary/claim.js'
import { decodeArgs } from '../vocabulary/decode.js'
import { RowError, steeringOf } from '../vocabulary/errors.js'
import { MAX_DELAY_MS, MAX_RUN_AT_MS } from '../vocabulary/limits.js'
import type { AckOutcome, Due } from '../vocabulary/outcome.js'
import type { QueueDefinition } from '../vocabulary/definition.js'
import { errResult, okResult, unstorableResult } from '../vocabulary/result.js'
import { taskFields } from '../vocabulary/row.js'
import type { HeldClaim } from './held-claim.js'

/** How long a handler may take to react to its signal before the worker stops waiting for it. */
export const ABORT_GRACE_MS = 1_000

export interface Execution {
  /** `undefined` when a handler was called whose task the application acknowledges itself. */
  readonly outcome: AckOutcome | undefined
  /** What the handler threw, or what kept it from running; `undefined` when the task is done. */
  readonly cause?: unknown
  /** Set when the handler ignored its signal: settles when it ends after all. */
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
  claim: HeldClaim,
  runner: TaskRunner<Args, Result>,
  handOut: (task: Claim<Args>) => void,
): Promise<Execution> {
  try {
    const task = await readTask(claim, runner)
    // A schema may take its time, and the claim may be lost meanwhile.
    claim.signal.throwIfAborted()
    if (!runner.autoAck) {
      handOut(task)
      return await runUnrecorded(claim, task, runner)
    }
    const ended = await runHandler(claim, task, runner)
    if ('overrun' in ended) return { ...failed(claim, runner, claim.signal.reason), overrun: ended.overrun }
    return await done(runner, ended.result)
  } catch (error) {
    return failed(claim, runner, error)
  }
}

async function readTask<Args, Result>(claim: HeldClaim, runner: TaskRunner<Args, Result>): Promise<Claim<Args>> {
  const { worker, queue } = runner
  const { status: _, attempts, ...fields } = taskFields(queue.name, claim.row)
  const args = await decodeArgs(queue, fields.id, claim.row.job)
  return { ...fields, args, attempt: attempts + 1, worker }
}

/** Runs the handler until it ends, or until it has ignored its signal for the grace period. */
async function runHandler<Args, Result>(
  claim: HeldClaim,
  task: Claim<Args>,
  { queue, handler, worker }: TaskRunner<Args, Result>,
): Promise<{ readonly result: Result } | { readonly overrun: Promise<void> }> {
  const { signal } = claim
  const running = Promise.resolve(handler(task.args, { task, id: task.id, attempt: task.attempt, signal, worker }))
  const ended = running.then((result) => ({ result }))
  const timers: ReturnType<typeof setTimeout>[] = []
  let onAbort: () => void = () => undefined
  const ignored = new Promise<{ overrun: Promise<void> }>((resolve) => {
    const overrun = ended.then(
      () => undefined,
      () => undefined,
    )
    onAbort = () => timers.push(setTimeout(() => resolve({ overrun }), ABORT_GRACE_MS))
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    if (queue.timeoutMs !== undefined) timers.push(setTimeout(() => claim.abort('timeout'), queue.timeoutMs))
  })
  try {
    return await Promise.race([ended, ignored])
  } finally {
    timers.forEach(clearTimeout)
    signal.removeEventListener('abort', onAbort)
  }
}

async function runUnrecorded<Args, Result>(
  claim: HeldClaim,
  task: Claim<Args>,
  runner: TaskRunner<Args, Result>,
): Promise<Execution> {
  try {
    const ended = await runHandler(claim, task, runner)
    return { outcome: undefined, ...('overrun' in ended ? { overrun: ended.overrun } : {}) }
  } catch (error) {
    return { outcome: undefined, cause: error }
  }
}

/** The handler has done its work, so the task ends here even if its result cannot be stored: a rerun would repeat the work. */
async function done<Args, Result>({ queue }: TaskRunner<Args, Result>, result: Result): Promise<Execution> {
  try {
    return { outcome: { status: 'Done', result: await okResult(queue, result) } }
  } catch (error) {
    return { outcome: { status: 'Killed', result: unstorableResult(error) }, cause: error }
  }
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
  // A deploy costs no attempt: the task returns as if it had not been started. Of a lost claim nothing is recorded at all.
  if (claim.abortedBecause === 'shutdown' || claim.abortedBecause === 'claim-lost') {
    return { outcome: { status: 'Pending' }, cause: error }
  }
  // No task can be made of the row, by this worker or any other, so retries would be in vain.
  if (error instanceof RowError) {
    return { outcome: { status: 'Killed', result: errResult(error), unlock: true }, cause: error }
  }
  // A handler that was aborted throws whatever its fetch or query threw; the reason is more to the point.
  const cause: unknown = claim.abortedBecause === 'timeout' ? claim.signal.reason : error
  const due = { delayMs: retryDelayMs(claim, runner, cause) }
  return { outcome: { status: 'Failed', result: errResult(cause), due }, cause }
}

function retryDelayMs<Args, Result>(claim: HeldClaim, runner: TaskRunner<Args, Result>, error: unknown): number {
  const { delayMs, failure } = runner.queue.retryDelay(claim.attempt, error)
  if (failure !== undefined) runner.onRetryFailure(failure)
  return delayMs
}

/** No later than a column can hold: the server would refuse the whole acknowledgement. */
function dueAt(delayMsOrAt: number | Date): Due {
  if (delayMsOrAt instanceof Date) return { atMs: Math.min(delayMsOrAt.getTime(), MAX_RUN_AT_MS) }
  return { delayMs: Math.min(delayMsOrAt, MAX_DELAY_MS) }
}
