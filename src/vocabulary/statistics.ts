/**
 * The statistics of dashboards: titles, types, priorities and meanings of the Rust crates. Counts per period go by
 * `run_at`, for want of a time of creation, and unlike there a task of the future belongs to no past period. What is said
 * of running tasks counts from their claim.
 */
import { sql, type SQL, type SQLWrapper } from 'drizzle-orm'
import { jobs } from '../schema.js'

export interface Statistic {
  readonly title: string
  readonly type: 'Number' | 'Decimal' | 'Percentage' | 'Timestamp'
  /** Exact. `0` where there is nothing to count or to measure. */
  readonly value: string
  /** Place on a dashboard, the lowest first. */
  readonly priority: number
}

type Definition = readonly [priority: number, type: Statistic['type'], title: string, formula: SQL]

const { status, runAt, lockAt, doneAt } = jobs

const isStatus = (...statuses: string[]) =>
  sql`${status} in (${sql.raw(statuses.map((name) => `'${name}'`).join(', '))})`
const finite = (time: SQLWrapper) => sql`isfinite(${time})`
const epoch = (time: SQLWrapper) => sql`extract(epoch from ${time})`
const past = (period: string) => sql`${runAt} between now() - ${sql.raw(`interval '${period}'`)} and now()`

const PENDING = isStatus('Pending')
const RUNNING = isStatus('Running')
const DONE = isStatus('Done')
const FAILED = isStatus('Failed')
const KILLED = isStatus('Killed')
const COMPLETED = isStatus('Done', 'Failed', 'Killed')
const TODAY = sql`${runAt}::date = current_date`
export const PAST_WEEK = past('7 days')
const DUE = sql`${runAt} <= now()`
/** After a failure `run_at` is the time of the next run; the one that ended had another. */
const MEASURED = sql`${COMPLETED} and ${runAt} <= ${doneAt} and ${finite(runAt)} and ${finite(doneAt)}`

const all = sql`count(*)`
const count = (condition: SQL) => sql`count(*) filter (where ${condition})`
const decimal = (value: SQL) => sql`trim_scale(round(${value}, 2))`
const percentage = (part: SQL, whole: SQL) => decimal(sql`100.0 * ${part}::numeric / nullif(${whole}, 0)::numeric`)
const perPeriod = (tasks: SQL, periods: number) => decimal(sql`${tasks}::numeric / ${sql.raw(`${periods}.0`)}`)
const seconds = (time: SQL) => sql`floor(${epoch(time)})`

/** What `list_queues` of the Rust crates and `metrics` share. */
const SHARED: readonly Definition[] = [
  [1, 'Number', 'PENDING_JOBS', count(PENDING)],
  [1, 'Number', 'RUNNING_JOBS', count(RUNNING)],
  [2, 'Number', 'ACTIVE_JOBS', count(isStatus('Pending', 'Queued', 'Running'))],
  [2, 'Percentage', 'KILL_RATE', percentage(count(KILLED), all)],
  [2, 'Number', 'STALE_RUNNING_JOBS', count(sql`${RUNNING} and ${lockAt} < now() - interval '1 hour'`)],
  [3, 'Decimal', 'AVG_JOBS_PER_MINUTE_PAST_HOUR', perPeriod(count(past('1 hour')), 60)],
  [3, 'Number', 'JOBS_PAST_HOUR', count(past('1 hour'))],
  [3, 'Number', 'JOBS_TODAY', count(TODAY)],
  [3, 'Number', 'KILLED_JOBS_TODAY', count(sql`${KILLED} and ${TODAY}`)],
  [4, 'Number', 'DONE_JOBS', count(DONE)],
  [4, 'Number', 'KILLED_JOBS', count(KILLED)],
  [4, 'Percentage', 'SUCCESS_RATE', percentage(count(DONE), all)],
  [4, 'Number', 'TOTAL_JOBS', all],
  [
    5,
    'Decimal',
    'AVG_JOB_DURATION_MINS',
    decimal(sql`${epoch(sql`avg(${doneAt} - ${runAt}) filter (where ${MEASURED})`)} / 60.0`),
  ],
  [
    5,
    'Decimal',
    'LONGEST_RUNNING_JOB_MINS',
    decimal(sql`greatest(max(${epoch(sql`now()`)} - ${epoch(lockAt)}) filter (where ${RUNNING}), 0) / 60.0`),
  ],
  [6, 'Number', 'JOBS_PAST_7_DAYS', count(PAST_WEEK)],
]

