/** Pipes the lines of a large file into a queue, and counts on the way. */
import { createReadStream } from 'node:fs'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { defineQueue, PostgresStorage, type Task } from 'apalis-drizzle'
import { drizzle } from 'drizzle-orm/postgres-js'
import type { Sql } from 'postgres'

const customers = defineQueue<string>('customers')

export interface Piped {
  /** The tasks of each insert. */
  readonly batches: readonly number[]
  /** The most tasks that were read and not stored. */
  readonly mostHeld: number
}

/** @param onRead - Told how many lines were read. */
export async function pipeLines(
  client: Sql,
  lines: number,
  bufferSize: number,
  onRead: (read: number) => void = () => undefined,
): Promise<Piped> {
  const folder = await mkdtemp(path.join(tmpdir(), 'apalis-lines-'))
  try {
    const file = path.join(folder, 'lines')
    await writeLines(file, lines)
    const batches: number[] = []
    const db = drizzle({ client, logger: { logQuery: (text, params) => batches.push(...insertedBy(text, params)) } })
    let read = 0
    let mostHeld = 0
    // The last insert is under way; those before it are stored.
    const stored = () => batches.slice(0, -1).reduce((sum, count) => sum + count, 0)
    const source = tasksOf(file, () => {
      mostHeld = Math.max(mostHeld, ++read - stored())
      onRead(read)
    })
    await source.pipeTo(new PostgresStorage(db, customers, { bufferSize }).sink())
    return { batches, mostHeld }
  } finally {
    await rm(folder, { recursive: true })
  }
}

async function writeLines(file: string, lines: number): Promise<void> {
  const handle = await open(file, 'w')
  for (let first = 0; first < lines; first += 100_000) {
    const count = Math.min(100_000, lines - first)
    await handle.write(Array.from({ length: count }, (_, n) => `customer-${first + n}@example.com\n`).join(''))
  }
  await handle.close()
}

function tasksOf(file: string, onRead: () => void): ReadableStream<Task<string>> {
  const lines = createInterface({ input: createReadStream(file) })[Symbol.asyncIterator]()
  const pull = async (controller: ReadableStreamDefaultController<Task<string>>) => {
    const { done, value } = await lines.next()
    if (done) controller.close()
    else {
      onRead()
      controller.enqueue(customers.task(value))
    }
  }
  return new ReadableStream({ pull }, { highWaterMark: 0 })
}

/** Counts the payloads of an insert, which are the one column that is always sent in full. */
export function insertedBy(text: string, params: readonly unknown[]): number[] {
  const payloads = params.map(String).find((param) => param.startsWith('{"\\\\x'))
  return text.startsWith('insert') && payloads !== undefined ? [payloads.split(',').length] : []
}
