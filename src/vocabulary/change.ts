import type { CheckedSelection } from './selection.js'
import type { TaskId } from './task-id.js'

/** What a call has changed, and what it was asked to change and did not. */
export interface Change {
  /** For ids in their order, for a queue in no particular one. */
  readonly changed: readonly TaskId[]
  /** Only of tasks that were named by id: of a queue, those that cannot be changed are not meant. */
  readonly refused: readonly { readonly id: string; readonly reason: string }[]
}

/** A task that a steering statement has found: as it was when the statement had locked it. */
export interface FoundTask {
  readonly id: string
  readonly status: string
  readonly attempts: number
  readonly maxAttempts: number
  readonly changed: boolean
}

export function changeOf(selection: CheckedSelection, found: readonly FoundTask[]): Change {
  if (!('ids' in selection)) {
    // One that was found may have stayed as it was, by a trigger of the application.
    return { changed: found.filter(({ changed }) => changed).map(({ id }) => id as TaskId), refused: [] }
  }
  const byId = new Map(found.map((task) => [task.id, task]))
  const isChanged = (id: TaskId) => byId.get(id)?.changed === true
  return {
    changed: selection.ids.filter(isChanged),
    refused: selection.ids.filter((id) => !isChanged(id)).map((id) => ({ id, reason: reasonOf(byId.get(id)) })),
  }
}

function reasonOf(task: FoundTask | undefined): string {
  if (task === undefined) return 'no task has this id'
  const { status, attempts, maxAttempts } = task
  if (status === 'Running' || status === 'Queued') return `a worker holds it (${status})`
  const waits = status === 'Pending' || (status === 'Failed' && attempts < maxAttempts)
  return waits ? `it waits to be run (${status})` : `it has ended (${status})`
}
