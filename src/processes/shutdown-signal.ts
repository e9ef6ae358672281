/** A shutdown that the operating system asks for, as an AbortSignal. */

interface Watch {
  /** Runs and loops that the signal ends. */
  users: number
  begin(): void
  end(): void
}

const watches = new WeakMap<AbortSignal, Watch>()

/**
 * A signal that the first SIGTERM or SIGINT aborts, for `run({ signal: shutdownSignal() })`. The second ends the process
 * as it would have without the library, and so does the first when the run has returned.
 */
export function shutdownSignal(): AbortSignal {
  const controller = new AbortController()
  const end = () => {
    process.off('SIGTERM', stop)
    process.off('SIGINT', stop)
  }
  const stop = (name: NodeJS.Signals) => {
    end()
    controller.abort(new Error(`The process received ${name}.`))
  }
  const begin = () => {
    end()
    process.on('SIGTERM', stop)
    process.on('SIGINT', stop)
  }
  begin()
  watches.set(controller.signal, { users: 0, begin, end })
  return controller.signal
}

/**
 * Calls `onAbort` when the signal aborts, at once if it has. A shutdown signal watches the process for as long as it has
 * somebody to tell: otherwise the first Ctrl-C after a run would do nothing.
 *
 * @returns Ends that.
 */
export function whenAborted(signal: AbortSignal, onAbort: () => void): () => void {
  if (signal.aborted) {
    onAbort()
    return () => undefined
  }
  const watch = watches.get(signal)
  if (watch?.users === 0) watch.begin()
  if (watch !== undefined) watch.users += 1
  signal.addEventListener('abort', onAbort)
  return () => {
    signal.removeEventListener('abort', onAbort)
    if (watch === undefined) return
    watch.users -= 1
    if (watch.users === 0) watch.end()
  }
}
