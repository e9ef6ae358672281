/**
 * What the database and the driver can do at best: bare SQL by hand on the tables of apalis-drizzle, through postgres.js.
 * It has none of what makes a queue safe to run: no heartbeat, no taking back, no retries, no fence, no limits, no events.
 */
import postgres, { type Sql, type TransactionSql } from 'postgres'
import { monotonicFactory } from 'ulid'
import { openShop, placeOrder, type Transaction } from '../harness/orders.ts'
import type { Payload } from '../harness/payload.ts'
import type { Side, WorkMode } from '../side.ts'
import { clearTables, count, hasUnfinished, QUEUE, setupTables } from './apalis-tables.ts'

const WORKER = 'floor'
const ANNOUNCED_PER_SECOND = 20
/** Claims and acknowledgements of one lane wait for each other; a second lane keeps the server busy meanwhile. */
const LOOPS: Record<WorkMode, { readonly lanes: number; readonly batch: number }> = {
  fast: { lanes: 2, batch: 500 },
  'small-batches': { lanes: 2, batch: 100 },
  acked: { lanes: 2, batch: 12 },
  latency: { lanes: 1, batch: 10 },
}

const newId = monotonicFactory()
const encode = (payload: Payload) => Buffer.from(JSON.stringify(payload))

export const floor: Side = {
  name: 'floor',
  stores: 'as apalis-drizzle, whose tables it uses',
  table: 'apalis.jobs',
  setup: setupTables,
  clear: clearTables,
  hasUnfinished,
  count,

  async produce(url, connections) {
    const sql = postgres(url, { max: connections, onnotice: () => undefined })
    const { client, db } = openShop(url, connections)
    const mayAnnounce = atMost(ANNOUNCED_PER_SECOND)
    return {
      async enqueue(payload) {
        await sql`insert into apalis.jobs (job, id, job_type, max_attempts, metadata)
          values (${encode(payload)}, ${newId()}, ${QUEUE}, 5, '{}')`
      },
      enqueueInTransaction: (payload) =>
        placeOrder(db, payload, (tx) => insertInTransaction(tx, payload, mayAnnounce())),
      async enqueueMany(payloads) {
        await sql`insert into apalis.jobs (job, id, job_type, max_attempts, metadata)
          select convert_to(job, 'UTF8'), id, ${QUEUE}, 5, '{}'
          from unnest(${payloads.map((payload) => JSON.stringify(payload))}::text[], ${payloads.map(() => newId())}::text[]) as task(job, id)`
      },
      async close() {
        await Promise.all([sql.end(), client.end()])
      },
    }
  },

  async work(url, mode, handler) {
    const { lanes, batch } = LOOPS[mode]
    const sql = postgres(url, { max: lanes, onnotice: () => undefined })
    const listener = postgres(url, { max: 1, onnotice: () => undefined })
    await sql`insert into apalis.workers (id, worker_type, storage_name) values (${WORKER}, ${QUEUE}, 'floor') on conflict do nothing`
    let stopped = false
    const bell = new Bell()
    await listener.listen('apalis::job::insert', () => bell.ring())
    const running = Promise.all(Array.from({ length: lanes }, () => run()))

    async function run(): Promise<void> {
      while (!stopped) {
        const tasks = await claim(sql, batch)
        if (tasks.length === 0) {
          if (!stopped) await bell.wait(100)
          continue
        }
        await Promise.all(tasks.map(({ job }) => handler(JSON.parse(job.toString()) as Payload)))
        await finish(
          sql,
          tasks.map(({ id }) => id),
        )
      }
    }

    return {
      async stop() {
        stopped = true
        bell.ring()
        await running
        await Promise.all([sql.end(), listener.end()])
      },
    }
  },
}

/** Prepared, through the driver's transaction that Drizzle's holds. */
async function insertInTransaction(tx: Transaction, payload: Payload, announce: boolean): Promise<void> {
  const { client } = (tx as unknown as { session: { client: TransactionSql } }).session
  await client`insert into apalis.jobs (job, id, job_type, max_attempts, metadata)
    select ${encode(payload)}, ${newId()}, ${QUEUE}, 5, '{}'
    where (select set_config('apalis.notify_once', ${announce ? '' : 'off'}, true)) is not null`
}

interface Task {
  readonly id: string
  readonly job: Buffer
}

async function claim(sql: Sql, limit: number): Promise<readonly Task[]> {
  return sql<Task[]>`
    update apalis.jobs set status = 'Running', lock_by = ${WORKER}, lock_at = date_trunc('second', now()), done_at = null
    from unnest(array(
      select id from apalis.jobs
      where job_type = ${QUEUE} and (status = 'Pending' or (status = 'Failed' and attempts < max_attempts)) and run_at <= now()
      order by priority desc, run_at, id limit ${limit} for update skip locked
    )) as due(id)
    where jobs.id = due.id returning jobs.id, jobs.job`
}

async function finish(sql: Sql, ids: readonly string[]): Promise<void> {
  await sql`
    update apalis.jobs set status = 'Done', attempts = attempts + 1, done_at = now(), last_result = '{"Ok": null}'
    from unnest(${ids}::text[]) as finished(id)
    where jobs.id = finished.id and case when status = 'Running' and lock_by = ${WORKER} then true end`
}

/** Tokens of a bucket that holds as many as a second brings. */
function atMost(perSecond: number): () => boolean {
  let tokens = perSecond
  let at = performance.now()
  return () => {
    const now = performance.now()
    tokens = Math.min(perSecond, tokens + ((now - at) / 1_000) * perSecond)
    at = now
    if (tokens < 1) return false
    tokens -= 1
    return true
  }
}

/** Wakes all that wait. */
class Bell {
  #ring: () => void = () => undefined
  #rung = new Promise<void>((resolve) => (this.#ring = resolve))

  ring(): void {
    this.#ring()
    this.#rung = new Promise((resolve) => (this.#ring = resolve))
  }

  async wait(ms: number): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined
    await Promise.race([this.#rung, new Promise((resolve) => (timer = setTimeout(resolve, ms)))])
    clearTimeout(timer)
  }
}
