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

interface Runnable {
  start(): Promise<void>
  stop(): Promise<void>
}

/** What `untilIdle` needs to know of a worker. */
interface Observable {
  readonly startedTasks: number
  idleAfter(since: number): Promise<void>
}

/**
 * Starts all workers, runs them until `signal` aborts or they are idle, and stops all of them.
 *
 * @throws what the first failing start throws, after the others have stopped.
 */
export async function runWorkers(
  workers: Iterable<Runnable>,
  { signal, untilIdle = false }: RunOptions = {},
): Promise<void> {
  const all = [...workers]
  try {
    if (signal?.aborted) return
    await startAll(all)
    await (untilIdle ? Promise.race([aborted(signal), allIdle(all as (Runnable & Observable)[])]) : aborted(signal))
  } finally {
    await Promise.all(all.map((worker) => worker.stop()))
  }
}

/** Waits for every start, so that none is under way when the others are stopped. */
async function startAll(workers: readonly Runnable[]): Promise<void> {
  const starts = await Promise.allSettled(workers.map((worker) => worker.start()))
  const failed = starts.find((start) => start.status === 'rejected')
  if (failed !== undefined) throw failed.reason
}

function aborted(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) resolve()
    else signal?.addEventListener('abort', () => resolve(), { once: true })
  })
}

/** A task of one queue may push to another: all are idle only if none has started a task since the round began. */
async function allIdle(workers: readonly Observable[]): Promise<void> {
  for (;;) {
    const before = startedTasks(workers)
    const since = performance.now()
    await Promise.all(workers.map((worker) => worker.idleAfter(since)))
    if (startedTasks(workers) === before) return
  }
}

function startedTasks(workers: readonly Observable[]): number {
  return workers.reduce((sum, worker) => sum + worker.startedTasks, 0)
}
