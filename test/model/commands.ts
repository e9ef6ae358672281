/** The steps that processes take, each one statement of the library: what it should do to the model, and that it does so. */
import { expect } from 'vitest'
import { ackUnlessLocked } from '../../src/statements/ack.js'
import { claim, claimAbove } from '../../src/statements/claim.js'
import { heartbeat } from '../../src/statements/heartbeat.js'
import { insertTasks } from '../../src/statements/insert-tasks.js'
import { markRunning } from '../../src/statements/mark-running.js'
import { pruneTasks } from '../../src/statements/prune.js'
import { register, release } from '../../src/statements/register.js'
import { sweep } from '../../src/statements/sweep.js'
import type { PrunableStatus } from '../../src/vocabulary/prune-options.js'
import type { AckOutcome } from '../../src/vocabulary/outcome.js'
import type { Db } from '../../src/vocabulary/db.js'
import type { EncodedTask } from '../../src/vocabulary/task.js'
import { taskId } from '../support/rows.js'
import {
  charge,
  end,
  giveBack,
  isOwned,
  mayBeClaimed,
  secondOf,
  usesLastAttempt,
  type Model,
  type ModelClaim,
  type ModelTask,
} from './model.js'
import type { Real } from './real.js'
import { pick, step, SECOND_US, US, type Step } from './step.js'

/** As far back as a release puts the heartbeat. */
const RELEASED_US = 720 * 3_600 * SECOND_US

const OK = '{"Ok":null}'
const ERR = '{"Err":"It failed."}'

export interface NewTask {
  readonly maxAttempts: number
  readonly priority: number
  readonly delayMs: number
}

export function push(task: NewTask): Step {
  return step(`push ${JSON.stringify(task)}`, (model, real) => real.at((db, now) => insert(model, db, task, now)))
}

async function insert(model: Model, db: Db, { maxAttempts, priority, delayMs }: NewTask, now: number): Promise<void> {
  model.pushed += 1
  const id = taskId(model.pushed)
  const task = { id, status: 'Pending', attempts: 0, maxAttempts, priority, runAt: now + delayMs * US }
  model.tasks.set(id, { ...task, lockBy: null, lockAt: null, doneAt: null, executions: 0 })
  const encoded = { id, idGiven: true, queue: model.queue, job: new Uint8Array(), maxAttempts, priority, delayMs }
  const rest = { runAtMs: undefined, metadata: '{}', idempotencyKey: null, notify: 'never' } as const
  const stored = await insertTasks(db, [{ ...encoded, ...rest } as EncodedTask], false)
  expect([...stored]).toEqual([id])
}

export interface Claiming {
  readonly limit: number
  readonly running: number
  /** Whether the answer arrives. Otherwise the process does not know what it was given. */
  readonly heard: boolean
  /** Only behind one of the tasks, in its priority. */
  readonly above: number | undefined
}

export function claimTasks(worker: string, { limit, running, heard, above }: Claiming): Step {
  const where = above === undefined ? '' : ` above ${above}`
  return step(`${worker} claims ${limit}${where}, ${running} running${heard ? '' : ', answer lost'}`, (model, real) =>
    real.at(async (db, now) => {
      const { token, row, held } = model.worker(worker)
      const isRegistered = row?.token === token && row.lastSeen > now - model.thresholdUs
      const floor = above === undefined ? undefined : pick([...model.tasks.values()], above)
      const isThere = (task: ModelTask) =>
        floor === undefined || (task.priority === floor.priority && follows(task, floor))
      const expected = isRegistered ? model.claimable(now).filter(isThere).slice(0, limit) : []
      const thresholdMs = model.thresholdUs / US
      const request = { queue: model.queue, worker, leaseToken: token, thresholdMs, limit, running }
      const rows = floor
        ? await claimAbove(db, request, [{ ...floor, runAtUs: floor.runAt }])
        : await claim(db, request)
      expect(rows.map(({ id }) => id)).toEqual(expected.map(({ id }) => id))
      for (const [place, task] of expected.entries()) {
        Object.assign(task, { status: place < running ? 'Running' : 'Queued', lockBy: worker, doneAt: null })
        task.lockAt = secondOf(now)
        const claimed = { id: task.id, worker, attempts: task.attempts, lockAt: task.lockAt / SECOND_US }
        model.claims.push(claimed)
        if (heard) held.push(claimed)
        expect(rows[place]).toMatchObject({ status: task.status, attempts: task.attempts, lockAt: claimed.lockAt })
      }
    }),
  )
}

function follows(task: ModelTask, floor: ModelTask): boolean {
  return task.runAt > floor.runAt || (task.runAt === floor.runAt && task.id > floor.id)
}

/** Tasks claimed as Queued that have started since. */
export function markStarted(worker: string): Step {
  return step(`${worker} marks what it holds as running`, (model, real) =>
    real.at(async (db) => {
      const { held } = model.worker(worker)
      const good = held.filter((claim) => model.isGood(claim))
      const marked = await markRunning(db, model.queue, worker, held)
      expect([...marked].sort()).toEqual(good.map(({ id }) => id).sort())
      for (const { id } of good) model.tasks.get(id)!.status = 'Running'
    }),
  )
}

