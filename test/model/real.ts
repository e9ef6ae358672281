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

  /**
   * Makes a schema in whose sessions time stands still within a transaction for whatever reads a clock, so that a statement
   * happens at an instant that is known. PostgreSQL prefers what stands first in the `search_path`.
   */
  static async stopClock(sql: Sql): Promise<void> {
    await sql`create schema still`
    for (const clock of ['statement_timestamp', 'clock_timestamp']) {
      await sql`create function still.${sql(clock)}() returns timestamptz language sql stable as 'select pg_catalog.now()'`
    }
  }

  /** Runs a statement at an instant. */
  async at<T>(statement: (db: Db, now: number) => Promise<T>): Promise<T> {
    let result: T
    await this.inTx(async (db, now) => {
      result = await statement(db, now)
      return 'commit'
    })
    return result!
  }

  /** Runs statements at an instant, and ends their transaction as they say. */
  async inTx(statements: (db: Db, now: number) => Promise<'commit' | 'rollback'>): Promise<void> {
    await this.sql`begin`
    let end: 'commit' | 'rollback' = 'rollback'
    try {
      end = await statements(this.db, await this.now())
    } finally {
      await this.sql.unsafe(end)
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
