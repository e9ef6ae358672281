import type { Sql } from 'postgres'
import { until } from './until.js'

const CHANNEL = 'apalis::job::insert'

/** What is announced of the statements in `run`, in order. */
export async function announcements(sql: Sql, run: () => Promise<unknown>, channel = CHANNEL): Promise<string[]> {
  const payloads: string[] = []
  const { unlisten } = await sql.listen(channel, (payload) => payloads.push(payload))
  await run()
  // Notifications arrive in the order of the commits: with this one here, all are.
  await sql.notify(channel, 'end')
  await until(async () => payloads.at(-1) === 'end', 'the last notification arrives')
  await unlisten()
  return payloads.slice(0, -1)
}