const OUTCOMES: Record<'Done' | 'Failed' | 'Killed' | 'Pending', (delayMs: number) => AckOutcome> = {
  Done: () => ({ status: 'Done', result: OK }),
  Failed: (delayMs) => ({ status: 'Failed', result: ERR, due: { delayMs } }),
  Killed: () => ({ status: 'Killed', result: ERR }),
  Pending: (delayMs) => (delayMs === 0 ? { status: 'Pending' } : { status: 'Pending', due: { delayMs } }),
}
export type Ending = keyof typeof OUTCOMES

/**
 * The end of a claim: of one that a process holds, or of any that there ever was, whose statement was long under way.
 * Only the claim that the task's owner has changes anything.
 */
export function acknowledge(whose: 'held' | 'any', choice: number, ending: Ending, delayMs: number): Step {
  const claimsOf = (model: Model) => (whose === 'any' ? model.claims : model.workers.flatMap(({ held }) => held))
  return step(
    `${whose} claim ${choice} ends ${ending} ${delayMs}`,
    (model, real) =>
      real.at(async (db, now) => {
        const claimed = pick(claimsOf(model), choice)!
        const outcome = OUTCOMES[ending](delayMs)
        const isGood = model.isGood(claimed)
        const written = isGood ? recorded(model.tasks.get(claimed.id)!, outcome, delayMs, now) : undefined
        const { id, worker, attempts, lockAt } = claimed
        const answers = await ackUnlessLocked(db, model.queue, worker, [{ fence: { id, attempts, lockAt }, outcome }])
        expect(answers.get(id), `the end of claim ${JSON.stringify(claimed)}`).toBe(written)
        forget(model, claimed)
      }),
    (model) => claimsOf(model).length > 0,
  )
}

/**
 * A handler acknowledges in its own transaction, in which it also pushes a task: both count when that commits, neither when
 * it rolls back. It rolls back, too, where the claim is lost, because then `completeWithTx` throws.
 */
export function acknowledgeInTx(choice: number, ending: Ending, followUp: NewTask, commits: boolean): Step {
  return step(
    `claim ${choice} ends ${ending} in a transaction, which ${commits ? 'commits' : 'rolls back'}`,
    (model, real) =>
      real.inTx(async (db, now) => {
        const claimed = pick(model.claims, choice)!
        const outcome = OUTCOMES[ending](0)
        const counts = model.isGood(claimed)
        const { id, worker, attempts, lockAt } = claimed
        const answers = await ackUnlessLocked(db, model.queue, worker, [{ fence: { id, attempts, lockAt }, outcome }])
        expect(answers.has(id), `the end of claim ${JSON.stringify(claimed)}`).toBe(counts)
        if (!counts || !commits) return 'rollback'
        expect(answers.get(id)).toBe(recorded(model.tasks.get(id)!, outcome, 0, now))
        await insert(model, db, followUp, now)
        forget(model, claimed)
        return 'commit'
      }),
    (model) => model.claims.length > 0,
  )
}

function recorded(task: ModelTask, outcome: AckOutcome, delayMs: number, now: number): string {
  const killed = outcome.status === 'Failed' && usesLastAttempt(task)
  if (outcome.status === 'Pending') giveBack(task, 'due' in outcome ? now + delayMs * US : task.runAt)
  else {
    charge(task)
    end(task, killed ? 'Killed' : outcome.status, now)
    if (task.status === 'Failed') task.runAt = now + delayMs * US
  }
  return task.status
}

function forget(model: Model, claimed: ModelClaim): void {
  for (const worker of model.workers) worker.held = worker.held.filter((one) => one !== claimed)
}

/** The heartbeat says what the database counts as the worker's; what no process holds goes back, what is gone is dropped. */
export function beatAndReconcile(worker: string): Step {
  return step(`${worker} sends a heartbeat and reconciles`, async (model, real) => {
    const known = model.worker(worker)
    const owned = await real.at(async (db, now) => {
      const beat = await heartbeat(db, model.queue, worker, known.token)
      const isRegistered = known.row?.token === known.token
      expect(beat.registered).toBe(isRegistered)
      if (!isRegistered) return undefined
      known.row!.lastSeen = now
      expect(beat.owned.map(({ id }) => id).sort()).toEqual(model.ownedBy(worker).map(({ id }) => id))
      return beat.owned
    })
    if (owned === undefined) {
      known.held = []
      return
    }
    known.held = known.held.filter((claim) => model.isGood(claim))
    const strays = owned.filter(({ id }) => !known.held.some((claim) => claim.id === id))
    await real.at(async (db) => {
      const entries = strays.map((fence) => ({ fence, outcome: { status: 'Pending' } as const }))
      const answers = await ackUnlessLocked(db, model.queue, worker, entries)
      expect([...answers.keys()].sort()).toEqual(strays.map(({ id }) => id).sort())
      for (const { id } of strays) giveBack(model.tasks.get(id)!, model.tasks.get(id)!.runAt)
    })
  })
}

