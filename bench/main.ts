/**
 * The benchmark: this library beside its peers and the floor. `npm run bench -- --help` prints the options.
 *
 * Runs on the server of DATABASE_URL, in databases of its own, or on a temporary one.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { arch, cpus, loadavg, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import { Bench } from './harness/bench.ts'
import { meetsTarget, type Metric } from './harness/metric.ts'
import { json, markdown } from './harness/report.ts'
import { Server } from './harness/server.ts'
import { scenarios } from './scenarios/index.ts'
import { SIDES } from './side.ts'
import { loadSide } from './sides/index.ts'

const HELP = `Usage: npm run bench -- [options]

  --scenarios a,b   only these
  --rounds N        rounds of each scenario after a warm-up (default 5)
  --scale X         so many times the tasks and the time, for development (default 1)
  --smoke           everything in about a minute: shows that nothing is lost or doubled, and no speed
  --out FILE        also write the results as Markdown
  --json FILE       also write the results as JSON`

const { values: options } = parseArgs({
  options: {
    scenarios: { type: 'string' },
    rounds: { type: 'string' },
    scale: { type: 'string' },
    smoke: { type: 'boolean', default: false },
    out: { type: 'string' },
    json: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})

if (options.help) console.log(HELP)
else await main()

async function main(): Promise<void> {
  const rounds = positive('rounds', options.rounds ?? (options.smoke ? '1' : '5'))
  const scale = positive('scale', options.scale ?? (options.smoke ? '0.02' : '1'))
  const chosen = chosenScenarios(options.scenarios)
  const startedAt = new Date()
  const server = await Server.start()
  const metrics: Metric[] = []
  let environment: string[]
  try {
    environment = [
      `${startedAt.toISOString().slice(0, 16)} UTC, ${rounds} rounds, scale ${scale}`,
      machine(),
      await server.describe(),
      versions(),
    ]
    console.log(environment.join('\n'))
    for (const scenario of chosen) {
      console.log(`\n${scenario.ids.join(', ')}`)
      const bench = new Bench(server, { rounds, scale, warmUp: !options.smoke }, console.log)
      try {
        metrics.push(...(await scenario.run(bench)))
      } finally {
        await bench.end()
      }
    }
  } finally {
    await server.stop()
  }
  const minutes = (Date.now() - startedAt.getTime()) / 60_000
  const all = await Promise.all(SIDES.map(loadSide))
  const stored = all.map(({ name, stores }) => `**${name}**: ${stores}.`)
  const results = markdown(metrics, [...environment, `Took ${minutes.toFixed(1)} minutes`], stored)
  console.log(`\n${results}`)
  const missed = metrics.filter((metric) => !meetsTarget(metric)).map(({ id }) => id)
  if (missed.length > 0) console.log(`\nMissed: ${missed.join(', ')}`)
  if (options.out !== undefined) writeFileSync(options.out, `# Results\n\n${results}\n`)
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(json(metrics), undefined, 2)}\n`)
}

function chosenScenarios(list: string | undefined) {
  if (list === undefined) return scenarios
  const ids = list.split(',')
  const unknown = ids.filter((id) => !scenarios.some((scenario) => scenario.ids.includes(id)))
  if (unknown.length > 0) {
    const known = scenarios.flatMap((scenario) => scenario.ids).join(', ')
    throw new Error(`There is no scenario ${unknown.join(', ')}; there are ${known}.`)
  }
  return scenarios.filter((scenario) => scenario.ids.some((id) => ids.includes(id)))
}

function positive(option: string, text: string): number {
  const value = Number(text)
  if (value > 0) return value
  throw new Error(`--${option} needs a positive number.`)
}

function machine(): string {
  const [cpu] = cpus()
  const load = loadavg()[0]!.toFixed(2)
  return `${cpus().length} × ${cpu!.model} (${arch()}), ${(totalmem() / 2 ** 30).toFixed(0)} GiB, load ${load} at the start`
}

function versions(): string {
  const packages = ['apalis-drizzle', 'drizzle-orm', 'postgres', 'pg-boss', 'graphile-worker', 'pg']
  return [`Node ${process.versions.node}`, ...packages.map((name) => `${name} ${versionOf(name)}`)].join(', ')
}

/** From the manifest, which packages need not export. */
function versionOf(name: string): string {
  for (const folder of createRequire(import.meta.url).resolve.paths(name) ?? []) {
    try {
      return (JSON.parse(readFileSync(`${folder}/${name}/package.json`, 'utf8')) as { version: string }).version
    } catch {
      // Not in this folder.
    }
  }
  throw new Error(`${name} is not installed: run npm ci in bench.`)
}
