/** Several workers with one life: all start, all stop together. */

export interface RunOptions {
  /** Stops the workers when it aborts. */
  signal?: AbortSignal | undefined
  /**
   * Stops them when no task of their queues is due and none runs. Delayed tasks, and failed ones that wait for their
   * retry, are left for later. Default false.
   */
  untilIdle?: boolean | undefined
}

export interface Runnable {
  start(): Promise<void>
  stop(): Promise<void>
  /** Resolves when somebody has stopped it. */
  readonly stopped: Promise<void>
  /** How many tasks have started or ended so far. */
  readonly activity: number
  /** Resolves when a look at the queue that began after this call found nothing and no task runs; or when it is stopped. */
  idle(): Promise<void>
}

/**
 * Starts all workers, runs them until `signal` aborts, they are idle or others have stopped them, and stops all of them.
 *
 * @throws what the first failing start throws, after the others have stopped.
 */
export async function runWorkers(
  workers: Iterable<{ start(): Promise<void>; stop(): Promise<void> }>,
  { signal, untilIdle = false }: RunOptions = {},
): Promise<void> {
  // Whatever `storage.worker` returns is one; the type that users see says less.
  const all = [...workers] as Runnable[]
  const ends = new AbortController()
  try {
    if (signal?.aborted) return
    await startAll(all)
    const stopped = Promise.all(all.map((worker) => worker.stopped))
    await Promise.race([stopped, aborted(signal, ends.signal), ...(untilIdle ? [allIdle(all)] : [])])
  } finally {
    ends.abort()
    await Promise.all(all.map((worker) => worker.stop()))
  }
}

/** Waits for every start, so that none is under way when the others are stopped. */
async function startAll(workers: readonly Runnable[]): Promise<void> {
  const starts = await Promise.allSettled(workers.map((worker) => worker.start()))
  const failed = starts.find((start) => start.status === 'rejected')
  if (failed !== undefined) throw failed.reason
}

/** @param unwatch - Removes the listener: a signal may outlive many runs. */
function aborted(signal: AbortSignal | undefined, unwatch: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) resolve()
    else signal?.addEventListener('abort', () => resolve(), { once: true, signal: unwatch })
  })
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
