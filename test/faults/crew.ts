/** Worker processes that a test kills, stops and freezes, and the counts by which it judges what became of their tasks. */
import { defineQueue, PostgresStorage, type PgDb, type WorkerEvent, type WorkerOptions } from 'apalis-drizzle'
import type { Sql } from 'postgres'
import { inject } from 'vitest'
import { startProgram, type Program } from '../support/program.js'
import { until } from '../support/until.js'

/** Heartbeats and thresholds as short as they may be, so that the dead are found soon. */
export const QUICK: WorkerOptions = { keepAliveMs: 200, reenqueueOrphanedAfterMs: 1_000, pollIntervalMs: 20 }

/** For tests whose length grows with the scale of the run. */
export const LONG_MS = 150_000 * inject('scale')

/** The counts of a run, for docs/guarantees.md. */
export function tell(counts: string): void {
  if (inject('scale') > 1) console.info(counts)
}

export interface Member extends Program {
  /** As it registered. */
  readonly name: string
  /** The next event of the type that no earlier call has returned. */
  next(type: WorkerEvent['type']): Promise<Record<string, unknown>>
  /** Ends it with SIGKILL. */
  kill(): Promise<void>
  /** Ends it with SIGTERM and expects it to end well. */
  stop(): Promise<void>
}

/** A database, and a way to look at it that the faults do not touch. */
export interface Site {
  readonly url: string
  readonly db: PgDb
  readonly sql: Sql
}

export interface FinishedTask {
  readonly id: string
  readonly status: string
  readonly attempts: number
  readonly runs: number
  readonly effects: number
}

export interface Crew {
  readonly queue: string
  start(options?: WorkerOptions): Promise<Member>
  /** Stores tasks that take the given milliseconds each. */
  push(count: number, ms: number, maxAttempts?: number): Promise<void>
  finished(): Promise<number>
  untilFinished(count: number, timeoutMs?: number): Promise<void>
  /** So many executions have begun. */
  untilStarted(count: number): Promise<void>
  /** What the worker of this name holds by the database's account. */
  openClaims(worker: string): Promise<number>
  tasks(): Promise<FinishedTask[]>
}

/** Where the executions of tasks, and the effects of those that complete them in a transaction, leave their rows. */
export async function createRuns({ sql }: Pick<Site, 'sql'>): Promise<void> {
  await sql`
    create table if not exists runs (execution uuid primary key, task text not null, attempt int not null, process int not null,
      started_at timestamptz not null default clock_timestamp())`
  await sql`create table if not exists effects (task text not null)`
  await sql`create index if not exists runs_of on runs (task)`
  await sql`create index if not exists effects_of on effects (task)`
}

export interface CrewOptions {
  /** Where its processes connect, if not to the server itself. */
  readonly url?: string
  /** Whether its handlers complete their tasks in a transaction that leaves an effect. */
  readonly effects?: boolean
}

export function crew(database: Site, queue: string, { url, effects = false }: CrewOptions = {}): Crew {
  const self: Crew = {
    queue,
    start: async (options = {}) => {
      const settings = { ...QUICK, ...options }
      const program = startProgram('fault-worker', {
        DATABASE_URL: url ?? database.url,
        QUEUE: queue,
        OPTIONS: JSON.stringify(settings),
        ...(effects ? { EFFECTS: 'yes' } : {}),
      })
      return member(program)
    },
    push: async (count, ms, maxAttempts = 25) => {
      const tasks = defineQueue<number>(queue, { maxAttempts })
      const storage = new PostgresStorage(database.db, tasks)
      await storage.pushAll(Array.from({ length: count }, () => tasks.task(ms)))
    },
    finished: async () => {
      const [row] = await database.sql<{ n: number }[]>`
        select count(*)::int as n from apalis.jobs where job_type = ${queue} and status in ('Done', 'Killed')`
      return row!.n
    },
    untilFinished: (count, timeoutMs = 60_000) =>
      until(async () => (await self.finished()) >= count, `${count} tasks are finished`, timeoutMs),
    untilStarted: (count) =>
      until(
        async () => {
          const [row] = await database.sql<{ n: number }[]>`
          select count(*)::int as n from runs join apalis.jobs on task = id where job_type = ${queue}`
          return row!.n >= count
        },
        `${count} executions have begun`,
        60_000,
      ),
    openClaims: async (worker) => {
      const [row] = await database.sql<{ n: number }[]>`
        select count(*)::int as n from apalis.jobs
        where job_type = ${queue} and lock_by = ${worker} and status in ('Running', 'Queued')`
      return row!.n
    },
    tasks: () => database.sql<FinishedTask[]>`
      select id, status, attempts, (select count(*)::int from runs where task = id) as runs,
        (select count(*)::int from effects where task = id) as effects
      from apalis.jobs where job_type = ${queue} order by id`,
  }
  return self
}

async function member(program: Program): Promise<Member> {
  const passed: Record<string, unknown>[] = []
  const next: Member['next'] = async (type) => {
    const known = passed.findIndex((event) => event['type'] === type)
    if (known !== -1) return passed.splice(known, 1)[0]!
    for (;;) {
      const event = JSON.parse(await program.nextLine()) as Record<string, unknown>
      if (event['type'] === type) return event
      passed.push(event)
    }
  }
  const started = await next('worker.started')
  const end = async (signal: NodeJS.Signals) => {
    program.child.kill(signal)
    return (await program.ended).end
  }
  return {
    ...program,
    name: String(started['worker']),
    next,
    kill: async () => {
      await end('SIGKILL')
    },
    stop: async () => {
      const how = await end('SIGTERM')
      if (how !== 0)
        throw new Error(
          `The worker ended with ${how}.\n${program.lines.slice(-4).join('\n')}${(await program.ended).errors}`,
        )
    },
  }
}
