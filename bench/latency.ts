/**
 * How long after its commit a task starts, and how many claims that costs: `npx tsx bench/latency.ts [--seconds N]` prints
 * a Markdown table; `--out bench/LATENCY.md` replaces the one between the markers of that file. On the server of
 * DATABASE_URL, in a database of its own, or on a temporary one.
 *
 * Each task is pushed in a transaction of its own that stays open for 0 to 200 ms. The producer is a process of its own, so
 * that pushing does not keep the workers' event loop busy. Latency is from the sending of COMMIT to the start of the handler,
 * by one clock.
 */
import { fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { arch, cpus, loadavg } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { format, resolveConfig } from 'prettier'
import { startPostgres } from '../scripts/postgres-server.js'
import { defineQueue, pushTaskWithTx, setup, type QueueOptions, PostgresStorage } from '../src/index.js'
import { recordEvents } from '../src/testing.js'

const OPTIONS = {
  /** For each row of the table. */
  seconds: { type: 'string', default: '2' },
  rates: { type: 'string', default: '10,50,500,2000' },
  workers: { type: 'string', default: '1,8' },
  out: { type: 'string' },
} as const
const [BEGIN, END] = ['<!-- measured by bench/latency.ts -->', '<!-- end -->']
/** Set for the process that pushes: its database. Not an argument, which others could read. */
const PRODUCER = 'LATENCY_PRODUCER_URL'
const MAX_HELD_MS = 200
/** Enough for 2,000 transactions a second, of which each stays open for a tenth of one, and their round trips. */
const MAX_PUSHES = 240
/** Kept free for workers, listeners and an administrator. */
const OTHER_CONNECTIONS = 55

type Notify = QueueOptions<number, void, number>['notify']
const MODES: readonly [string, Notify][] = [
  ["'always'", 'always'],
  ['20 a second', { maxPerSecond: 20 }],
  ["'never'", 'never'],
]

interface Production {
  readonly queue: string
  readonly notify: Notify
  readonly rate: number
  readonly seconds: number
}

interface Produced {
  /** Of each task its id and when its COMMIT was sent. */
  readonly committed: readonly (readonly [id: string, at: number])[]
  /** Pushed per second, which is less than was asked for when the machine cannot do more. */
  readonly rate: number
}

interface Measured {
  readonly latencies: number[]
  readonly rate: number
  readonly claimsPerTask: number
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Milliseconds, by a clock that all processes of the machine share. */
const now = () => Number(process.hrtime.bigint()) / 1e6

const connect = (url: string, max: number) => postgres(url, { max, onnotice: () => undefined })

/** Pushes at the rate, or as fast as its connections can, until the time is over. */
async function produce(client: postgres.Sql, production: Production): Promise<Produced> {
  const { queue: name, notify, rate, seconds } = production
  const db = drizzle({ client })
  const queue = defineQueue<number>(name, { notify })
  const count = Math.max(20, Math.round(rate * seconds))
  const committed: [string, number][] = []
  const begin = now()
  const end = begin + (count / rate + 0.1) * 1_000
  let turns = 0
  let lastBegan = begin
  const pushInTurn = async () => {
    while (turns < count) {
      const turn = turns++
      const waitMs = begin + (turn / rate) * 1_000 - now()
      if (waitMs > 1) await sleep(waitMs)
      const began = now()
      if (began > end) return
      lastBegan = Math.max(lastBegan, began)
      const pushed = await db.transaction(async (tx) => {
        const id = await pushTaskWithTx(tx, queue.task(turn))
        await sleep(Math.random() * MAX_HELD_MS)
        return [id, now()] as const
      })
      committed.push([...pushed])
    }
  }
  await Promise.all(Array.from({ length: client.options.max }, pushInTurn))
  return { committed, rate: committed.length / ((lastBegan - begin) / 1_000 + 1 / rate) }
}

/** What the process does that pushes: it answers one production after the other. */
async function produceOnRequest(url: string, connections: number): Promise<void> {
  const client = connect(url, connections)
  await Promise.all(Array.from({ length: connections }, () => client`select pg_sleep(0.2)`))
  process.on('message', (production: Production) => {
    void produce(client, production).then((produced) => process.send!(produced))
  })
  await once(process, 'disconnect')
  await client.end()
}

/** Starts that process. */
function startProducer(url: string, connections: number) {
  const env = { ...process.env, [PRODUCER]: url, CONNECTIONS: String(connections) }
  const child = fork(fileURLToPath(import.meta.url), { execArgv: ['--import', 'tsx'], env })
  return {
    produced: async (production: Production): Promise<Produced> => {
      child.send(production)
      const [answer] = (await once(child, 'message')) as [Produced]
      return answer
    },
    stop: async () => {
      child.disconnect()
      await once(child, 'exit')
    },
  }
}

async function measure(
  url: string,
  { produced }: ReturnType<typeof startProducer>,
  production: Production,
  workers: number,
): Promise<Measured> {
  const queue = defineQueue<number>(production.queue)
  const startedAt = new Map<string, number>()
  const events = recordEvents()
  const started = await Promise.all(
    Array.from({ length: workers }, async () => {
      // A database each, as separate processes have, and so a listener and connections each.
      const client = connect(url, 1)
      const storage = new PostgresStorage<number>(drizzle({ client }), queue, {
        onEvent: (event) => {
          if (event.type === 'listener.up') events.onEvent(event)
        },
      })
      const worker = storage.worker((_, { id }) => void startedAt.set(id, now()), { concurrency: 50 })
      await worker.start()
      return { worker, client }
    }),
  )
  for (let n = 0; n < workers; n++) await events.next('listener.up')
  const sql = connect(url, 1)
  const before = await claimsSoFar(sql)
  const { committed, rate } = await produced(production)
  while (startedAt.size < committed.length) await sleep(5)
  const claimed = (await claimsSoFar(sql)) - before
  await Promise.all(
    started.map(async ({ worker, client }) => {
      await worker.stop()
      await client.end()
    }),
  )
  await sql.end()
  return {
    latencies: committed.map(([id, at]) => startedAt.get(id)! - at).sort((a, b) => a - b),
    rate,
    claimsPerTask: claimed / committed.length,
  }
}

/** Also claims that found nothing, for which a statement trigger fires too. Acknowledgements name other columns besides. */
async function countClaims(sql: postgres.Sql): Promise<void> {
  await sql.unsafe(`
    create sequence public.updates;
    create sequence public.acks;
    create function public.count() returns trigger language plpgsql as
      'begin perform nextval(tg_argv[0]::regclass); return null; end';
    create trigger count_updates after update on apalis.jobs for each statement execute function public.count('public.updates');
    create trigger count_acks after update of attempts on apalis.jobs for each statement execute function public.count('public.acks')`)
}

async function claimsSoFar(sql: postgres.Sql): Promise<number> {
  const [row] = await sql<{ n: number }[]>`
    select (select last_value from public.updates)::int - (select last_value from public.acks)::int as n`
  return row!.n
}

function percentile(sorted: readonly number[], share: number): string {
  const ms = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!
  return ms < 10 ? ms.toFixed(1) : ms.toFixed(0)
}

/** Prints the lines of the report as they come. @returns All of them. */
async function report(url: string): Promise<string> {
  const { values } = parseArgs({ options: OPTIONS })
  const numbers = (list: string) => list.split(',').map(Number)
  const seconds = Number(values.seconds)
  const lines: string[] = []
  const say = (line: string) => {
    console.log(line)
    lines.push(line)
  }
  const sql = connect(url, 1)
  await setup(drizzle({ client: sql }))
  await countClaims(sql)
  const [server] = await sql<{ version: string; fsync: string; connections: number }[]>`
    select current_setting('server_version') as version, current_setting('fsync') as fsync,
      current_setting('max_connections')::int as connections`
  await sql.end()
  const producer = startProducer(url, Math.min(MAX_PUSHES, server!.connections - OTHER_CONNECTIONS))
  const row = (workers: number, production: Omit<Production, 'queue'>) =>
    measure(url, producer, { queue: `latency ${randomBytes(4).toString('hex')}`, ...production }, workers)
  // Code that has not run yet is slow.
  await row(1, { notify: 'always', rate: 500, seconds: 1 })
  say(
    [
      new Date().toISOString().slice(0, 10),
      `Node ${process.version}`,
      `PostgreSQL ${server!.version} (\`fsync\` ${server!.fsync})`,
      `${cpus().length} × ${cpus()[0]!.model} (${arch()}) for producer, workers and server`,
      `load ${loadavg()[0]!.toFixed(1)} when it began`,
      `${seconds} s each`,
    ].join(', ') + '.',
  )
  say('')
  say('| Workers | Enqueued per s | `notify` | Tasks | Reached per s | p50 ms | p95 ms | p99 ms | Claims per task |')
  say('| --- | --- | --- | --- | --- | --- | --- | --- | --- |')
  for (const workers of numbers(values.workers)) {
    for (const rate of numbers(values.rates)) {
      for (const [mode, notify] of MODES) {
        const { latencies, rate: reached, claimsPerTask } = await row(workers, { notify, rate, seconds })
        const percentiles = [0.5, 0.95, 0.99].map((share) => percentile(latencies, share))
        const counts = [latencies.length, reached.toFixed(0)]
        say(`| ${[workers, rate, mode, ...counts, ...percentiles, claimsPerTask.toFixed(2)].join(' | ')} |`)
      }
    }
  }
  await producer.stop()
  return lines.join('\n')
}

/** @returns Puts a report into the file in place of the one that is there; what stands around it stays. */
async function placeOfReport(file: string): Promise<(text: string) => Promise<void>> {
  const old = await readFile(file, 'utf8')
  const [begin, end] = [old.indexOf(BEGIN), old.indexOf(END)]
  if (begin === -1 || end < begin) throw new Error(`${file} has no ${BEGIN} … ${END} to put the table in.`)
  return async (text) => {
    const replaced = `${old.slice(0, begin)}${BEGIN}\n\n${text}\n\n${old.slice(end)}`
    await writeFile(file, await format(replaced, { ...(await resolveConfig(file)), parser: 'markdown' }))
  }
}

async function main(): Promise<void> {
  const { out } = parseArgs({ options: OPTIONS }).values
  const replaceReport = out === undefined ? undefined : await placeOfReport(out)
  const server = await startPostgres()
  const admin = connect(server.url, 1)
  const name = `apalis_latency_${randomBytes(4).toString('hex')}`
  await admin`create database ${admin(name)}`
  try {
    const url = new URL(server.url)
    url.pathname = `/${name}`
    const text = await report(url.href)
    await replaceReport?.(text)
  } finally {
    await admin`drop database ${admin(name)} with (force)`
    await admin.end()
    await server.stop()
  }
}

const producerUrl = process.env[PRODUCER]
if (producerUrl === undefined) await main()
else await produceOnRequest(producerUrl, Number(process.env['CONNECTIONS']))
