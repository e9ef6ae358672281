import type { Statistic } from './statistics.js'

/** A queue as a dashboard shows it. */
export interface QueueInfo {
  readonly name: string
  readonly statistics: readonly Statistic[]
  /** The names of the workers that hold a task now. */
  readonly workers: readonly string[]
  /** Tasks per calendar day by `run_at`, of the last seven times 24 hours, the earliest day first; days without tasks are absent. */
  readonly activity: readonly number[]
}

/** What a gauge shows of a queue. */
export interface QueueDepth {
  readonly queue: string
  /** Whether workers claim nothing of it; see `admin(db).pause`. */
  readonly paused: boolean
  /** Tasks that a worker could claim now, or once the queue is resumed. */
  readonly due: number
  /** Tasks for later, those that wait for a retry included. */
  readonly delayed: number
  /** Tasks that a worker holds, those that it has not started yet included. */
  readonly running: number
  /** How long the oldest due task has been due, in milliseconds; 0 without one. */
  readonly oldestDueAgeMs: number
}

/** The counts of one queue as of `snapshotAt`. Periods go by `run_at` and include what is scheduled for later. */
export interface QueueStatsSnapshot {
  readonly queue: string
  readonly total: number
  readonly running: number
  readonly pending: number
  readonly queued: number
  readonly failed: number
  readonly done: number
  readonly killed: number
  /** Pending, queued and running. */
  readonly active: number
  readonly pastHour: number
  readonly pastDay: number
  readonly past7Days: number
  readonly mostRecentRunAt: Date | null
  readonly mostRecentDoneAt: Date | null
  readonly snapshotAt: Date
}
