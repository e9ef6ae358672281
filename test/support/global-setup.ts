/**
 * Runs once per test run: starts the server, migrates the template database, and removes both at the end.
 */
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import type { TestProject } from 'vitest/node'
import { startPostgres, type PostgresServer } from '../../scripts/postgres-server.js'
import { createTemplate, dropDatabases } from './databases.js'

declare module 'vitest' {
  export interface ProvidedContext {
    /** Any database of the server, to create others from. */
    serverUrl: string
    /** Starts the name of every database of this run, because runs may share a server. */
    databasePrefix: string
    /** How much longer than in `npm test` the tests of faults and of the model go on. */
    scale: number
  }
}

export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const server = await start()
  const prefix = `apalis_test_${randomBytes(4).toString('hex')}`
  // After Ctrl-C vitest calls process.exit(), which waits for nothing but this.
  const onExit = () => dropDatabasesSync(server.url, prefix)
  // A temporary server takes its databases along.
  if (process.env['DATABASE_URL']) process.once('exit', onExit)

  await createTemplate(server.url, prefix)
  project.provide('serverUrl', server.url)
  project.provide('databasePrefix', prefix)
  return async () => {
    await dropDatabases(server.url, prefix)
    process.off('exit', onExit)
    await server.stop()
  }
}

async function start(): Promise<PostgresServer> {
  try {
    return await startPostgres()
  } catch (error) {
    console.error((error as Error).message)
    process.exit(1)
  }
}

function dropDatabasesSync(url: string, prefix: string): void {
  const script = fileURLToPath(new URL('drop-databases.ts', import.meta.url))
  spawnSync(process.execPath, ['--import', 'tsx', script, prefix], {
    env: { ...process.env, DATABASE_URL: url },
    stdio: ['ignore', 'ignore', 'inherit'],
    timeout: 10_000,
  })
}
