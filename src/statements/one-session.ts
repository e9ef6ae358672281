/** One connection for several statements that must not be in a transaction, on any driver. */
import { sql } from 'drizzle-orm'
import type { Db } from '../vocabulary/db.js'

/**
 * Drizzle hands out a connection of its own only together with a transaction. So the transaction is ended at once, and a
 * new one begun at the end, for the driver to commit or roll back.
 */
export async function onOneSession<Result>(db: Db, run: (session: Db) => Promise<Result>): Promise<Result> {
  return db.transaction(async (session) => {
    await session.execute(sql`commit`)
    try {
      return await run(session)
    } finally {
      await session.execute(sql`begin`)
    }
  })
}

/** Sets configuration parameters for `run` and puts them back afterwards: the connection returns to the application's pool. */
export async function withSettings<Result>(
  session: Db,
  settings: Readonly<Record<string, string>>,
  run: () => Promise<Result>,
): Promise<Result> {
  const before = await currentSettings(session, Object.keys(settings))
  try {
    await applySettings(session, settings)
    return await run()
  } finally {
    await applySettings(session, before)
  }
}

async function currentSettings(session: Db, names: readonly string[]): Promise<Record<string, string>> {
  const columns = Object.fromEntries(names.map((name) => [name, sql<string>`current_setting(${name})`]))
  const [row] = await session
    .select(columns)
    .from(sql`(values (1)) as one (row)`)
    .$withCache(false)
  return row ?? {}
}

async function applySettings(session: Db, settings: Readonly<Record<string, string>>): Promise<void> {
  const calls = Object.entries(settings).map(([name, value]) => sql`set_config(${name}, ${value}, false)`)
  await session.execute(sql`select ${sql.join(calls, sql`, `)}`)
}
