/** What an operator does to tasks by their ids. */
import { expect } from 'vitest'
import { cancelTasks } from '../../src/statements/cancel.js'
import { removeTasks } from '../../src/statements/remove.js'
import { rescheduleTasks } from '../../src/statements/reschedule.js'
import { retryTasksNow } from '../../src/statements/retry-now.js'
import { setTaskPriority } from '../../src/statements/set-priority.js'
import type { FoundTask } from '../../src/vocabulary/change.js'
import type { Db } from '../../src/vocabulary/db.js'
import type { Steering } from '../../src/vocabulary/steering.js'
import { parseTaskId } from '../../src/vocabulary/task-id.js'
import { charge, end, isOwned, isWaiting, mayBeClaimed, secondOf, type Model, type ModelTask } from './model.js'
import { pick, step, SECOND_US, US, type Step } from './step.js'

interface Rule {
  readonly call: (db: Db, steering: Steering, now: number) => Promise<FoundTask[]>
  readonly accepts: (task: ModelTask, now: number) => boolean
  readonly change: (task: ModelTask, now: number, model: Model) => void
}

/** @param choices - Which tasks, by numbers that were chosen before it was known how many there would be. */
function steer(name: string, choices: readonly number[], { call, accepts, change }: Rule): Step {
  return step(
    `${name} ${choices.join(' and ')}`,
    (model, real) =>
      real.at(async (db, now) => {
        const tasks = chosen(model, choices)
        const ids = tasks.map(({ id }) => parseTaskId(id, 'ids'))
        const found = await call(db, { selection: { ids }, lockTimeout: '2s' }, now)
        for (const task of tasks) {
          const { id, status, attempts, maxAttempts } = task
          const changed = accepts(task, now)
          expect(found).toContainEqual(expect.objectContaining({ id, status, attempts, maxAttempts, changed }))
        }
        expect(found).toHaveLength(tasks.length)
        for (const task of tasks.filter((one) => accepts(one, now))) change(task, now, model)
      }),
    (model) => model.tasks.size > 0,
  )
}

/** In the order of their ids. */
export function chosen(model: Model, choices: readonly number[]): ModelTask[] {
  const tasks = [...model.tasks.values()]
  return [...new Set(choices.map((choice) => pick(tasks, choice)!))].sort((a, b) => (a.id < b.id ? -1 : 1))
}

/** Also of a task that a worker holds, whose claim is lost with it. */
export function cancel(choices: readonly number[]): Step {
  return steer('cancel', choices, {
    call: cancelTasks,
    accepts: (task) => isWaiting(task) || isOwned(task),
    change: (task, now) => {
      if (task.status === 'Running') charge(task)
      end(task, 'Killed', now)
    },
  })
}

export function retryNow(choices: readonly number[]): Step {
  return steer('retry now', choices, {
    call: retryTasksNow,
    accepts: (task, now) =>
      ['Pending', 'Failed', 'Killed'].includes(task.status) && !(mayBeClaimed(task) && task.runAt <= now),
    change: (task, now) => {
      task.maxAttempts = Math.max(task.maxAttempts, task.attempts + 1)
      task.runAt = Math.max(now, earliestRunAt(task, now))
      if (task.status !== 'Failed') Object.assign(task, { status: 'Pending', lockBy: null, lockAt: null, doneAt: null })
    },
  })
}

export function reschedule(choices: readonly number[], fromNowMs: number): Step {
  const atMs = (now: number) => Math.floor(now / US) + fromNowMs
  return steer(`reschedule by ${fromNowMs}`, choices, {
    call: (db, steering, now) => rescheduleTasks(db, steering, atMs(now)),
    accepts: isWaiting,
    change: (task, now) => {
      const at = atMs(now) * US
      task.runAt = mayBeClaimed(task) && task.runAt <= now ? at : Math.max(at, earliestRunAt(task, now))
    },
  })
}

/** A claim that went back uncharged is remembered nowhere, but it was not made after the present second. */
function earliestRunAt({ lockAt }: ModelTask, now: number): number {
  return (lockAt ?? secondOf(now)) + SECOND_US
}

export function setPriority(choices: readonly number[], priority: number): Step {
  return steer(`set priority ${priority} of`, choices, {
    call: (db, steering) => setTaskPriority(db, steering, priority),
    accepts: isWaiting,
    change: (task) => {
      task.priority = priority
    },
  })
}

export function remove(choices: readonly number[]): Step {
  return steer('remove', choices, {
    call: removeTasks,
    accepts: (task) => !isWaiting(task) && !isOwned(task),
    change: (task, _now, model) => {
      model.tasks.delete(task.id)
      model.removed.add(task.id)
    },
  })
}
