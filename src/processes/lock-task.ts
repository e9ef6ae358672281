/**
 * Claims by id, for applications that decide themselves which task comes next. They belong to a name that an administrator
 * registered, behind which is no loop: nothing renews it but `registerWorker`, and who locks a task acknowledges it.
 *
 * The names of workers are refused. A worker hands back what it does not know of, at its next heartbeats, and might claim
 * the same task meanwhile.
 */
import { ack } from '../statements/ack.js'
import { lockTasks, type LockRequest } from '../statements/lock-tasks.js'
import { ownerStanding, type OwnerStanding } from '../statements/owner-standing.js'
import type { Claim } from '../vocabulary/claim.js'
import type { ClaimedRow } from '../vocabulary/claimed-row.js'
import { databaseError } from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import { decodeByDefault } from '../vocabulary/decode.js'
import { AlreadyRegisteredError, TaskNotFoundError, WorkerNotRegisteredError } from '../vocabulary/errors.js'
import { checkWorkerName } from '../vocabulary/limits.js'
import type { AckEntry } from '../vocabulary/outcome.js'
import { DEFAULT_REENQUEUE_ORPHANED_AFTER_MS } from '../vocabulary/settings.js'
import { parseTaskId, parseTaskIds } from '../vocabulary/task-id.js'
import { ackAlone, type Consumer } from './ack-alone.js'
import { handOut } from './handed-out.js'
import { HeldClaim } from './held-claim.js'
import { outcomeOfError, readClaim, readClaimBy } from './read-claim.js'
import { inWords, reporter } from './report.js'

/** Ids in one statement: each may bring a payload of 1 MiB. */
const CHUNK = 100

/** For `PostgresStorage.lockTask`. */
export async function lockTask<Args>(consumer: Consumer<Args>, id: string, worker: string): Promise<Claim<Args>> {
  const { db } = consumer
  const request = { ...lockRequest(consumer, worker), ids: [parseTaskId(id)], again: true }
  const [row] = await locking(() => lockTasks(db, request))
  if (row === undefined) throw await refusal(db, request, id)
  const read = await handOver(consumer, worker, row)
  if ('claim' in read) return read.claim
  throw read.error
}

/** For `Admin.lockTask`, which may run in a user's transaction and knows no more of a queue than its name. */
export async function lockAnyTask(db: Db, id: string, worker: string): Promise<Claim<unknown>> {
  const thresholdMs = DEFAULT_REENQUEUE_ORPHANED_AFTER_MS
  const ids = [parseTaskId(id)]
  const request = { queue: undefined, worker: checkWorkerName(worker, 'worker'), thresholdMs, ids, again: true }
  const [row] = await locking(() => lockTasks(db, request))
  if (row === undefined) throw await refusal(db, request, id)
  const { queue } = row
  const held = heldClaim(row)
  try {
    const claim = await readClaimBy((taskId, bytes) => decodeByDefault(queue, taskId, bytes), queue, worker, row)
    handOut(claim, { held, queue, worker })
    return claim
  } catch (error) {
    // Its queue may well be able to read it, so no attempt is charged.
    await locking(() => handBack(db, queue, worker, [row]))
    throw error
  }
}

/** For `PostgresStorage.claimByIds`. */
export async function claimByIds<Args>(
  consumer: Consumer<Args>,
  ids: Iterable<string>,
  worker: string,
): Promise<Claim<Args>[]> {
  const { db, queue } = consumer
  const request = { ...lockRequest(consumer, worker), again: false }
  const wanted = [...parseTaskIds(ids)]
  const rows: ClaimedRow[] = []
  try {
    for (let start = 0; start < wanted.length; start += CHUNK) {
      const chunk = wanted.slice(start, start + CHUNK)
      rows.push(...(await locking(() => lockTasks(db, { ...request, ids: chunk }))))
    }
  } catch (error) {
    // The caller does not get them. If this fails, too, they are found once the name is silent.
    await handBack(db, queue.name, worker, rows).catch(() => undefined)
    throw error
  }
  if (rows.length === 0 && wanted.length > 0) {
    const { standing } = await locking(() => ownerStanding(db, request))
    const error = unfit('claimByIds', queue.name, worker, standing)
    if (error !== undefined) throw error
  }
  // Stable, so that within a chunk tasks of the same millisecond stay in the database's order.
  rows.sort((a, b) => b.priority - a.priority || a.runAt.getTime() - b.runAt.getTime())
  const reads = await Promise.all(rows.map((row) => handOver(consumer, worker, row)))
  return reads.flatMap((read) => ('claim' in read ? [read.claim] : []))
}

