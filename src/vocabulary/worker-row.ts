/** A registered worker: one row per name and queue. */
export interface WorkerRow {
  readonly name: string
  readonly queue: string
  /** The kind of storage the worker runs on, as free text. */
  readonly backend: string
  /** What is wrapped around its handler, as free text; empty when nothing was said. */
  readonly layers: string
  /** The first registration under this name; `null` if none was recorded. */
  readonly startedAt: Date | null
  /** The last heartbeat; of a worker that has stopped and freed its name, thirty days before that. */
  readonly lastSeen: Date
}
