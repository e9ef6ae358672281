/**
 * What the tables should hold, and what the processes that use them know. All times are whole microseconds since 1970 by
 * the database's clock; commands learn from the database what time it is, so nothing here depends on how long they take.
 */
export interface ModelTask {
  readonly id: string
  status: string
  attempts: number
  maxAttempts: number
  priority: number
  runAt: number
  lockBy: string | null
  lockAt: number | null
  doneAt: number | null
  /** Executions that ended or died with their process. */
  executions: number
}

/** What a process that claimed a task keeps of the claim, also when it is no longer good. */
export interface ModelClaim {
  readonly id: string
  readonly worker: string
  readonly attempts: number
  /** Whole seconds since 1970. */
  lockAt: number
}

/** A worker name, and the process that uses it. */
export interface ModelWorker {
  readonly name: string
  /** Of the process; a new one has another. */
  token: string
  /** What its row says. */
  row: { token: string | null; lastSeen: number } | undefined
  /** The claims that the present process knows of. */
  held: ModelClaim[]
}

export class Model {
  readonly tasks = new Map<string, ModelTask>()
  readonly workers: readonly ModelWorker[]
  /** Every claim that any process was ever given. A late acknowledgement of any of them may still arrive. */
  readonly claims: ModelClaim[] = []
  pushed = 0
  processes = 0
  readonly removed = new Set<string>()
  /** The statuses after the last step, and which have changed into which so far. */
  readonly seen = new Map<string, string>()
  readonly changes: string[] = []

  constructor(
    readonly queue: string,
    readonly thresholdUs: number,
    readonly serverStartedAt: number,
    names: readonly string[],
  ) {
    this.workers = names.map((name) => ({ name, token: this.newToken(), row: undefined, held: [] }))
  }

  newToken(): string {
    this.processes += 1
    return `process ${this.processes}`
  }

  worker(name: string): ModelWorker {
    const worker = this.workers.find((one) => one.name === name)
    if (worker === undefined) throw new Error(`No worker ${name}.`)
    return worker
  }

  /** Due tasks that may be claimed, in the order in which they are claimed. */
  claimable(now: number): ModelTask[] {
    return [...this.tasks.values()]
      .filter((task) => mayBeClaimed(task) && task.runAt <= now)
      .sort((a, b) => b.priority - a.priority || a.runAt - b.runAt || (a.id < b.id ? -1 : 1))
  }

  ownedBy(worker: string): ModelTask[] {
    return [...this.tasks.values()].filter((task) => isOwned(task) && task.lockBy === worker)
  }

  /** Whether others may take what the worker holds. */
  isSilent({ row }: ModelWorker, now: number): boolean {
    if (row === undefined) return false
    const heard = Math.max(row.lastSeen, this.serverStartedAt)
    return heard <= now - this.thresholdUs
  }

  /** Whether the database counts the claim as that of the task's owner. */
  isGood(claim: ModelClaim): boolean {
    const task = this.tasks.get(claim.id)
    return (
      task !== undefined &&
      isOwned(task) &&
      task.lockBy === claim.worker &&
      task.attempts === claim.attempts &&
      task.lockAt === claim.lockAt * 1_000_000
    )
  }

  /** The database's view of time moves on: everything that was written lies further back. */
  age(us: number): void {
    for (const task of this.tasks.values()) {
      task.runAt -= us
      if (task.lockAt !== null) task.lockAt -= us
      if (task.doneAt !== null) task.doneAt -= us
    }
    for (const claim of this.claims) claim.lockAt -= us / 1_000_000
    for (const { row } of this.workers) if (row !== undefined) row.lastSeen -= us
  }
}

export function mayBeClaimed({ status, attempts, maxAttempts }: ModelTask): boolean {
  return (status === 'Pending' || status === 'Failed') && attempts < maxAttempts
}

export function isOwned({ status }: ModelTask): boolean {
  return status === 'Running' || status === 'Queued'
}

export function usesLastAttempt({ attempts, maxAttempts }: ModelTask): boolean {
  return attempts + 1 >= maxAttempts
}

/** Whether it is still to run, and nobody holds it. */
export function isWaiting(task: ModelTask): boolean {
  return task.status === 'Pending' || (task.status === 'Failed' && task.attempts < task.maxAttempts)
}

/** A claim is known by the second in which it was made. */
export function secondOf(now: number): number {
  return Math.floor(now / 1_000_000) * 1_000_000
}

/** An execution has ended, or died with its process. */
export function charge(task: ModelTask): void {
  task.attempts = Math.min(task.attempts + 1, task.maxAttempts)
  task.executions += 1
}

export function end(task: ModelTask, status: string, now: number): void {
  task.status = status
  task.doneAt = now
}

/** Back to the queue, not due before the second of its lock is over. */
export function giveBack(task: ModelTask, runAt: number): void {
  task.status = 'Pending'
  task.runAt = Math.max(runAt, (task.lockAt ?? 0) + 1_000_000)
  task.lockBy = null
  task.lockAt = null
  task.doneAt = null
}
