/**
 * `npm run readme`: compiles and runs the TypeScript of README.md.
 *
 * Every ```ts block is type-checked, on both Drizzle lines, and with the DOM. A block with imports or exports is a module; it has the file
 * name that its first line gives as a comment (`// shop.ts`), under which others may import it. A block without is a
 * fragment: it is checked as the body of an async function at the end of the module before it.
 *
 * A module with `run` behind ```ts is executed, in order, as a process with DATABASE_URL set to an empty database that all
 * of them share. It has to end with exit code 0 within half a minute. With `run until TEXT` it gets SIGTERM as soon as it
 * has printed TEXT, and then has to end so.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { createDatabase, dropDatabase } from '../test/support/databases.js'
import { startPostgres } from './postgres-server.js'

interface Block {
  /** Of the README, counted from 1: the first line of code. */
  line: number
  info: string
  code: string
}

interface Module {
  file: string
  source: string
  /** For each line of the source, the line of the README. */
  lines: number[]
  run?: { until?: string }
}

const RUN_TIMEOUT_MS = 30_000

const root = fileURLToPath(new URL('..', import.meta.url))
const folder = path.join(root, '.cache', 'readme')

const readme = await readFile(path.join(root, 'README.md'), 'utf8')
const modules = modulesOf(blocksOf(readme))
if (modules.length === 0) throw new Error('README.md has no ```ts block that imports anything.')
await rm(folder, { recursive: true, force: true })
await mkdir(folder, { recursive: true })
for (const { file, source } of modules) await writeFile(path.join(folder, file), source)

// With the DOM too, which a program has that sets no `lib`: it types streams and requests in its own way.
const problems = [
  ...typeCheck('tsconfig.json'),
  ...typeCheck('tsconfig.json', ['lib.dom.d.ts', 'lib.dom.iterable.d.ts']),
  ...typeCheck('tsconfig.rc.json'),
]
for (const problem of problems) console.error(problem)
if (problems.length > 0) process.exit(1)
console.log(`README.md: ${modules.length} modules compile.`)
await runAll(modules.filter(({ run }) => run))

function blocksOf(markdown: string): Block[] {
  const blocks: Block[] = []
  let open: Block | undefined
  for (const [index, text] of markdown.split('\n').entries()) {
    const fence = /^```(?:ts\b(.*))?/.exec(text)
    if (open && fence) {
      blocks.push(open)
      open = undefined
    } else if (open) {
      open.code += `${text}\n`
    } else if (fence?.[1] !== undefined) {
      open = { line: index + 2, info: fence[1].trim(), code: '' }
    }
  }
  return blocks
}

function modulesOf(blocks: Block[]): Module[] {
  const modules: Module[] = []
  for (const block of blocks) {
    const module = /^(import|export) /m.test(block.code) ? moduleOf(block) : modules.at(-1)
    if (!module) throw new Error(`README.md:${block.line}: a block without imports needs a module before it.`)
    if (module !== modules.at(-1)) modules.push(module)
    else appendFragment(module, block)
  }
  return modules
}

function moduleOf({ line, info, code }: Block): Module {
  const file = /^\/\/ (\S+\.ts)$/m.exec(code.slice(0, code.indexOf('\n')))?.[1] ?? `line-${line}.ts`
  const [, run, until] = /^(run)(?: until (.+))?$/.exec(info) ?? []
  if (info !== '' && !run) throw new Error(`README.md:${line - 1}: \`${info}\` is not known here.`)
  return { file, source: code, lines: linesOf(line, code), ...(run && { run: until === undefined ? {} : { until } }) }
}

function appendFragment(module: Module, { line, info, code }: Block): void {
  if (info !== '') throw new Error(`README.md:${line - 1}: a block without imports cannot run.`)
  module.source += `async function fragment${line}() {\n${code}}\n`
  module.lines.push(line - 1, ...linesOf(line, code), line - 1)
}

function linesOf(first: number, code: string): number[] {
  return code
    .split('\n')
    .slice(0, -1)
    .map((_, index) => first + index)
}

function typeCheck(config: string, lib: string[] = []): string[] {
  const options = ts.getParsedCommandLineOfConfigFile(
    path.join(root, config),
    { noUnusedLocals: false, noUnusedParameters: false, noPropertyAccessFromIndexSignature: false },
    { ...ts.sys, onUnRecoverableConfigFileDiagnostic: (problem) => console.error(problem.messageText) },
  )?.options
  if (!options) throw new Error(`${config} cannot be read.`)
  const program = ts.createProgram(
    modules.map(({ file }) => path.join(folder, file)),
    { ...options, lib: [...(options.lib ?? []), ...lib] },
  )
  return ts.getPreEmitDiagnostics(program).map((problem) => `${placeOf(problem)} (${config})`)
}

function placeOf({ file, start, messageText }: ts.Diagnostic): string {
  const message = ts.flattenDiagnosticMessageText(messageText, '\n')
  if (!file) return message
  const line = file.getLineAndCharacterOfPosition(start ?? 0).line
  const module = modules.find((module) => path.join(folder, module.file) === path.normalize(file.fileName))
  return module ? `README.md:${module.lines[line]}: ${message}` : `${file.fileName}:${line + 1}: ${message}`
}

async function runAll(modules: Module[]): Promise<void> {
  const server = await startPostgres()
  const url = await createDatabase(server.url, 'apalis_readme', false)
  try {
    for (const module of modules) await run(module, url)
  } finally {
    await dropDatabase(server.url, url)
    await server.stop()
  }
}

async function run({ file, lines, run }: Module, url: string): Promise<void> {
  console.log(`README.md:${lines[0]}: running ${file}`)
  const child = spawn(process.execPath, ['--import', 'tsx', path.join(folder, file)], {
    cwd: root,
    env: { ...process.env, DATABASE_URL: url },
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: RUN_TIMEOUT_MS,
    killSignal: 'SIGKILL',
  })
  let output = ''
  let stopping = false
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    process.stdout.write(text)
    output += text
    if (stopping || run?.until === undefined || !output.includes(run.until)) return
    stopping = true
    child.kill('SIGTERM')
  })
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  if (code !== 0) throw new Error(`README.md:${lines[0]}: ended with ${signal ?? `exit code ${code}`}.`)
  if (run?.until !== undefined && !stopping) throw new Error(`README.md:${lines[0]}: never printed ${run.until}.`)
}
