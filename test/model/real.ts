/** The database under test, seen through one connection. */
import type { Sql } from 'postgres'
import type { Db } from '../../src/vocabulary/db.js'
import type { Model } from './model.js'

export interface RealTask {
  readonly id: string
  readonly status: string
  readonly attempts: number
  readonly maxAttempts: number
  readonly priority: number
  readonly runAt: number
  readonly lockBy: string | null
  readonly lockAt: number | null
  readonly doneAt: number | null
  readonly result: 'Ok' | 'Err' | null
}

export interface RealWorker {
  readonly name: string
  readonly token: string | null
  readonly lastSeen: number
}

export class Real {
  constructor(
    private readonly sql: Sql,
    private readonly db: Db,
  ) {}

  /** Runs a statement at an instant that is known: within a transaction the server's now() stands still. */
  async at<T>(statement: (db: Db, now: number) => Promise<T>): Promise<T> {
    await this.sql`begin`
    try {
      const result = await statement(this.db, await this.now())
      await this.sql`commit`
      return result
    } catch (error) {
      await this.sql`rollback`
      throw error
    }
  }

  async tasks(queue: string): Promise<RealTask[]> {
    return this.sql<RealTask[]>`
      select id, status, attempts, max_attempts as "maxAttempts", priority, lock_by as "lockBy",
        (extract(epoch from run_at) * 1000000)::float8 as "runAt", (extract(epoch from lock_at) * 1000000)::float8 as "lockAt",
        (extract(epoch from done_at) * 1000000)::float8 as "doneAt",
        (select string_agg(key, ',') from jsonb_object_keys(last_result) as key) as result
      from apalis.jobs where job_type = ${queue} order by id`
  }

  async workers(queue: string): Promise<RealWorker[]> {
    return this.sql<RealWorker[]>`
      select id as name, lease_token as token, (extract(epoch from last_seen) * 1000000)::float8 as "lastSeen"
      from apalis.workers where worker_type = ${queue} order by id`
  }

  /** Lets time pass without waiting: whatever was written becomes older. */
  async age(model: Model, seconds: number): Promise<void> {
    const interval = `${seconds} seconds`
    await this.sql`
      with beats as (update apalis.workers set last_seen = last_seen - ${interval}::interval where worker_type = ${model.queue})
      update apalis.jobs set run_at = run_at - ${interval}::interval, lock_at = lock_at - ${interval}::interval,
        done_at = done_at - ${interval}::interval
      where job_type = ${model.queue}`
  }

  async serverStartedAt(): Promise<number> {
    const [row] = await this.sql<{ at: number }[]>`
      select (extract(epoch from pg_postmaster_start_time()) * 1000000)::float8 as at`
    return row!.at
  }

  async clear(queue: string): Promise<void> {
    await this.sql`delete from apalis.jobs where job_type = ${queue}`
    await this.sql`delete from apalis.workers where worker_type = ${queue}`
  }

  private async now(): Promise<number> {
    const [row] = await this.sql<{ now: number }[]>`select (extract(epoch from now()) * 1000000)::float8 as now`
    return row!.now
  }
}
