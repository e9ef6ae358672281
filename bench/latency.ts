/**
 * How long after its commit a task starts, and how many claims that costs: `npx tsx bench/latency.ts [--seconds N]` prints
 * a Markdown table. On the server of DATABASE_URL, in a database of its own, or on a temporary one.
 *
 * Each task is pushed in a transaction of its own that stays open for 0 to 200 ms. Latency is from the answer to COMMIT to
 * the start of the handler, by one clock; a task that starts before the answer is read counts as 0.
 */
import { randomBytes } from 'node:crypto'
import { arch, cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { startPostgres } from '../scripts/postgres-server.js'
import { defineQueue, pushTaskWithTx, setup, type QueueOptions, PostgresStorage } from '../src/index.js'
import { recordEvents } from '../src/testing.js'

const MAX_HELD_MS = 200
/** Enough for 2,000 transactions a second, of which each stays open for a tenth of one. */
const MAX_PRODUCERS = 210
const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '2' },
    rates: { type: 'string', default: '10,50,500,2000' },
    workers: { type: 'string', default: '1,8' },
  },
})
const seconds = Number(values.seconds)
const numbers = (list: string) => list.split(',').map(Number)

type Notify = QueueOptions<number, void, number>['notify']
const MODES: readonly [string, Notify][] = [
  ["'always'", 'always'],
  ['20 a second', { maxPerSecond: 20 }],
  ["'never'", 'never'],
]

interface Measured {
  readonly latencies: number[]
  /** Pushed per second, which is less than was asked for when the machine cannot do more. */
  readonly rate: number
  readonly claimsPerTask: number
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

async function measure(url: string, notify: Notify, rate: number, workers: number): Promise<Measured> {
  const producer = postgres(url, { max: MAX_PRODUCERS, onnotice: () => undefined })
  const db = drizzle({ client: producer })
  const queue = defineQueue<number>(`latency ${randomBytes(4).toString('hex')}`, { notify })
  const committedAt = new Map<string, number>()
  const startedAt = new Map<string, number>()
  const events = recordEvents()
  const started = await Promise.all(
    Array.from({ length: workers }, async () => {
      // A database each, as separate processes have, and so a listener and connections each.
      const client = postgres(url, { max: 1, onnotice: () => undefined })
      const storage = new PostgresStorage<number>(drizzle({ client }), queue, {
        onEvent: (event) => {
          if (event.type === 'listener.up') events.onEvent(event)
        },
      })
      const worker = storage.worker((_, { id }) => void startedAt.set(id, performance.now()), { concurrency: 50 })
      await worker.start()
      return { worker, client }
    }),
  )
  for (let n = 0; n < workers; n++) await events.next('listener.up')
  await producer`select 1`

  const before = await claimsSoFar(producer)
  const count = Math.max(20, Math.round(rate * seconds))
  const pushes: Promise<unknown>[] = []
  const begin = performance.now()
  for (let n = 0; n < count; n++) {
    const wait = begin + (n / rate) * 1_000 - performance.now()
    if (wait > 1) await sleep(wait)
    pushes.push(
      db
        .transaction(async (tx) => {
          const id = await pushTaskWithTx(tx, queue.task(n))
          await sleep(Math.random() * MAX_HELD_MS)
          return id
        })
        .then((id) => committedAt.set(id, performance.now())),
    )
  }
  await Promise.all(pushes)
  const took = (performance.now() - begin) / 1_000
  while (startedAt.size < count) await sleep(5)
  const claimed = (await claimsSoFar(producer)) - before
  for (const { worker, client } of started) {
    await worker.stop()
    await client.end()
  }
  await producer.end()
  return {
    latencies: [...committedAt].map(([id, at]) => Math.max(0, startedAt.get(id)! - at)).sort((a, b) => a - b),
    rate: count / took,
    claimsPerTask: claimed / count,
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

const server = await startPostgres()
const admin = postgres(server.url, { max: 1, onnotice: () => undefined })
const name = `apalis_latency_${randomBytes(4).toString('hex')}`
await admin`create database ${admin(name)}`
try {
  const url = new URL(server.url)
  url.pathname = `/${name}`
  const client = postgres(url.href, { max: 1, onnotice: () => undefined })
  await setup(drizzle({ client }))
  await countClaims(client)
  const [version] = await client<{ server: string }[]>`select current_setting('server_version') as server`
  await client.end()
  const { model } = cpus()[0]!
  console.log(
    `${new Date().toISOString().slice(0, 10)}, Node ${process.version}, PostgreSQL ${version!.server}, ${cpus().length} × ${model} (${arch()}), ${seconds} s each\n`,
  )
  console.log(
    '| Workers | Enqueued per s | `notify` | Tasks | Reached per s | p50 ms | p95 ms | p99 ms | Claims per task |',
  )
  console.log('| --- | --- | --- | --- | --- | --- | --- | --- | --- |')
  for (const workers of numbers(values.workers)) {
    for (const rate of numbers(values.rates)) {
      for (const [mode, notify] of MODES) {
        const { latencies, rate: reached, claimsPerTask } = await measure(url.href, notify, rate, workers)
        const percentiles = [0.5, 0.95, 0.99].map((share) => percentile(latencies, share))
        const cells = [
          workers,
          rate,
          mode,
          latencies.length,
          reached.toFixed(0),
          ...percentiles,
          claimsPerTask.toFixed(2),
        ]
        console.log(`| ${cells.join(' | ')} |`)
      }
    }
  }
} finally {
  await admin`drop database ${admin(name)} with (force)`
  await admin.end()
  await server.stop()
}
