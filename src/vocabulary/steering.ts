/**
 * The form that all steering statements have. One statement locks the tasks, changes those that it may change, and tells
 * of each task how it found it.
 *
 * - It locks before it decides. A task that another transaction holds is judged as that transaction leaves it, and stays so.
 *   A condition on the updated row itself would be asked of the row before, too, as the statement's snapshot shows it.
 * - It locks in the order of the ids, as acknowledgements and other steering do, so that none waits for the other in a circle.
 */
import { and, eq, or, sql, type SQL, type SQLWrapper } from 'drizzle-orm'
import { jobs } from '../schema.js'
import { arrayLiteral } from './array-literal.js'
import { guard } from './claimable.js'
import type { Db } from './db.js'
import { ENDED, OWNED } from './index-conditions.js'
import type { Status } from './row.js'
import type { CheckedSelection } from './selection.js'

export interface Steering {
  readonly selection: CheckedSelection
  /**
   * How long to wait for a task that another transaction holds, as Postgres writes it; `''` for as long as the session
   * does, because in the caller's transaction nothing may be set.
   */
  readonly lockTimeout: '2s' | ''
}

/** What one kind of steering does. */
export interface SteeringRule {
  /** The statuses of tasks that it can change. */
  readonly statuses: readonly Status[]
  /** Those that are meant when a queue is given without a status. Default: all of them. */
  readonly unlessSaid?: readonly Status[]
  /** Which tasks it changes. */
  readonly accepts: SQL
  /** An UPDATE or DELETE of those that are `ACCEPTED`, which returns `changedId`. */
  readonly change: (db: Db) => SQLWrapper
  /** Evaluated for each task that was changed, with what the task was before. */
  readonly tell?: (found: Found) => SQL
}

export type Found = ReturnType<typeof lockedTasks>
type Statement = (db: Db) => ReturnType<typeof steeringStatement>

/** The statements of one kind of steering. Made once, because a prepared statement is known by the function that builds it. */
export interface SteeringStatements {
  readonly ofIds: Statement
  readonly ofQueue: Statement
  readonly ofStatus: ReadonlyMap<Status, Statement>
}

export function steeringStatements(rule: SteeringRule): SteeringStatements {
  const { statuses, unlessSaid = statuses, accepts } = rule
  const statement =
    (chosen: SQL | undefined): Statement =>
    (db) =>
      steeringStatement(db, chosen, rule)
  const inQueue = (...chosen: readonly Status[]) =>
    and(eq(jobs.jobType, sql.placeholder('queue')), or(...chosen.map((status) => AS_INDEXED[status])), guard(accepts))
  return {
    ofIds: statement(sql`${jobs.id} = any (${sql.placeholder('ids')}::text[])`),
    ofQueue: statement(inQueue(...unlessSaid)),
    ofStatus: new Map(statuses.map((status) => [status, statement(inQueue(status))])),
  }
}

export function statementFor(statements: SteeringStatements, { selection }: Steering): Statement {
  if ('ids' in selection) return statements.ofIds
  if (selection.status === undefined) return statements.ofQueue
  return statements.ofStatus.get(selection.status)!
}

export function steeringParameters({ selection, lockTimeout }: Steering): Record<string, string> {
  return 'ids' in selection
    ? { lockTimeout, ids: arrayLiteral(selection.ids) }
    : { lockTimeout, queue: selection.queue }
}

/** The tasks of a status, in the words of the index that holds them. */
const AS_INDEXED: Record<Status, SQL | undefined> = {
  Pending: sql`${jobs.status} = 'Pending'`,
  Queued: and(OWNED, sql`${jobs.status} = 'Queued'`),
  Running: and(OWNED, sql`${jobs.status} = 'Running'`),
  Done: and(ENDED, sql`${jobs.status} = 'Done'`),
  Failed: sql`${jobs.status} = 'Failed'`,
  Killed: sql`${jobs.status} = 'Killed'`,
}

function steeringStatement(db: Db, chosen: SQL | undefined, { accepts, change, tell }: SteeringRule) {
  const found = lockedTasks(db, chosen, accepts)
  const changed = db.$with('changed', { id: sql<string>`changed_id`.as('changed_id') }).as(change(db).getSQL())
  const isChanged = sql<boolean>`(${changed.id} is not null)`
  return db
    .with(found, changed)
    .select({
      id: found.id,
      status: sql<string>`${found.status}`,
      attempts: found.attempts,
      maxAttempts: found.maxAttempts,
      changed: isChanged,
      told: sql<string | null>`case when ${isChanged} then ${tell?.(found) ?? sql`null`} end`,
    })
    .from(found)
    .leftJoin(changed, eq(changed.id, found.id))
    .$withCache(false)
}

function lockedTasks(db: Db, chosen: SQL | undefined, accepts: SQL) {
  return db.$with('found').as(
    db
      .select({
        id: jobs.id,
        queue: jobs.jobType,
        status: jobs.status,
        attempts: jobs.attempts,
        maxAttempts: jobs.maxAttempts,
        lockBy: jobs.lockBy,
        accepted: sql<boolean>`${accepts}`.as('accepted'),
      })
      .from(jobs)
      .where(and(chosen, LOCK_TIMEOUT))
      .orderBy(jobs.id)
      .for('update'),
  )
}

/** An uncorrelated subquery runs once, before the first row is locked. What it sets ends with the statement. */
const LOCK_TIMEOUT = sql`(select case when ${sql.placeholder('lockTimeout')}::text = '' then ''
  else set_config('lock_timeout', ${sql.placeholder('lockTimeout')}::text, true) end) is not null`

/**
 * For the WHERE of a change. As an array, so that the planner looks each task up by the primary key, and does not read the
 * whole table for a few thousand.
 */
export const ACCEPTED = sql`${jobs.id} = any (array(select id from found where accepted))`

/** For the RETURNING of a change. */
export const changedId = sql<string>`${jobs.id}`.as('changed_id')
