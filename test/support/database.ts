/** A database of its own for each test file or describe block. */
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { afterAll, beforeAll, inject } from 'vitest'
import { createDatabase, dropDatabase } from './databases.js'

export interface Connection {
  client: postgres.Sql
  db: PostgresJsDatabase
}

/** Its fields exist once the tests run: read them inside tests and hooks, do not destructure it outside. */
export interface TestDatabase extends Connection {
  url: string
  /** For assertions: a client that Drizzle does not touch. */
  sql: postgres.Sql
  /** A further connection pool, closed with the database. */
  connect(options?: PostgresOptions): Connection
}

type PostgresOptions = postgres.Options<Record<string, postgres.PostgresType>>

/** Call at the top of a file or of a describe block. */
export function useDatabase({ migrated = true }: { migrated?: boolean } = {}): TestDatabase {
  const serverUrl = inject('serverUrl')
  const database = {} as TestDatabase
  const clients: postgres.Sql[] = []

  beforeAll(async () => {
    const url = await createDatabase(serverUrl, inject('databasePrefix'), migrated)
    const open = (options: PostgresOptions) => {
      const client = postgres(url, { onnotice: () => undefined, ...options })
      clients.push(client)
      return client
    }
    const connect = (options: PostgresOptions = {}): Connection => {
      const client = open({ max: 10, ...options })
      return { client, db: drizzle({ client }) }
    }
    Object.assign(database, { url, connect, sql: open({ max: 3 }), ...connect() })
  })

  afterAll(async () => {
    await Promise.all(clients.map((client) => client.end({ timeout: 1 })))
    if (database.url) await dropDatabase(serverUrl, database.url)
  })

  return database
}
