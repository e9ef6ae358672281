/**
 * A signal that the first SIGTERM or SIGINT aborts, for `run({ signal: shutdownSignal() })`. The second ends the process
 * as it would have without the library.
 */
export function shutdownSignal(): AbortSignal {
  const controller = new AbortController()
  const stop = (name: NodeJS.Signals) => {
    process.off('SIGTERM', stop)
    process.off('SIGINT', stop)
    controller.abort(new Error(`The process received ${name}.`))
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
  return controller.signal
}
