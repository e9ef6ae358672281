/** Transactions and locks that a test holds open in a session of its own. */
import type { ReservedSql, Sql } from 'postgres'
import { until } from './until.js'

export interface Held {
  readonly pid: number
  readonly session: ReservedSql
  /** Ends it; more than once does no harm. */
  release(): Promise<void>
}

/** Opens a transaction, runs the statements in it and keeps it open. */
export async function hold(sql: Sql, ...statements: string[]): Promise<Held> {
  const session = await sql.reserve()
  await session.unsafe('begin')
  for (const statement of statements) await session.unsafe(statement)
  const [row] = await session<{ pid: number }[]>`select pg_backend_pid() as pid`
  let open = true
  const release = async () => {
    if (!open) return
    open = false
    await session.unsafe('rollback')
    session.release()
  }
  return { pid: row?.pid ?? 0, session, release }
}

/** Resolves when `count` sessions wait for what `held` holds. */
export async function waitingFor(sql: Sql, held: Pick<Held, 'pid'>, count = 1): Promise<void> {
  await until(async () => {
    const [row] = await sql<{ waiting: number }[]>`
        select count(*)::int as waiting from pg_stat_activity where ${held.pid} = any (pg_blocking_pids(pid))`
    return (row?.waiting ?? 0) >= count
  }, `${count} sessions wait for session ${held.pid}`)
}
