import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { attemptsCharged, budgetUsed } from './charge.js'
import type { TaskId } from './errors.js'

/** A task that was taken from a worker that is gone. */
export interface Orphan {
  readonly id: TaskId
  /** `Pending`, or `Killed` when its last attempt is charged. */
  readonly status: string
  /** Executions charged by now. */
  readonly attempts: number
}

export interface OwnedOrphan extends Orphan {
  /** The worker that it was taken from. */
  readonly from: string
  /** Whether that charged an attempt; a registration does not tell. */
  readonly charged?: boolean
}

/** The exact text that the Rust crates write too, so that dashboards recognise it. */
const MARKER = sql`'{"Err": "Re-enqueued due to worker heartbeat timeout."}'::jsonb`

/**
 * What becomes of a task whose worker is gone. A Running task was being executed, maybe fatally: it is charged an attempt
 * and returns after a random delay that grows with its attempts, so that a task that kills its process is claimed next
 * time without the neighbours it took down. A Queued task never started: it returns uncharged.
 */
export function orphanReturned() {
  const charged = sql`${jobs.status} = 'Running'`
  const killed = sql`(${charged} and ${budgetUsed})`
  const backoff = sql`random() * interval '5 seconds' * power(2::float8, least(${jobs.attempts}, 6)::float8)`
  return {
    status: sql`case when ${killed} then 'Killed' else 'Pending' end`,
    attempts: sql`case when ${charged} then ${attemptsCharged} else ${jobs.attempts} end`,
    lastResult: sql`case when ${killed} or ${jobs.lastResult} is null then ${MARKER} else ${jobs.lastResult} end`,
    lockBy: sql`null`,
    lockAt: sql`null`,
    doneAt: sql`case when ${killed} then now() end`,
    // Uncharged, it must not be claimed again in the second of its old lock time: the two claims would look alike.
    runAt: sql`greatest(${jobs.runAt}, ${jobs.lockAt} + interval '1 second', case when ${charged} then now() + ${backoff} end)`,
  }
}
