import { jobs } from '../schema.js'
import type { Db } from '../vocabulary/db.js'
import { prepared } from '../vocabulary/prepared.js'
import { IN_SCOPE, METRICS, statisticColumns, statistics, type Statistic } from '../vocabulary/statistics.js'

/** The statistics of a queue, or of all together; zeros where there is no task. Reads the whole table. */
export async function metrics(db: Db, queue: string | undefined): Promise<Statistic[]> {
  const [row = {}] = await prepared(db, metricsStatement).execute({ queue: queue ?? null })
  return statistics(METRICS, row)
}

const metricsStatement = (db: Db) => db.select(statisticColumns(METRICS)).from(jobs).where(IN_SCOPE).$withCache(false)
