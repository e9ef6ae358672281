/** The databases of one test run: a migrated template, copies of it, empty ones. Their names start with the run's prefix, as those of roles do. */
import { randomBytes } from 'node:crypto'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { setup } from '../../src/processes/setup.js'

export async function createTemplate(serverUrl: string, prefix: string): Promise<void> {
  const template = templateName(prefix)
  await onServer(serverUrl, (sql) => sql`create database ${sql(template)} template template0`)
  await onServer(databaseUrl(serverUrl, template), (client) => setup(drizzle({ client })))
}

/** Resolves to the new database's URL. */
export async function createDatabase(serverUrl: string, prefix: string, migrated: boolean): Promise<string> {
  const name = `${prefix}_${randomBytes(6).toString('hex')}`
  const template = migrated ? templateName(prefix) : 'template0'
  await onServer(serverUrl, (sql) => sql`create database ${sql(name)} template ${sql(template)}`)
  return databaseUrl(serverUrl, name)
}

export async function dropDatabase(serverUrl: string, url: string): Promise<void> {
  const name = new URL(url).pathname.slice(1)
  await onServer(serverUrl, (sql) => sql`drop database ${sql(name)} with (force)`)
}

export async function dropDatabases(serverUrl: string, prefix: string): Promise<void> {
  await onServer(serverUrl, async (sql) => {
    const databases = await sql<{ name: string }[]>`
      select datname as name from pg_database where starts_with(datname, ${prefix})`
    for (const { name } of databases) await sql`drop database if exists ${sql(name)} with (force)`
    const roles = await sql<
      { name: string }[]
    >`select rolname as name from pg_roles where starts_with(rolname, ${prefix})`
    for (const { name } of roles) await sql`drop role if exists ${sql(name)}`
  })
}

async function onServer(url: string, run: (sql: postgres.Sql) => Promise<unknown>): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => undefined })
  try {
    await run(sql)
  } finally {
    await sql.end()
  }
}

function templateName(prefix: string): string {
  return `${prefix}_template`
}

function databaseUrl(serverUrl: string, name: string): string {
  const url = new URL(serverUrl)
  url.pathname = `/${name}`
  return url.href
}
