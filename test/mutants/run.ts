/**
 * Removes the guards of the statements one at a time, and expects a test to fail without each: `npm run test:mutants`, or
 * `npm run test:mutants -- ack sweep` for those of some statements. The files themselves stay as they are: Vite is told
 * to read them differently.
 */
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { startPostgres } from '../../scripts/postgres-server.js'
import { mutants, type Mutant } from './mutants.js'

const AT_A_TIME = 2
const root = fileURLToPath(new URL('../..', import.meta.url))

interface Report {
  readonly testResults: readonly {
    readonly message: string
    readonly assertionResults: readonly { readonly status: string; readonly title: string }[]
  }[]
}

const asked = process.argv.slice(2)
const chosen = mutants.filter(({ file }) => asked.length === 0 || asked.includes(path.basename(file, '.ts')))
for (const mutant of chosen) await expectOnce(mutant)
const server = await startPostgres()
const folder = await mkdtemp(path.join(tmpdir(), 'apalis-drizzle-mutants-'))
const survivors: Mutant[] = []
const waiting = [...chosen.entries()]
try {
  await Promise.all(Array.from({ length: AT_A_TIME }, takeTurns))
} finally {
  await rm(folder, { recursive: true })
  await server.stop()
}
// The line by which a run is judged, in any language.
console.log(`\n${chosen.length - survivors.length} passed, ${survivors.length} failed`)
if (survivors.length > 0 || chosen.length === 0) process.exitCode = 1

async function takeTurns(): Promise<void> {
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
    const [number, mutant] = next
    const killer = await killedBy(mutant, path.join(folder, `${number}.json`))
    if (killer === undefined) survivors.push(mutant)
    const outcome = killer === undefined ? 'NO TEST FAILS' : `fails: ${killer}`
    console.log(`${path.basename(mutant.file, '.ts')}, without "${mutant.guard}": ${outcome}`)
  }
}

/** The first test that fails without the guard. */
async function killedBy(mutant: Mutant, output: string): Promise<string | undefined> {
  const program = path.join(root, 'node_modules/vitest/vitest.mjs')
  const options = ['--config', 'test/mutants/vitest.config.ts', '--bail=1', '--reporter=json', `--outputFile=${output}`]
  const child = spawn(process.execPath, [program, 'run', ...options, ...mutant.tests], {
    cwd: root,
    env: { ...process.env, DATABASE_URL: server.url, MUTANT: JSON.stringify(mutant) },
    stdio: 'ignore',
  })
  await new Promise((resolve) => child.once('close', resolve))
  const { testResults } = JSON.parse(await readFile(output, 'utf8')) as Report
  const killer = testResults
    .flatMap(({ assertionResults }) => assertionResults)
    .find(({ status }) => status === 'failed')
  // A file that cannot be loaded shows nothing about the guard. After a failure the others are not run.
  const broken = testResults.find(({ assertionResults }) => assertionResults.length === 0)
  if (killer === undefined && broken !== undefined) {
    throw new Error(`Without "${mutant.guard}" a test file does not load: ${broken.message}`)
  }
  return killer?.title
}

async function expectOnce({ file, guard, cuts }: Mutant): Promise<void> {
  const code = await readFile(path.join(root, file), 'utf8')
  for (const [from] of cuts) {
    const found = code.split(from).length - 1
    if (found !== 1) throw new Error(`${file} has the text of "${guard}" ${found} times, not once: ${from}`)
  }
}
