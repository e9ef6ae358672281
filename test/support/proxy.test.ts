import postgres from 'postgres'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { useDatabase } from './database.js'
import { startProxy, type PostgresProxy } from './proxy.js'

describe('proxy', () => {
  const database = useDatabase({ migrated: false })
  let proxy: PostgresProxy
  let client: postgres.Sql

  beforeEach(async () => {
    await database.sql`create table if not exists notes (note text)`
    await database.sql`truncate notes`
    proxy = await startProxy(database.url)
    client = postgres(proxy.url, { max: 1, fetch_types: false })
    await client`select 1`
  })

  afterEach(async () => {
    await client.end({ timeout: 0 })
    await proxy.stop()
  })

  const notes = async () => (await database.sql`select note from notes order by note`).map(({ note }) => note as string)

  async function turnsOf(run: () => PromiseLike<unknown>): Promise<number> {
    const before = proxy.turns
    await run()
    return proxy.turns - before
  }

  it('counts round trips', async () => {
    expect(await turnsOf(() => client.unsafe('select 1'))).toBe(1)
    expect(await turnsOf(() => client.begin((tx) => tx.unsafe('select 1')))).toBe(3)
    expect(await turnsOf(() => client.unsafe('select $1::int', [1]))).toBe(2)
  })

  it('cuts connections; new ones work', async () => {
    const sleeping = client`select pg_sleep(60)`.execute()
    const cut = expect(sleeping).rejects.toMatchObject({ code: 'CONNECTION_CLOSED' })
    await untilActive('pg_sleep')
    proxy.cut()
    await cut
    expect(await client`select 1 as one`).toEqual([{ one: 1 }])
  })

  it.each([
    ['a parameter', () => client`insert into notes values (${'lost'})`],
    ['a parameter of a prepared statement', () => insertPrepared()],
    ['the text', () => client.unsafe(`insert into notes values ('lost')`)],
  ])('loses the answer to a message with the text in %s', async (_where, run) => {
    const lost = proxy.loseAnswer('lost')
    await expect(run()).rejects.toMatchObject({ code: 'CONNECTION_CLOSED' })
    await lost
    expect(await notes()).toEqual(['lost'])
    await client`insert into notes values ('kept')`
    expect(await notes()).toContain('kept')
  })

  it('loses the answer to a commit', async () => {
    const lost = proxy.loseAnswer('commit')
    const committed = client.begin((tx) => tx`insert into notes values ('stored')`)
    await expect(committed).rejects.toMatchObject({ code: 'CONNECTION_CLOSED' })
    await lost
    expect(await notes()).toEqual(['stored'])
  })

  async function insertPrepared() {
    const insert = (note: string) => client.unsafe('insert into notes values ($1)', [note], { prepare: true })
    await insert('kept')
    await database.sql`truncate notes`
    await insert('lost')
  }

  it('loses no other answer on the way', async () => {
    const answered = client`insert into notes values ('first'), ('second') returning note`.execute()
    const lost = proxy.loseAnswer('lost')
    const unanswered = expect(client`insert into notes values ('lost')`).rejects.toMatchObject({
      code: 'CONNECTION_CLOSED',
    })
    expect(await answered).toHaveLength(2)
    await unanswered
    await lost
    expect(await notes()).toEqual(['first', 'lost', 'second'])
  })

  it('swallows silently until restored', async () => {
    proxy.swallow()
    const unanswered = client`insert into notes values ('swallowed')`.execute()
    const closed = expect(unanswered).rejects.toMatchObject({ code: 'CONNECTION_CLOSED' })
    const direct = postgres(database.url, { max: 1 })
    expect(await direct`select 1 as one`).toEqual([{ one: 1 }])
    await direct.end()
    proxy.restore()
    await closed
    await client`insert into notes values ('arrived')`
    expect(await notes()).toEqual(['arrived'])
  })

  /** Resolves when the server runs a statement with this text. */
  async function untilActive(text: string): Promise<void> {
    await expect
      .poll(
        () => database.sql`select 1 from pg_stat_activity where query like ${`%${text}%`} and pid <> pg_backend_pid()`,
      )
      .toHaveLength(1)
  }
})
