import type { Sql } from 'postgres'
import { until } from './until.js'

/** Silence of a worker counts from the start of the server, which in a test run may have been a moment ago. */
export async function serverHasRunForASecond(sql: Sql): Promise<void> {
  await until(async () => (await uptimeMs(sql)) > 1_000, 'the server has run for a second')
}

export async function uptimeMs(sql: Sql): Promise<number> {
  const [row] = await sql<{ ms: number }[]>`
    select (extract(epoch from now() - pg_postmaster_start_time()) * 1000)::float8 as ms`
  return row?.ms ?? 0
}
