import { sql as raw } from 'drizzle-orm'
import { describe, expect, it } from 'vitest'
import { useDatabase } from './database.js'

describe('useDatabase', () => {
  const database = useDatabase()

  it('gives a migrated database that Drizzle and the plain client share', async () => {
    await database.db.execute(raw`create table shared (id int)`)
    await database.sql`insert into shared values (1)`
    expect(await database.client`select id from shared`).toEqual([{ id: 1 }])
    expect(await database.sql`select count(*)::int as tasks from apalis.jobs`).toEqual([{ tasks: 0 }])
  })

  it('opens further pools on the same database', async () => {
    const { client, db } = database.connect({ connection: { application_name: 'second' } })
    const [row] = await client`select current_database() as database, current_setting('application_name') as name`
    expect(row).toEqual({ database: new URL(database.url).pathname.slice(1), name: 'second' })
    expect(await db.execute(raw`select 1 as one`)).toHaveLength(1)
  })
})

describe('useDatabase without migrations', () => {
  const database = useDatabase({ migrated: false })

  it('gives an empty database of its own', async () => {
    expect(await database.sql`select to_regnamespace('apalis') as apalis, to_regclass('shared') as shared`).toEqual([
      { apalis: null, shared: null },
    ])
  })
})
