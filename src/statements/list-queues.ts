import { asc, eq, sql, type SQL, type SQLWrapper } from 'drizzle-orm'
import { jobs, workers } from '../schema.js'
import type { Db } from '../vocabulary/db.js'
import { OWNED } from '../vocabulary/index-conditions.js'
import { prepared } from '../vocabulary/prepared.js'
import type { QueueInfo } from '../vocabulary/queue-info.js'
import { PAST_WEEK, QUEUE_STATISTICS, statisticColumns, statistics } from '../vocabulary/statistics.js'

/** Every queue that has a task or a worker, by name. Reads the whole table. */
export async function listQueues(db: Db): Promise<QueueInfo[]> {
  const rows = await prepared(db, listStatement).execute()
  return rows.map(({ name, workers, activity, ...values }) => ({
    name,
    statistics: statistics(QUEUE_STATISTICS, values),
    workers: JSON.parse(workers ?? '[]') as string[],
    activity: JSON.parse(activity ?? '[]') as number[],
  }))
}

function listStatement(db: Db) {
  const counted = db
    .select({ queue: jobs.jobType, ...statisticColumns(QUEUE_STATISTICS) })
    .from(jobs)
    .groupBy(jobs.jobType)
    .as('counted')
  const registered = db.selectDistinct({ queue: workers.workerType }).from(workers).as('registered')
  const owners = db.selectDistinct({ queue: jobs.jobType, name: jobs.lockBy }).from(jobs).where(OWNED).as('owner')
  const days = db
    .select({ queue: jobs.jobType, day: DAY.as('day'), tasks: sql<number>`count(*)`.as('tasks') })
    .from(jobs)
    .where(PAST_WEEK)
    .groupBy(jobs.jobType, DAY)
    .as('days')
  const active = db
    .select({ queue: owners.queue, names: list(owners.name, owners.name).as('names') })
    .from(owners)
    .groupBy(owners.queue)
    .as('active')
  const activity = db
    .select({ queue: days.queue, tasks: list(days.tasks, days.day).as('tasks') })
    .from(days)
    .groupBy(days.queue)
    .as('activity')
  const name = sql<string>`coalesce(${counted.queue}, ${registered.queue})`
  const { queue: _, ...values } = counted._.selectedFields
  return db
    .select({ name, ...values, workers: active.names, activity: activity.tasks })
    .from(counted)
    .fullJoin(registered, eq(registered.queue, counted.queue))
    .leftJoin(active, sql`${active.queue} = ${name}`)
    .leftJoin(activity, sql`${activity.queue} = ${name}`)
    .orderBy(asc(name))
    .$withCache(false)
}

/** By the time zone of the session, as the Rust crates count days. */
const DAY = sql<string>`${jobs.runAt}::date`

/** As text, because a driver may rename what it finds in JSON. */
function list(value: SQLWrapper, order: SQLWrapper): SQL<string> {
  return sql<string>`pg_catalog.json_agg(${value} order by ${order})::text`
}
