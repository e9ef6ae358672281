/**
 * Shows the third way of setting up: an application's own drizzle-kit creates and migrates the library's tables together
 * with the application's, and our functions are one custom migration. Runs the real drizzle-kit on a copy of
 * test/apps/kit-managed, with the library installed beside it as npm would.
 */
import { execFile } from 'node:child_process'
import { appendFile, cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import ts from 'typescript'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { defineQueue, pushTaskWithTx } from '../src/index.js'
import { admin } from '../src/admin.js'
import { bringUpToDate } from '../src/processes/setup.js'
import { verifySchema } from '../src/processes/verify-schema.js'
import { ordersWithConfirmation } from './apps/kit-managed/src/queries.js'
import { jobs, orders } from './apps/kit-managed/src/schema.js'
import { useDatabase } from './support/database.js'

const database = useDatabase({ migrated: false })
const root = fileURLToPath(new URL('..', import.meta.url))
let app: string

beforeAll(async () => {
  app = await mkdtemp(join(tmpdir(), 'apalis-kit-managed-'))
  await cp(join(root, 'test/apps/kit-managed'), app, { recursive: true })
  await mkdir(join(app, 'node_modules'))
  for (const name of ['drizzle-kit', 'drizzle-orm', 'postgres']) {
    await symlink(join(root, 'node_modules', name), join(app, 'node_modules', name))
  }
  await installLibrary(join(app, 'node_modules/apalis-drizzle'))
})
afterAll(() => rm(app, { recursive: true }))

/** As much of the package as a schema file imports. */
async function installLibrary(folder: string): Promise<void> {
  const source = await readFile(join(root, 'src/schema.ts'), 'utf8')
  const options: ts.CompilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext }
  await mkdir(join(folder, 'src'), { recursive: true })
  await mkdir(join(folder, 'dist'))
  await cp(join(root, 'package.json'), join(folder, 'package.json'))
  await writeFile(join(folder, 'src/schema.ts'), source)
  await writeFile(join(folder, 'dist/schema.js'), ts.transpileModule(source, { compilerOptions: options }).outputText)
}

async function kit(...args: string[]): Promise<string> {
  const command = [join(app, 'node_modules/drizzle-kit/bin.cjs'), ...args]
  const env = { ...process.env, DATABASE_URL: database.url }
  const { stdout } = await promisify(execFile)(process.execPath, command, { cwd: app, env, timeout: 60_000 })
  return stdout
}

async function sqlCommand(): Promise<string> {
  const command = ['--import', 'tsx', join(root, 'src/cli.ts'), 'sql', '--functions']
  const { stdout } = await promisify(execFile)(process.execPath, command, { timeout: 60_000 })
  return stdout
}

const migrations = async () => (await readdir(join(app, 'drizzle'))).filter((file) => file.endsWith('.sql')).sort()
const migration = (file: string) => readFile(join(app, 'drizzle', file), 'utf8')

describe('an application whose drizzle-kit manages the tables', () => {
  it('generates them, takes the rest as a custom migration, and migrates', async () => {
    await kit('generate', '--name', 'tables')
    expect(await migrations()).toEqual(['0000_tables.sql'])
    const tables = await migration('0000_tables.sql')
    expect(tables.match(/CREATE (SCHEMA|TABLE) .*?[;(]/g)).toEqual([
      'CREATE SCHEMA "apalis";',
      'CREATE TABLE "apalis"."jobs" (',
      'CREATE TABLE "apalis"."workers" (',
      'CREATE TABLE "jobs" (',
      'CREATE TABLE "orders" (',
    ])

    await kit('generate', '--custom', '--name', 'apalis_functions')
    await writeFile(join(app, 'drizzle/0001_apalis_functions.sql'), await sqlCommand())
    await kit('migrate')

    await verifySchema(database.db)
  })

  it('finds no drift: a second generate and a second migrate do nothing', async () => {
    expect(await kit('generate')).toContain('No schema changes')
    await kit('migrate')
    expect(await migrations()).toEqual(['0000_tables.sql', '0001_apalis_functions.sql'])
    const rows = await database.sql`select count(*)::int as applied from drizzle.__drizzle_migrations`
    expect([...rows]).toEqual([{ applied: 2 }])
  })

  it('keeps its own table jobs apart from the library’s', async () => {
    const { db, sql } = database
    await db.insert(jobs).values({ id: 1, title: 'Baker' })
    expect([...(await sql`select * from public.jobs`)]).toEqual([{ id: 1, title: 'Baker' }])
    expect([...(await sql`select * from apalis.jobs`)]).toEqual([])
  })

  it('enqueues in its transactions and joins its orders with their tasks', async () => {
    const confirmations = defineQueue<{ order: number }>('confirmations')
    const { db } = database
    await db.transaction(async (tx) => {
      const taskId = await pushTaskWithTx(tx, confirmations.task({ order: 7 }))
      await tx.insert(orders).values({ id: 7, customer: 'Ada', taskId })
    })
    await db.insert(orders).values({ id: 8, customer: 'Bo', taskId: 'none' })
    expect(await ordersWithConfirmation(db)).toEqual([
      { order: 7, status: 'Pending', attempts: 0, due: expect.any(Date) as Date },
    ])
  })

  it('pauses a queue without declaring the table of it', async () => {
    await admin(database.db).pause('confirmations')
    expect(await admin(database.db).queueDepths()).toMatchObject([{ queue: 'confirmations', paused: true, due: 1 }])
    await admin(database.db).resume('confirmations')
  })

  it('may call setup as well, which only records that everything is there', async () => {
    expect(await bringUpToDate(database.db, { rustInterop: false, patienceMs: 10_000 })).toEqual(['ledger'])
    await verifySchema(database.db)
    expect(await kit('generate')).toContain('No schema changes')
  })

  it('migrates its own tables later without touching the library’s', async () => {
    await appendFile(
      join(app, 'src/schema.ts'),
      `\nexport const refunds = pgTable('refunds', { id: integer('id').primaryKey() })\n`,
    )
    await kit('generate', '--name', 'refunds')
    expect(await migration('0002_refunds.sql')).toBe(
      'CREATE TABLE "refunds" (\n\t"id" integer PRIMARY KEY NOT NULL\n);\n',
    )
    await kit('migrate')
    expect([...(await database.sql`select id from public.refunds`)]).toEqual([])
    await verifySchema(database.db)
  })
})

describe('an application that keeps the library’s tables out of its schema files', () => {
  it('does not get them into its migrations by querying them', async () => {
    await writeFile(
      join(app, 'src/schema.ts'),
      `import { integer, pgTable } from 'drizzle-orm/pg-core'
       import { jobs } from 'apalis-drizzle/schema'
       export const orders = pgTable('orders', { id: integer('id').primaryKey() })
       export const taskColumns = [jobs.id, jobs.status]`,
    )
    await rm(join(app, 'drizzle'), { recursive: true })
    await kit('generate', '--name', 'own')
    expect(await migration('0000_own.sql')).toBe('CREATE TABLE "orders" (\n\t"id" integer PRIMARY KEY NOT NULL\n);\n')
  })
})
