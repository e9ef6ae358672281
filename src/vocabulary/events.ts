import type { TaskId } from './errors.js'
import type { PrunableStatus } from './prune-options.js'

/**
 * What a worker reports through `onEvent`: a closed union on `type`. `message` is one line without payload, so that
 * logging is `(event) => log[event.level](event, event.message)`. `cause` is not enumerable, because an application's error
 * may quote a payload: it is there for those who ask for it.
 */
export type WorkerEvent = {
  readonly level: 'debug' | 'info' | 'warn' | 'error'
  readonly message: string
  readonly queue: string
  readonly worker: string
} & WorkerEventBody

export type WorkerEventBody =
  | { readonly type: 'worker.started' | 'worker.stopped' | 'listener.up' | 'heartbeat.regained' }
  | { readonly type: 'worker.stopping'; readonly running: number }
  | { readonly type: 'listener.down' | 'heartbeat.lost'; readonly cause: unknown }
  | { readonly type: 'worker.error'; readonly operation: string; readonly cause: unknown }
  | { readonly type: 'worker.recovered'; readonly operation: string; readonly failures: number }
  | { readonly type: 'orphan.swept'; readonly ids: readonly TaskId[]; readonly from: readonly string[] }
  | { readonly type: 'tasks.pruned'; readonly status: PrunableStatus; readonly count: number }
  /**
   * `task.deferred`: returned to the queue uncharged. `task.stale`: its claim was lost or its outcome could not be recorded,
   * so another run may follow. `task.overrun`: its handler goes on after its signal has aborted, and keeps its slot.
   */
  | {
      readonly type: 'task.claimed' | 'task.done' | 'task.deferred' | 'task.stale' | 'task.overrun'
      readonly id: TaskId
      readonly attempt: number
    }
  | {
      readonly type: 'task.failed' | 'task.killed'
      readonly id: TaskId
      readonly attempt: number
      readonly cause: unknown
    }
