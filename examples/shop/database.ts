/** A database for one run of the shop, on a server that may be somebody's: nothing else there is touched. */
import { randomBytes } from 'node:crypto'
import type { TxOf } from 'apalis-drizzle'
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'

export type ShopDb = PostgresJsDatabase
export type ShopTx = TxOf<ShopDb>

export interface ShopDatabase {
  readonly db: ShopDb
  readonly name: string
  drop(): Promise<void>
}

export async function createDatabase(serverUrl: string): Promise<ShopDatabase> {
  const name = `shop_${randomBytes(6).toString('hex')}`
  const server = postgres(serverUrl, { max: 1, onnotice: () => undefined })
  try {
    await server`create database ${server(name)} template template0`
  } catch (cause) {
    await server.end()
    throw new Error(
      'The demo needs a database of its own: let the role of DATABASE_URL create one, or unset DATABASE_URL.',
      { cause },
    )
  }
  const client = postgres(serverUrl, { database: name, max: 10, onnotice: () => undefined })
  return {
    db: drizzle({ client }),
    name,
    async drop() {
      await client.end({ timeout: 5 })
      await server`drop database ${server(name)} with (force)`
      await server.end()
    },
  }
}
