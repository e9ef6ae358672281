import { and, eq, sql } from 'drizzle-orm'
import { jobs, workers } from '../schema.js'
import type { Db } from '../vocabulary/db.js'
import { prepared } from '../vocabulary/prepared.js'

export interface OwnerStanding {
  /** Of the task, where none was given; `undefined` when there is no such task. */
  readonly queue: string | undefined
  /**
   * Whether tasks can be locked for this name: `registered`. Otherwise why not: `missing`, `silent` when its row was not
   * renewed for so long that others take its tasks, `worker` when it is or was the name of one.
   */
  readonly standing: 'registered' | 'missing' | 'silent' | 'worker'
}

export interface OwnerQuestion {
  /** `undefined`: that of the task. */
  readonly queue: string | undefined
  readonly taskId?: string | undefined
  readonly worker: string
  readonly thresholdMs: number
}

/** Why `lockTasks` took nothing, as far as the worker is the reason. */
export async function ownerStanding(db: Db, question: OwnerQuestion): Promise<OwnerStanding> {
  const { queue = null, taskId = null } = question
  const [row] = await prepared(db, standingStatement).execute({ ...question, queue, taskId })
  return { queue: row?.queue ?? undefined, standing: row?.standing ?? 'missing' }
}

function standingStatement(db: Db) {
  const taskId = sql.placeholder('taskId')
  const ofTask = sql`(select ${jobs.jobType} from ${jobs} where ${jobs.id} = ${taskId}::text)`
  const asked = sql`(select coalesce(${sql.placeholder('queue')}::text, ${ofTask}) as queue) as asked`
  return db
    .select({
      queue: sql<string | null>`asked.queue`,
      standing: sql<OwnerStanding['standing']>`case
        when ${workers.id} is null then 'missing'
        when ${workers.leaseToken} is not null then 'worker'
        when ${workers.lastSeen} <= statement_timestamp() - ${sql.placeholder('thresholdMs')}::float8 * interval '1 ms' then 'silent'
        else 'registered' end`,
    })
    .from(asked)
    .leftJoin(workers, and(eq(workers.id, sql.placeholder('worker')), sql`${workers.workerType} = asked.queue`))
    .$withCache(false)
}