/** A process starts under the name, while another may still believe that it has it. */
export function adopt(worker: string): Step {
  return step(`a new process registers as ${worker}`, (model, real) =>
    real.at(async (db, now) => {
      const known = model.worker(worker)
      const token = model.newToken()
      const free = known.row === undefined || isStale(known.row.token)
      const request = { queue: model.queue, worker, leaseToken: token, storageName: 'model', layers: '' }
      const takenBack = await register(db, { ...request, thresholdMs: model.thresholdUs / US })
      expect(takenBack !== undefined, `whether ${worker} is free`).toBe(free)
      if (takenBack === undefined) return
      const orphans = model.ownedBy(worker)
      expect(takenBack.map(({ id }) => id).sort()).toEqual(orphans.map(({ id }) => id))
      await returnOrphans(model, real, orphans, now)
      Object.assign(known, { token, row: { token, lastSeen: now }, held: [] })

      function isStale(owner: string | null): boolean {
        const heard = Math.max(known.row!.lastSeen, owner === null ? 0 : model.serverStartedAt)
        return heard <= now - model.thresholdUs
      }
    }),
  )
}

/** A process that has handed back what it held gives its name back. */
export function stopGracefully(worker: string): Step {
  return step(`${worker} stops`, async (model, real) => {
    const known = model.worker(worker)
    const { held } = known
    await real.at(async (db) => {
      const good = held.filter((claim) => model.isGood(claim))
      const entries = held.map((fence) => ({ fence, outcome: { status: 'Pending' } as const }))
      const answers = await ackUnlessLocked(db, model.queue, worker, entries)
      expect([...answers.keys()].sort()).toEqual(good.map(({ id }) => id).sort())
      for (const { id } of good) giveBack(model.tasks.get(id)!, model.tasks.get(id)!.runAt)
    })
    await real.at(async (db, now) => {
      const isRegistered = known.row !== undefined && known.row.token === known.token
      const request = { queue: model.queue, worker, leaseToken: known.token }
      expect(await release(db, request)).toBe(isRegistered)
      if (isRegistered) known.row = { token: null, lastSeen: now - RELEASED_US }
      known.held = []
    })
  })
}

/** Its memory is gone; what it had claimed stays in the table. */
export function die(worker: string): Step {
  return step(`${worker} dies`, async (model) => {
    model.worker(worker).held = []
  })
}

export function sweepOrphans(): Step {
  return step('a sweep', (model, real) =>
    real.at(async (db, now) => {
      const orphans = model.workers
        .filter((worker) => model.isSilent(worker, now))
        .flatMap(({ name }) => model.ownedBy(name))
      const swept = await sweep(db, model.queue, model.thresholdUs / US)
      expect(swept.map(({ id }) => id).sort()).toEqual(orphans.map(({ id }) => id).sort())
      await returnOrphans(model, real, orphans, now)
    }),
  )
}

/** Charged if it ran, and then back after a random wait, which the model takes over after it has checked its bounds. */
async function returnOrphans(model: Model, real: Real, orphans: readonly ModelTask[], now: number): Promise<void> {
  const stored = new Map((await real.tasks(model.queue)).map((task) => [task.id, task.runAt]))
  for (const task of orphans) {
    const ran = task.status === 'Running'
    const runAt = stored.get(task.id)!
    const earliest = Math.max(task.runAt, task.lockAt! + SECOND_US, ran ? now : 0)
    const longestWait = ran ? 5_000_000 * 2 ** Math.min(task.attempts, 6) : 0
    const killed = ran && usesLastAttempt(task)
    if (ran) charge(task)
    giveBack(task, task.runAt)
    if (killed) end(task, 'Killed', now)
    expect(runAt, `when ${task.id} is due again`).toBeGreaterThanOrEqual(earliest)
    expect(runAt, `when ${task.id} is due again`).toBeLessThanOrEqual(Math.max(earliest, now + longestWait))
    task.runAt = runAt
  }
}

export function prune(status: PrunableStatus, olderThanMs: number): Step {
  return step(`prune ${status} older than ${olderThanMs}`, (model, real) =>
    real.at(async (db, now) => {
      const old = [...model.tasks.values()].filter(
        (task) =>
          task.status === status && !mayBeClaimed(task) && !isOwned(task) && task.doneAt! < now - olderThanMs * US,
      )
      const batch = await pruneTasks(db, { queue: model.queue, status, olderThanMs, limit: 1_000 })
      expect(batch.tasks).toBe(old.length)
      for (const { id } of old) {
        model.tasks.delete(id)
        model.removed.add(id)
      }
    }),
  )
}

/** @param alive - The workers that send heartbeats meanwhile, each shortly before the time is over. */
export function wait(seconds: number, alive: readonly string[]): Step {
  return step(`${seconds} s pass, ${alive.join(' and ') || 'nobody'} alive`, async (model, real) => {
    await real.age(model, seconds)
    model.age(seconds * SECOND_US)
    for (const name of alive) {
      const known = model.worker(name)
      await real.at(async (db, now) => {
        const { registered } = await heartbeat(db, model.queue, name, known.token)
        expect(registered).toBe(known.row?.token === known.token)
        if (registered) known.row!.lastSeen = now
      })
    }
  })
}
