/**
 * `tsx scripts/check-package.ts TARBALL`: installs the packed package into an empty project, once with each Drizzle line.
 * There it imports every export, compiles a program against the published types, and sets up a database by the CLI.
 */
import { execFileSync } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { createDatabase, dropDatabase } from '../test/support/databases.js'
import { startPostgres } from './postgres-server.js'

const CONSUMER = `
import { eq } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/postgres-js'
import { defineQueue, PostgresStorage, pushTaskWithTx, setup } from 'apalis-drizzle'
import { jobs } from 'apalis-drizzle/schema'
import { recordEvents } from 'apalis-drizzle/testing'

const db = drizzle('postgres://localhost/app')
const emails = defineQueue<{ to: string }, { sent: boolean }>('emails')
export const worker = new PostgresStorage(db, emails).worker(async ({ to }) => ({ sent: to !== '' }))
export const events = recordEvents()

export async function enqueue(to: string): Promise<string[]> {
  await setup(db)
  await db.transaction(async (tx) => {
    await pushTaskWithTx(tx, emails.task({ to }))
    // @ts-expect-error A wrong payload is refused.
    await pushTaskWithTx(tx, emails.task({ to: 1 }))
  })
  // @ts-expect-error A database is not a transaction.
  await pushTaskWithTx(db, emails.task({ to }))
  const rows = await db.select({ id: jobs.id }).from(jobs).where(eq(jobs.jobType, emails.name))
  return rows.map(({ id }) => id)
}
`

const [tarball] = process.argv.slice(2)
if (tarball === undefined) throw new Error('Which tarball? npm pack prints its name.')
const repository = fileURLToPath(new URL('..', import.meta.url))
const versionOf = await installedVersions()

const server = await startPostgres()
try {
  for (const drizzle of ['drizzle-orm', 'drizzle-orm-rc']) await check(versionOf(drizzle))
} finally {
  await server.stop()
}

async function check(drizzleVersion: string): Promise<void> {
  const project = await mkdtemp(path.join(tmpdir(), 'apalis-drizzle-package-'))
  try {
    await writeFile(path.join(project, 'package.json'), '{ "type": "module", "private": true }\n')
    const packages = [
      path.resolve(tarball as string),
      `drizzle-orm@${drizzleVersion}`,
      `postgres@${versionOf('postgres')}`,
    ]
    run(project, 'npm', ['install', '--prefer-offline', '--strict-peer-deps', '--no-audit', '--no-fund', ...packages])
    await importExports(project)
    await compile(project)
    await runCli(project)
    console.log(`The package works with Drizzle ${drizzleVersion}.`)
  } finally {
    await rm(project, { recursive: true, force: true })
  }
}

async function importExports(project: string): Promise<void> {
  const manifest = await readFile(path.join(project, 'node_modules/apalis-drizzle/package.json'), 'utf8')
  const { exports } = JSON.parse(manifest) as { exports: Record<string, unknown> }
  const doors = Object.keys(exports).filter((door) => door !== './package.json')
  const imports = doors.map((door) => `apalis-drizzle${door.slice(1)}`)
  const program = `
    for (const name of ${JSON.stringify(imports)}) {
      const exported = Object.keys(await import(name))
      if (exported.length === 0) throw new Error(name + ' exports nothing')
      console.log(name + ': ' + exported.length + ' exports')
    }`
  await writeFile(path.join(project, 'imports.js'), program)
  run(project, process.execPath, ['imports.js'])
}

/** Without the types of Node and with an old lib, as some applications have it. Errors of other packages are theirs. */
async function compile(project: string): Promise<void> {
  const file = path.join(project, 'consumer.ts')
  await writeFile(file, CONSUMER)
  const program = ts.createProgram([file], {
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    types: [],
    strict: true,
    exactOptionalPropertyTypes: true,
    noEmit: true,
  })
  const ours = (problem: ts.Diagnostic) => !/node_modules\/(?!apalis-drizzle\/)/.test(problem.file?.fileName ?? '')
  const problems = ts.getPreEmitDiagnostics(program).filter(ours)
  if (problems.length === 0) return
  const host = { getCanonicalFileName: String, getCurrentDirectory: () => project, getNewLine: () => '\n' }
  throw new Error(ts.formatDiagnostics(problems, host))
}

async function runCli(project: string): Promise<void> {
  const url = await createDatabase(server.url, 'apalis_package', false)
  try {
    for (const command of ['--help', 'setup', 'verify']) {
      run(project, path.join('node_modules', '.bin', 'apalis-drizzle'), [command], { DATABASE_URL: url })
    }
  } finally {
    await dropDatabase(server.url, url)
  }
}

function run(project: string, command: string, args: string[], env: NodeJS.ProcessEnv = {}): void {
  execFileSync(command, args, {
    cwd: project,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'inherit', 'inherit'],
  })
}

async function installedVersions(): Promise<(name: string) => string> {
  const lock = JSON.parse(await readFile(path.join(repository, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { version: string }>
  }
  return (name) => {
    const version = lock.packages[`node_modules/${name}`]?.version
    if (version === undefined) throw new Error(`package-lock.json has no ${name}.`)
    return version
  }
}
