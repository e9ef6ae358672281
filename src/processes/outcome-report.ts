/** What an operator reads about the end of a claim. */
import { TaskAbortedError, type TaskId } from '../vocabulary/errors.js'
import type { OwnedOrphan } from '../vocabulary/orphan.js'
import type { AckOutcome } from '../vocabulary/outcome.js'
import type { AckAnswer } from './ack-group.js'
import type { HeldClaim, LossReason } from './held-claim.js'
import { inWords, type Report } from './report.js'

/** The text of an application's error may quote a payload, so it does not stand in a message. */
const WHERE_TO_READ = 'its text is in apalis.jobs.last_result, which StoredTask.error shows'

/** Of dead workers in one message; the event has all. */
const MAX_NAMES = 5

export interface EndedClaim {
  readonly id: TaskId
  readonly attempt: number
}

/** @param cause - What the handler threw, or what kept it from running. */
export function reportOutcome(
  report: Report,
  { id, attempt }: EndedClaim,
  outcome: AckOutcome,
  answer: Exclude<AckAnswer, 'stale'>,
  cause: unknown,
): void {
  if (answer === 'given-up') {
    const message = `task ${id} ended as ${outcome.status}, which could not be recorded; it may run again`
    return report('error', message, { type: 'task.stale', id, attempt })
  }
  switch (answer.written) {
    case 'Done':
      return report('debug', `finished task ${id}`, { type: 'task.done', id, attempt })
    case 'Failed': {
      const message = `attempt ${attempt} of task ${id} failed: ${inWords(cause)}; ${WHERE_TO_READ}`
      return report('warn', message, { type: 'task.failed', id, attempt, cause })
    }
    case 'Killed': {
      const message = `task ${id} is given up in attempt ${attempt}: ${inWords(cause)}; ${WHERE_TO_READ}`
      return report('error', message, { type: 'task.killed', id, attempt, cause })
    }
    default:
      return report('debug', `returned task ${id} to the queue uncharged`, { type: 'task.deferred', id, attempt })
  }
}

export function reportRetryFailure(report: Report, cause: unknown): void {
  const message = `the retry function of the queue failed, so its default backoff was used: ${inWords(cause)}`
  report('error', message, { type: 'worker.error', operation: 'computing the delay of a retry', cause })
}

/** The worker stopped before it learned whether a transaction of the application has acknowledged the task. */
export function reportUnknown(report: Report, { id, attempt }: EndedClaim): void {
  const message = `whether the transaction that acknowledged task ${id} has committed could not be asked; otherwise it runs again`
  report('error', message, { type: 'task.stale', id, attempt })
}

/** A handler that threw after its transaction had completed the task, or whose COMMIT was not answered. */
export function reportLateError(report: Report, { id }: EndedClaim, cause: unknown): void {
  const operation = 'running a handler that has completed its task'
  const message = `the handler of task ${id} failed: ${inWords(cause)}; its transaction has completed the task before`
  report('warn', message, { type: 'worker.error', operation, cause })
}

export function reportLostClaim(report: Report, { id, attempt }: EndedClaim, why: LossReason): void {
  if (why === 'cancelled') {
    // Somebody wanted it so, which is no reason for alarm.
    const cause = new TaskAbortedError('cancelled', id)
    return report('info', `task ${id} was cancelled in attempt ${attempt}`, { type: 'task.killed', id, attempt, cause })
  }
  const message = `the claim of task ${id} was lost; whatever came of it is not recorded here, another run decides`
  report('warn', message, { type: 'task.stale', id, attempt })
}

/** Its slot is not free for others meanwhile. */
export function reportOverrun(report: Report, { id, attempt, abortedBecause }: HeldClaim): void {
  const message = `task ${id} ignores its signal (${abortedBecause}) and keeps its slot until its handler returns`
  report('warn', message, { type: 'task.overrun', id, attempt })
}

/** Whoever pressed Ctrl-C wants to know why the process is still there. */
export function reportWait(report: Report, running: number, leftMs: number): void {
  if (running === 0 || leftMs <= 0) return
  const tasks = running === 1 ? '1 task' : `${running} tasks`
  const message = `is stopping; ${tasks} may take ${Math.ceil(leftMs / 1_000)} s more, and then will be aborted`
  report('warn', message, { type: 'worker.stopping', running })
}

/** @param owner - Whose tasks they were. */
export function reportOrphans(report: Report, orphans: readonly OwnedOrphan[], owner: string): void {
  if (orphans.length === 0) return
  const killed = orphans.filter(({ status }) => status === 'Killed')
  const returned = orphans.length - killed.length
  const givenUp = killed.length === 0 ? '' : `; gave up ${killed.length} whose last attempt that was`
  const from = [...new Set(orphans.map((orphan) => orphan.from))].sort()
  const tasks = `${returned} ${returned === 1 ? 'task' : 'tasks'} of ${owner} (${listed(from)})`
  const message = `returned ${tasks} to the queue${charges(orphans)}${givenUp}`
  report('warn', message, { type: 'orphan.swept', ids: orphans.map(({ id }) => id), from })
  for (const { id, attempts: attempt } of killed) {
    const cause = new Error('The worker died or fell silent while the task ran.')
    report('error', `task ${id} is given up: its worker died or fell silent during attempt ${attempt}, the last one`, {
      type: 'task.killed',
      id,
      attempt,
      cause,
    })
  }
}

/** A worker that could not even notice: nothing failed, and no heartbeat was sent. */
export function reportSilence(report: Report, silentMs: number): void {
  const operation = 'sending the heartbeat'
  const silence = `no heartbeat for ${Math.round(silentMs / 1_000)} s, longer than reenqueueOrphanedAfterMs`
  const message = `${silence}: the event loop was blocked or the process frozen; others may have taken its tasks`
  report('warn', message, { type: 'worker.error', operation, cause: new Error(message) })
}

/** How many of those that return have an attempt less, where that is known. */
function charges(orphans: readonly OwnedOrphan[]): string {
  if (orphans.some(({ charged }) => charged === undefined)) return ''
  const returned = orphans.filter(({ status }) => status !== 'Killed')
  return `, ${returned.filter(({ charged }) => charged).length} charged an attempt`
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, MAX_NAMES).join(', ')
  return names.length > MAX_NAMES ? `${shown} and ${names.length - MAX_NAMES} more` : shown
}
