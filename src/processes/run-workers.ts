/** Several workers with one life: all start, all stop together. */
import { InvalidArgumentError } from '../vocabulary/errors.js'
import { whenAborted } from './shutdown-signal.js'

export interface RunOptions {
  /** Stops the workers when it aborts. */
  signal?: AbortSignal | undefined
  /**
   * Stops them when no task of their queues is due and none runs. Delayed tasks, and failed ones that wait for their
   * retry, are left for later. Default false.
   */
  untilIdle?: boolean | undefined
}

export interface Worker extends AsyncDisposable {
  /** The registered name, such as `worker#1`; before the start the name that was asked for. */
  readonly name: string
  readonly queue: string
  /**
   * Registers and begins to claim; resolves when registered.
   *
   * @throws {AlreadyRegisteredError} `ALREADY_REGISTERED` when a full name is held by another process.
   * @throws {DatabaseError} `DATABASE` when the database cannot be reached or has no `apalis` schema.
   */
  start(): Promise<void>
  /**
   * Claims nothing more, hands unstarted tasks back uncharged, waits for running handlers, and releases the name. What
   * still runs after `timeoutMs` (default `stopTimeoutMs`) is aborted and returns uncharged. Every call gets the same
   * promise, and it never rejects but for a wrong `timeoutMs`.
   *
   * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a `timeoutMs` that is no whole number from 0 to a day; then it goes on.
   */
  stop(options?: { timeoutMs?: number | undefined }): Promise<void>
  /** Starts, runs until `signal` aborts (or, with `untilIdle`, until no task is due and none runs), and stops. */
  run(options?: RunOptions): Promise<void>
}

/** What running workers together takes beyond what users see of one. */
export interface Runnable extends Worker {
  /** Whether `stop` was called. */
  readonly isStopped: boolean
  /** Resolves when somebody has stopped it. */
  readonly stopped: Promise<void>
  /** How many tasks have started or ended so far. */
  readonly activity: number
  /** Resolves when a look at the queue that began after this call found nothing and no task runs; or when it is stopped. */
  idle(): Promise<void>
}

const runnables = new WeakSet<object>()

/** Lets `runWorkers` know it. A wrapper around a worker looks like one, and cannot tell when it is stopped or idle. */
export function runnable(worker: Runnable): void {
  runnables.add(worker)
}

/**
 * Starts all workers, runs them until `signal` aborts, they are idle or others have stopped them, and stops all of them.
 *
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for anything that `storage.worker` did not return, and for a worker that
 * was stopped before; nothing is started.
 * @throws what the first failing start throws, after the others have stopped.
 */
export async function runWorkers(
  workers: Iterable<Worker>,
  { signal, untilIdle = false }: RunOptions = {},
): Promise<void> {
  const all = [...workers].map(checkRunnable)
  let unwatch: () => void = () => undefined
  try {
    if (signal?.aborted) return
    refuseStopped(all)
    const aborted = new Promise<void>((resolve) => {
      if (signal !== undefined) unwatch = whenAborted(signal, resolve)
    })
    const ended = Promise.race([Promise.all(all.map((worker) => worker.stopped)), aborted])
    // A database that does not answer does not keep anybody from stopping them.
    await Promise.race([startAll(all), ended])
    await Promise.race([ended, ...(untilIdle ? [allIdle(all)] : [])])
  } finally {
    await Promise.all(all.map((worker) => worker.stop()))
    unwatch()
  }
}

function checkRunnable(worker: Worker): Runnable {
  if (runnables.has(worker)) return worker as Runnable
  throw new InvalidArgumentError(
    'workers',
    'pass what storage.worker returned, and not an object of your own around it.',
  )
}

/** Otherwise a run of it would be over at once, as if all were well. */
function refuseStopped(workers: readonly Runnable[]): void {
  if (!workers.some((worker) => worker.isStopped)) return
  throw new InvalidArgumentError('workers', 'one of them was stopped; make a new one with storage.worker.')
}

/** Waits for every start, so that none is under way when the others are stopped. */
async function startAll(workers: readonly Runnable[]): Promise<void> {
  const starts = await Promise.allSettled(workers.map((worker) => worker.start()))
  const failed = starts.find((start) => start.status === 'rejected')
  if (failed !== undefined) throw failed.reason
}

/** A task of one queue may push to another: all are idle only if no task has started or ended since the round began. */
async function allIdle(workers: readonly Runnable[]): Promise<void> {
  for (;;) {
    const before = activity(workers)
    await Promise.all(workers.map((worker) => worker.idle()))
    if (activity(workers) === before) return
  }
}

function activity(workers: readonly Runnable[]): number {
  return workers.reduce((sum, worker) => sum + worker.activity, 0)
}
