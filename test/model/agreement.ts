/** What has to hold after every step, whatever the steps were. */
import { expect } from 'vitest'
import { isOwned, type Model } from './model.js'
import type { Real, RealTask } from './real.js'

/** Compares every row with the model, and checks what no sequence of steps may break. */
export async function expectAgreement(model: Model, real: Real): Promise<void> {
  const tasks = await real.tasks(model.queue)
  expect(tasks.map(asModelled)).toEqual(
    [...model.tasks.values()].sort((a, b) => (a.id < b.id ? -1 : 1)).map(({ executions: _, ...task }) => task),
  )
  const workers = model.workers.flatMap(({ name, row }) => (row === undefined ? [] : [{ name, ...row }]))
  expect(await real.workers(model.queue)).toEqual(workers.sort((a, b) => (a.name < b.name ? -1 : 1)))

  for (const task of tasks) expectSoundRow(task)
  expectNothingLost(model, tasks)
  expectOneOwner(model)
  expectExecutionsCharged(model)
}

function asModelled({ result: _, ...task }: RealTask): Omit<RealTask, 'result'> {
  return task
}

/** The lock columns say what the status says, the budget is kept, and whoever waits for an end finds its result. */
function expectSoundRow(task: RealTask): void {
  const { id, status, attempts, maxAttempts, lockBy, lockAt, result } = task
  expect(attempts, `attempts of ${id}`).toBeLessThanOrEqual(maxAttempts)
  expect(
    [lockBy, lockAt].map((column) => column === null),
    `lock columns of ${id}`,
  ).toEqual(
    status === 'Pending' ? [true, true] : isOwned(taskOf(task)) ? [false, false] : [lockBy === null, lockBy === null],
  )
  const ends: Partial<Record<string, string>> = { Done: 'Ok', Failed: 'Err', Killed: 'Err' }
  if (status in ends) expect(result, `result of ${id}`).toBe(ends[status])
}

function taskOf(task: RealTask): Parameters<typeof isOwned>[0] {
  return { ...task, executions: 0 }
}

function expectNothingLost(model: Model, tasks: readonly RealTask[]): void {
  expect(tasks.length + model.removed.size, 'tasks stored and removed').toBe(model.pushed)
  for (const { id, status } of tasks) {
    const before = model.seen.get(id) ?? 'nothing'
    if (before === 'Done') expect(status, `${id}, which was done`).toBe('Done')
    if (before !== status) model.changes.push(`${before} to ${status}`)
    model.seen.set(id, status)
  }
}

/** No two claims of a task look alike to the database: otherwise the late end of one would end the other. */
function expectOneOwner(model: Model): void {
  for (const task of model.tasks.values()) {
    const good = model.claims.filter((claim) => claim.id === task.id && model.isGood(claim))
    expect(good.length, `good claims of ${task.id}`).toBe(isOwned(task) ? 1 : 0)
  }
}

function expectExecutionsCharged(model: Model): void {
  for (const { id, attempts, executions } of model.tasks.values()) {
    expect(attempts, `attempts of ${id}, for its executions`).toBe(executions)
  }
}