function lockRequest({ queue, config }: Consumer, worker: string) {
  const { reenqueueOrphanedAfterMs: thresholdMs = DEFAULT_REENQUEUE_ORPHANED_AFTER_MS } = config
  return { queue: queue.name, worker: checkWorkerName(worker, 'worker'), thresholdMs }
}

/** A task that cannot be read is charged a failed attempt, as in a worker. */
async function handOver<Args>(
  consumer: Consumer<Args>,
  worker: string,
  row: ClaimedRow,
): Promise<{ readonly claim: Claim<Args> } | { readonly error: unknown }> {
  const { queue, config } = consumer
  const report = reporter(queue.name, worker, config.onEvent)
  const held = heldClaim(row)
  const { id, attempt } = held
  report('debug', `claimed task ${id} for attempt ${attempt}`, { type: 'task.claimed', id, attempt })
  try {
    const claim = await readClaim(queue, worker, row)
    handOut(claim, { held, queue: queue.name, worker })
    return { claim }
  } catch (error) {
    const { onRetryFailure, record } = ackAlone(consumer, { held, worker })
    try {
      await record(outcomeOfError(queue, attempt, error, onRetryFailure), error)
    } catch (cause) {
      report('error', inWords(cause), { type: 'worker.error', operation: 'acknowledging tasks', cause })
    }
    return { error }
  }
}

function heldClaim(row: ClaimedRow): HeldClaim {
  const held = new HeldClaim(row)
  held.start()
  return held
}

async function handBack(db: Db, queue: string, worker: string, rows: readonly ClaimedRow[]): Promise<void> {
  const entries = rows.map<AckEntry>((row) => ({ fence: new HeldClaim(row).fence, outcome: { status: 'Pending' } }))
  if (entries.length > 0) await ack(db, queue, worker, entries)
}

/** Why a task was not locked. Asked afterwards, so that success costs one round trip. */
async function refusal(db: Db, request: LockRequest, taskId: string): Promise<Error> {
  const { queue, standing } = await locking(() => ownerStanding(db, { ...request, taskId }))
  const notFound = new TaskNotFoundError('lockTask', taskId, request.queue)
  return queue === undefined ? notFound : (unfit('lockTask', queue, request.worker, standing) ?? notFound)
}

function unfit(
  operation: string,
  queue: string,
  worker: string,
  standing: OwnerStanding['standing'],
): Error | undefined {
  switch (standing) {
    case 'registered':
      return undefined
    case 'missing':
      return new WorkerNotRegisteredError(operation, queue, worker, `register the worker first, with ${REGISTER}.`)
    case 'silent': {
      const detail = `its registration was not renewed for reenqueueOrphanedAfterMs, so that workers take its tasks away. Call ${REGISTER} again, and every minute while it holds tasks.`
      return new WorkerNotRegisteredError(operation, queue, worker, detail)
    }
    case 'worker': {
      const detail = `as the name of a worker, which takes no tasks but by itself. Register a name of your own with ${REGISTER}.`
      return new AlreadyRegisteredError(queue, worker, detail)
    }
  }
}

const REGISTER = 'admin(db).registerWorker(queue, name)'

async function locking<Result>(statement: () => Promise<Result>): Promise<Result> {
  try {
    return await statement()
  } catch (error) {
    throw databaseError('locking tasks by id', error)
  }
}
