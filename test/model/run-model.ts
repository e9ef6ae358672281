/**
 * Random interleavings of what three workers, their successors, a consumer and an operator do to one queue, statement by statement,
 * against a model of what the tables should hold. Time passes without waiting: whatever is stored becomes older.
 */
import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import type { Db } from '../../src/vocabulary/db.js'
import type { TestDatabase } from '../support/database.js'
import { serverHasRunForASecond } from '../support/uptime.js'
import * as steps from './commands.js'
import * as consuming from './consuming.js'
import { Model } from './model.js'
import { Real } from './real.js'
import * as steering from './steering.js'

/** Silence counts from the start of the server at the earliest, so the threshold is as short as it may be. */
const THRESHOLD_US = 1_000_000
const WORKERS = ['mailer#1', 'mailer#2', 'mailer#3'] as const
/** Not the name of a worker: an application locks tasks under it. */
const CONSUMER = 'consumer'

const worker = fc.constantFrom(...WORKERS)
const delayMs = fc.constantFrom(0, 0, 500, 3_000)
const choice = fc.nat(50)
const task = fc.record({ maxAttempts: fc.integer({ min: 1, max: 3 }), priority: fc.nat(2), delayMs })
const claim = fc.record({
  limit: fc.integer({ min: 1, max: 4 }),
  running: fc.nat(4),
  heard: fc.constantFrom(true, true, true, false),
  above: fc.oneof(fc.constant(undefined), fc.constant(undefined), choice),
})
const prunable = fc.constantFrom<('Done' | 'Failed' | 'Killed')[]>('Done', 'Failed', 'Killed')
const age = fc.constantFrom(0, 2_000)
const ending = fc.constantFrom<steps.Ending>('Done', 'Failed', 'Failed', 'Killed', 'Pending')

/** Few tasks are meant at a time, or an operator would end whatever the workers begin. */
const choices = fc.array(choice, { minLength: 1, maxLength: 2 })
const steeringStep = fc.oneof(
  choices.map(steering.cancel),
  choices.map(steering.retryNow),
  choices.map(steering.retryNow),
  fc.tuple(choices, fc.constantFrom(-3_000, 0, 500, 3_000)).map(([which, ms]) => steering.reschedule(which, ms)),
  fc.tuple(choices, fc.nat(2)).map(([which, priority]) => steering.setPriority(which, priority)),
  choices.map(steering.remove),
)
const consumingStep = fc.oneof(
  fc.constant(null).map(() => consuming.registerConsumer(CONSUMER)),
  fc.tuple(choices, fc.boolean()).map(([which, again]) => consuming.lock(CONSUMER, which, again)),
)

const anyStep = fc.oneof(
  { weight: 4, arbitrary: task.map(steps.push) },
  { weight: 8, arbitrary: fc.tuple(worker, claim).map(([name, request]) => steps.claimTasks(name, request)) },
  {
    weight: 8,
    arbitrary: fc.tuple(choice, ending, delayMs).map(([which, how, ms]) => steps.acknowledge('held', which, how, ms)),
  },
  {
    weight: 3,
    arbitrary: fc.tuple(choice, ending, delayMs).map(([which, how, ms]) => steps.acknowledge('any', which, how, ms)),
  },
  {
    weight: 3,
    arbitrary: fc
      .tuple(choice, ending, task, fc.boolean())
      .map(([which, how, followUp, commits]) => steps.acknowledgeInTx(which, how, followUp, commits)),
  },
  { weight: 4, arbitrary: steeringStep },
  { weight: 4, arbitrary: consumingStep },
  { weight: 2, arbitrary: worker.map(steps.markStarted) },
  { weight: 3, arbitrary: worker.map(steps.beatAndReconcile) },
  { weight: 2, arbitrary: worker.map(steps.adopt) },
  { weight: 1, arbitrary: worker.map(steps.stopGracefully) },
  { weight: 1, arbitrary: worker.map(steps.die) },
  { weight: 3, arbitrary: fc.constant(null).map(steps.sweepOrphans) },
  { weight: 1, arbitrary: fc.tuple(prunable, age).map(([status, ms]) => steps.prune(status, ms)) },
  {
    weight: 4,
    arbitrary: fc
      .tuple(fc.constantFrom(1, 1, 2, 5, 30), fc.subarray([...WORKERS]))
      .map(([s, alive]) => steps.wait(s, alive)),
  },
)

const manySteps = fc.commands([anyStep], { maxCommands: 80, size: 'max' })

/**
 * Fails with the shortest sequence of steps that it finds after which a row is not as it should be.
 *
 * @returns How often a task changed from one status to another, to show that the steps did something.
 */
export async function runModel(database: TestDatabase, numRuns: number): Promise<Map<string, number>> {
  await Real.stopClock(database.sql)
  const { client, db } = database.connect({ max: 1, connection: { search_path: 'still, pg_catalog' } })
  const real = new Real(client, db as unknown as Db)
  await serverHasRunForASecond(database.sql)
  const serverStartedAt = await real.serverStartedAt()
  const changes = new Map<string, number>()

  const property = fc.asyncProperty(
    fc.array(task, { minLength: 1, maxLength: 5 }),
    manySteps,
    async (tasks, commands) => {
      const model = new Model(randomUUID(), THRESHOLD_US, serverStartedAt, [...WORKERS, CONSUMER])
      try {
        for (const name of WORKERS) await steps.adopt(name).run(model, real)
        for (const one of tasks) await steps.push(one).run(model, real)
        await fc.asyncModelRun(() => ({ model, real }), commands)
      } finally {
        // Otherwise the next, shorter sequence of steps would fail because of this one.
        await real.clear(model.queue)
      }
      for (const change of model.changes) changes.set(change, (changes.get(change) ?? 0) + 1)
    },
  )
  await fc.assert(property, { numRuns })
  return changes
}