const MOST_RECENT = sql`max(${runAt}) filter (where ${DUE})`

/** Of each queue in the list of queues. */
export const QUEUE_STATISTICS: readonly Definition[] = ordered([
  ...SHARED,
  [1, 'Number', 'FAILED_JOBS', count(FAILED)],
  [8, 'Timestamp', 'MOST_RECENT_JOB', sql`to_char(${MOST_RECENT} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`],
])

/** The tasks that `METRICS` speak of: those of the queue that is bound, or with null of all. */
export const IN_SCOPE = sql`(${sql.placeholder('queue')}::text is null or ${jobs.jobType} = ${sql.placeholder('queue')})`

const PAGE_SIZE = sql`current_setting('block_size')::bigint`
const SIZE = sql`pg_total_relation_size('apalis.jobs'::regclass)`
const PAST_DAY = past('24 hours')
const HOURS = sql`select count(*) as tasks from ${jobs} where ${IN_SCOPE} and ${PAST_DAY} group by extract(hour from ${runAt})`

/** Of one queue or all. */
export const METRICS: readonly Definition[] = ordered([
  ...SHARED,
  [2, 'Number', 'FAILED_JOBS', count(FAILED)],
  [4, 'Number', 'COMPLETED_JOBS', count(COMPLETED)],
  [5, 'Number', 'QUEUE_BACKLOG', count(sql`${PENDING} and ${DUE}`)],
  [6, 'Number', 'JOBS_PAST_24_HOURS', count(PAST_DAY)],
  [6, 'Number', 'KILLED_JOBS_PAST_7_DAYS', count(sql`${KILLED} and ${PAST_WEEK}`)],
  [6, 'Percentage', 'SUCCESS_RATE_PAST_24H', percentage(count(sql`${DONE} and ${PAST_DAY}`), count(PAST_DAY))],
  [7, 'Decimal', 'AVG_JOBS_PER_DAY_PAST_7D', perPeriod(count(PAST_WEEK), 7)],
  [7, 'Decimal', 'AVG_JOBS_PER_HOUR_PAST_24H', perPeriod(count(PAST_DAY), 24)],
  [8, 'Timestamp', 'MOST_RECENT_JOB', seconds(MOST_RECENT)],
  [8, 'Timestamp', 'OLDEST_PENDING_JOB', seconds(sql`min(${runAt}) filter (where ${PENDING} and ${DUE})`)],
  [8, 'Number', 'PEAK_HOUR_JOBS', sql`(select max(tasks) from (${HOURS}) hour)`],
  [9, 'Number', 'DB_PAGE_COUNT', sql`${SIZE} / ${PAGE_SIZE}`],
  [9, 'Number', 'DB_PAGE_SIZE', PAGE_SIZE],
  [9, 'Number', 'DB_SIZE', SIZE],
])

/** The values as text, by title: a driver would round or rename numbers of Postgres. */
export function statisticColumns(definitions: readonly Definition[]): Record<string, SQL.Aliased<string | null>> {
  return Object.fromEntries(
    definitions.map(([, , title, formula]) => [title, sql<string | null>`(${formula})::text`.as(title)]),
  )
}

export function statistics(definitions: readonly Definition[], values: Readonly<Record<string, unknown>>): Statistic[] {
  return definitions.map(([priority, type, title]) => ({
    title,
    type,
    value: (values[title] as string | null) ?? '0',
    priority,
  }))
}

/** By priority, then by title. */
function ordered(definitions: Definition[]): Definition[] {
  return definitions.sort((a, b) => a[0] - b[0] || (a[2] < b[2] ? -1 : 1))
}
