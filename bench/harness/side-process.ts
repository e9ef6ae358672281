/**
 * One process of one side, started by remote.ts: does what it is told and answers. The process lives for a whole scenario,
 * so that its code is warm, and nothing of another side runs in it.
 */
import { SIDES, type Producer, type Side, type WorkMode, type Worker } from '../side.ts'
import { loadSide } from '../sides/index.ts'
import { payload, payloads, type Payload } from './payload.ts'

export interface Produced {
  readonly count: number
  readonly ms: number
}

export interface Worked {
  /** How often the task of each number was handled here. */
  readonly handled: Uint8Array
  /** When the first one started, in milliseconds since 1970. */
  readonly firstAt: number
  /** Microseconds of processor time since then, in user and system mode. */
  readonly cpuMicros: number
}

const BATCH = 1_000

class SideProcess {
  readonly #side: Side
  readonly #url: string
  #producer: Promise<Producer> | undefined
  #worker: Worker | undefined
  #handled = new Uint8Array(0)
  #total = 0
  #firstAt = 0
  #cpuAtFirst: NodeJS.CpuUsage = process.cpuUsage()
  #startedAt: Float64Array | undefined

  constructor(side: Side, url: string) {
    this.#side = side
    this.#url = url
  }

  /** Fills the queue as fast as it goes; not measured. */
  async fill({ count }: { count: number }): Promise<void> {
    const producer = await this.#open(4)
    let next = 0
    const lane = async () => {
      for (let first = next; first < count; first = next) {
        next = Math.min(first + BATCH, count)
        await producer.enqueueMany(payloads(next - first, first))
      }
    }
    await Promise.all([lane(), lane()])
  }

  /** So many callers, each of which enqueues one task after the other for so long. */
  async enqueue(args: { callers: number; ms: number; inTransaction: boolean }): Promise<Produced> {
    const producer = await this.#open(args.callers)
    const one = args.inTransaction
      ? (n: number) => producer.enqueueInTransaction(payload(n))
      : (n: number) => producer.enqueue(payload(n))
    const startedAt = performance.now()
    let count = 0
    const caller = async () => {
      while (performance.now() - startedAt < args.ms) await one(count++)
    }
    await Promise.all(Array.from({ length: args.callers }, caller))
    return { count, ms: performance.now() - startedAt }
  }

  /** One call after the other. */
  async enqueueInChunks({ count, chunk }: { count: number; chunk: number }): Promise<Produced> {
    const producer = await this.#open(1)
    const chunks = Array.from({ length: count / chunk }, (_, index) => payloads(chunk, index * chunk))
    const startedAt = performance.now()
    for (const tasks of chunks) await producer.enqueueMany(tasks)
    return { count, ms: performance.now() - startedAt }
  }

  async startWorker({ mode, count }: { mode: WorkMode; count: number }): Promise<void> {
    this.#handled = new Uint8Array(count)
    this.#total = 0
    this.#firstAt = 0
    this.#worker = await this.#side.work(this.#url, mode, (task) => this.#handle(task))
  }

  /** How many tasks this process has handled. */
  progress(): number {
    return this.#total
  }

  worked(): Worked {
    const { user, system } = process.cpuUsage(this.#cpuAtFirst)
    return { handled: this.#handled, firstAt: this.#firstAt, cpuMicros: user + system }
  }

  async stopWorker(): Promise<void> {
    await this.#worker?.stop()
  }

  /** Enqueues one task after the other at random moments; the worker of this process measures by the same clock. */
  async latencies({ count, perSecond }: { count: number; perSecond: number }): Promise<number[]> {
    const producer = await this.#open(4, 'latency')
    const enqueuedAt = new Float64Array(count)
    const startedAt = (this.#startedAt = new Float64Array(count))
    const pending: Promise<void>[] = []
    for (let n = 0; n < count; n++) {
      await sleep((0.5 + Math.random()) * (1_000 / perSecond))
      enqueuedAt[n] = performance.now()
      pending.push(producer.enqueue(payload(n)))
    }
    await Promise.all(pending)
    while (this.#total < count) await sleep(5)
    this.#startedAt = undefined
    return Array.from(startedAt, (at, n) => at - enqueuedAt[n]!)
  }

  /** Megabytes of memory that the process has in use. */
  residentMegabytes(): number {
    return process.memoryUsage.rss() / 1_000_000
  }

  async close(): Promise<void> {
    await (await this.#producer)?.close()
    this.#producer = undefined
  }

  #handle({ n }: Payload): Promise<void> {
    if (this.#total++ === 0) {
      this.#firstAt = performance.timeOrigin + performance.now()
      this.#cpuAtFirst = process.cpuUsage()
    }
    this.#handled[n]! += 1
    if (this.#startedAt !== undefined) this.#startedAt[n] = performance.now()
    return Promise.resolve()
  }

  #open(connections: number, mode?: WorkMode): Promise<Producer> {
    return (this.#producer ??= this.#side.produce(this.#url, connections, mode))
  }
}

export type { SideProcess }

interface Call {
  readonly id: number
  readonly method: Exclude<keyof SideProcess, 'constructor'>
  readonly args: never
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

const [name, url] = process.argv.slice(2)
const side = new SideProcess(await loadSide(SIDES.find((known) => known === name)!), url!)
process.on('message', ({ id, method, args }: Call) => {
  void (async () => {
    try {
      process.send!({ id, answer: await side[method](args) })
    } catch (error) {
      process.send!({ id, failure: error instanceof Error ? (error.stack ?? error.message) : String(error) })
    }
  })()
})
// The parent is gone.
process.on('disconnect', () => process.exit())
