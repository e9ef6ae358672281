/** What an application does that locks tasks by their ids, under a name that an administrator registered. */
import { expect } from 'vitest'
import { lockTasks } from '../../src/statements/lock-tasks.js'
import { registerByAdmin } from '../../src/statements/register-by-admin.js'
import { isOwned, mayBeClaimed, secondOf } from './model.js'
import { chosen } from './steering.js'
import { step, SECOND_US, US, type Step } from './step.js'

export function registerConsumer(name: string): Step {
  return step(`${name} is registered`, (model, real) =>
    real.at(async (db, now) => {
      await registerByAdmin(db, model.queue, name)
      model.worker(name).row = { token: null, lastSeen: now }
    }),
  )
}

/** @param again - Whether it asks also for tasks that it holds already; those keep their claim. */
export function lock(name: string, choices: readonly number[], again: boolean): Step {
  return step(
    `${name} locks ${choices.join(' and ')}${again ? ', also again' : ''}`,
    (model, real) =>
      real.at(async (db, now) => {
        const { row, held } = model.worker(name)
        const thresholdMs = model.thresholdUs / US
        const tasks = chosen(model, choices)
        const ids = tasks.map(({ id }) => id)
        const rows = await lockTasks(db, { queue: model.queue, worker: name, thresholdMs, ids, again })
        const isRegistered = row !== undefined && row.lastSeen > now - model.thresholdUs
        const locked = tasks.filter((task) => {
          const isOwn = isOwned(task) && task.lockBy === name
          return isRegistered && ((mayBeClaimed(task) && task.runAt <= now) || (again && isOwn))
        })
        expect(rows.map(({ id }) => id).sort()).toEqual(locked.map(({ id }) => id))
        for (const task of locked) {
          if (isOwned(task)) continue
          Object.assign(task, { status: 'Running', lockBy: name, lockAt: secondOf(now), doneAt: null })
          const claimed = { id: task.id, worker: name, attempts: task.attempts, lockAt: secondOf(now) / SECOND_US }
          model.claims.push(claimed)
          held.push(claimed)
        }
        for (const { id, status, attempts, lockAt } of rows) {
          const task = model.tasks.get(id)!
          expect({ status, attempts, lockAt }).toEqual({
            status: 'Running',
            attempts: task.attempts,
            lockAt: task.lockAt! / SECOND_US,
          })
        }
      }),
    (model) => model.tasks.size > 0,
  )
}
