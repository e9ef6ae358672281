import { and, eq, not, or, sql, type SQL, type SQLWrapper } from 'drizzle-orm'
import { alias } from 'drizzle-orm/pg-core'
import { jobs } from '../schema.js'
import { announced } from '../vocabulary/announce.js'
import { CANCELLED } from '../vocabulary/cancellation.js'
import { attemptsCharged, budgetUsed } from '../vocabulary/charge.js'
import { guard, owned } from '../vocabulary/claimable.js'
import type { Db } from '../vocabulary/db.js'
import type { AckEntry, AckOutcome } from '../vocabulary/outcome.js'
import { prepared } from '../vocabulary/prepared.js'
import { rowArrays } from '../vocabulary/row-arrays.js'

/**
 * Records the outcomes of claims, one or many, in one statement. A claim that is no longer the task's changes nothing. A
 * task that another transaction has locked is waited for: this is for a transaction of the application, which has its own
 * order of locks and its own deadlines.
 *
 * @returns By id the status that was written; a stale claim's id is absent. A failure that used the last attempt is Killed.
 */
export async function ack(
  db: Db,
  queue: string,
  worker: string,
  entries: readonly AckEntry[],
): Promise<Map<string, string>> {
  return byId(await prepared(db, ackStatement).execute({ queue, worker, ...parameters(inLockOrder(entries)) }))
}

/**
 * As `ack`, but waits for nobody: a worker's other acknowledgements, claims and heartbeats would wait with it. The id of a
 * task that another transaction has locked is absent, too.
 */
export async function ackUnlessLocked(
  db: Db,
  queue: string,
  worker: string,
  entries: readonly AckEntry[],
): Promise<Map<string, string>> {
  return byId(await prepared(db, unlessLockedStatement).execute({ queue, worker, ...parameters(entries) }))
}

/** The order in which a cancellation locks tasks, too; otherwise each might wait for a task that the other has locked. */
function inLockOrder(entries: readonly AckEntry[]): readonly AckEntry[] {
  return entries.toSorted((a, b) => (a.fence.id < b.fence.id ? -1 : 1))
}

const claims = rowArrays('claim', {
  id: 'text',
  attempts: 'int',
  lock_at: 'bigint',
  outcome: 'text',
  result: 'text',
  delay_ms: 'float8',
  at_ms: 'float8',
  unlock: 'boolean',
})

const backToQueue = sql`claim.outcome = 'Pending'`
const unlocked = sql`(${backToQueue} or claim.unlock)`
/** Of the statement and not of the transaction, which may be one of the application that began long ago. */
const now = sql`statement_timestamp()`
const due = sql`coalesce('epoch'::timestamptz + claim.at_ms * interval '1 ms', ${now} + claim.delay_ms * interval '1 ms')`

function ackStatement(db: Db) {
  const written = db.$with('written').as(
    db
      .update(jobs)
      .set(outcome())
      .from(claims.source)
      // Postgres checks the fence again on a row that an earlier transaction has changed meanwhile.
      .where(and(sql`${jobs.id} = claim.id`, guard(isHeld())))
      .returning(WRITTEN),
  )
  return db
    .with(written)
    .select(idsByStatus(sql`status`, sql`id`))
    .from(written)
    .groupBy(sql`status`)
    .$withCache(false)
}

function unlessLockedStatement(db: Db) {
  const task = alias(jobs, 'task')
  const free = db.$with('claim').as(
    db
      .select({
        row: sql`${task}.ctid`.as('row'),
        outcome: sql`claim.outcome`.as('outcome'),
        result: sql`claim.result`.as('result'),
        delayMs: sql`claim.delay_ms`.as('delay_ms'),
        atMs: sql`claim.at_ms`.as('at_ms'),
        unlock: sql`claim.unlock`.as('unlock'),
      })
      .from(task)
      .innerJoin(claims.source, and(sql`${task.id} = claim.id`, guard(isHeld(task))))
      .for('no key update', { of: task, skipLocked: true }),
  )
  const written = db.$with('written').as(
    db
      .update(jobs)
      .set(outcome())
      .from(free)
      // Where the lock has found it, and nobody changes it meanwhile.
      .where(sql`${jobs}.ctid = claim.row`)
      .returning(WRITTEN),
  )
  return db
    .with(free, written)
    .select(idsByStatus(sql`status`, sql`id`))
    .from(written)
    .groupBy(sql`status`)
    .$withCache(false)
}

const WRITTEN = { id: jobs.id, status: sql<string>`${jobs.status}`.as('status'), announced: announced.as('announced') }

/** Each status with the ids that have it: driver and Drizzle take longer for a row than PostgreSQL for a hundred ids. */
function idsByStatus(status: SQLWrapper, id: SQLWrapper) {
  return { status: sql<string>`${status}`, ids: sql<string>`pg_catalog.json_agg(${id})::text` }
}

function byId(groups: readonly { readonly status: string; readonly ids: string }[]): Map<string, string> {
  const statuses = new Map<string, string>()
  for (const { status, ids } of groups) for (const id of JSON.parse(ids) as string[]) statuses.set(id, status)
  return statuses
}

function outcome() {
  return {
    status: sql`case when claim.outcome = 'Failed' and ${budgetUsed} then 'Killed' else claim.outcome end`,
    attempts: sql`case when ${backToQueue} then ${jobs.attempts} else ${attemptsCharged} end`,
    lastResult: sql`coalesce(claim.result::jsonb, ${jobs.lastResult})`,
    // Finished rows keep owner and lock time as history: an ack whose answer was lost is recognised by them.
    lockBy: sql`case when not ${unlocked} then ${jobs.lockBy} end`,
    lockAt: sql`case when not ${unlocked} then ${jobs.lockAt} end`,
    doneAt: sql`case when not ${backToQueue} then ${now} end`,
    runAt: nextRunAt(),
  }
}

/**
 * A task that returns uncharged could be claimed again by the same worker in the same second, and the new claim would
 * look like the old one. Due a second after the lock at the earliest, its next lock time differs.
 */
function nextRunAt(): SQL {
  return sql`case
    when ${backToQueue} then greatest(coalesce(${due}, ${jobs.runAt}), ${jobs.lockAt} + interval '1 second')
    when claim.outcome = 'Failed' and not (${budgetUsed}) then ${due}
    else ${jobs.runAt} end`
}

function parameters(entries: readonly AckEntry[]): Record<string, string | null> {
  const dues = entries.map(({ outcome }) => ('due' in outcome ? outcome.due : undefined))
  return claims.parameters({
    id: entries.map(({ fence }) => fence.id),
    attempts: entries.map(({ fence }) => fence.attempts),
    lock_at: entries.map(({ fence }) => fence.lockAt),
    outcome: entries.map(({ outcome }) => outcome.status),
    result: entries.map(({ outcome }) => resultOf(outcome)),
    delay_ms: dues.map((when) => (when !== undefined && 'delayMs' in when ? when.delayMs : null)),
    at_ms: dues.map((when) => (when !== undefined && 'atMs' in when ? when.atMs : null)),
    unlock: entries.map(({ outcome }) => outcome.status === 'Killed' && outcome.unlock === true),
  })
}

function resultOf(outcome: AckOutcome): string | null {
  return outcome.status === 'Pending' ? null : outcome.result
}

/**
 * What the rows say of claims: `Running` or `Queued` while they are held, and otherwise the status that an acknowledgement
 * of this very claim wrote, which only shows by the same owner and lock time with one attempt more. A claim that was lost
 * is absent, and so is one that went back to the queue: it leaves no history.
 *
 * @param entries - With the outcomes that may have been written. A claim may stand there several times.
 */
export async function statusOfClaims(
  db: Db,
  queue: string,
  worker: string,
  entries: readonly AckEntry[],
): Promise<Map<string, string>> {
  return byId(await prepared(db, statusStatement).execute({ queue, worker, ...parameters(entries) }))
}

function statusStatement(db: Db) {
  const asWritten = sql`(${jobs.status} = claim.outcome or (claim.outcome = 'Failed' and ${jobs.status} = 'Killed'))`
  // A cancellation writes almost the same.
  const cancelled = sql`${jobs.lastResult} is not distinct from ${CANCELLED}`
  const acknowledged = and(asWritten, sql`${jobs.attempts} = claim.attempts + 1`, not(cancelled))
  return db
    .select(idsByStatus(jobs.status, jobs.id))
    .from(jobs)
    .innerJoin(claims.source, sql`${jobs.id} = claim.id`)
    .where(guard(or(isHeld(), and(sameClaim(), acknowledged))))
    .groupBy(jobs.status)
    .$withCache(false)
}

/** The table itself or an alias of it. */
type Jobs = Record<'status' | 'attempts' | 'maxAttempts' | 'jobType' | 'lockBy' | 'lockAt', SQLWrapper>

function isHeld(table: Jobs = jobs): SQL | undefined {
  return and(owned(table), sameClaim(table), sql`${table.attempts} = claim.attempts`)
}

function sameClaim(table: Jobs = jobs): SQL | undefined {
  return and(
    eq(table.jobType, sql.placeholder('queue')),
    eq(table.lockBy, sql.placeholder('worker')),
    sql`${table.lockAt} = to_timestamp(claim.lock_at::float8)`,
  )
}
