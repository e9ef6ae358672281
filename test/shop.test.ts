/** The demo as its user runs it, and its own check on a shop that was tampered with. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { jobs } from 'apalis-drizzle/schema'
import { eq } from 'drizzle-orm'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { checkOutbox } from '../examples/shop/check-outbox.js'
import { makeOrders, ORDERS_FILE } from '../examples/shop/make-orders.js'
import { parseOrder } from '../examples/shop/orders.js'
import { orders } from '../examples/shop/schema.js'
import { runShop, type Tally } from '../examples/shop/shop.js'
import { useDatabase } from './support/database.js'

const database = useDatabase({ migrated: false })
const root = fileURLToPath(new URL('..', import.meta.url))

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'shop-test-'))
  return () => rm(folder, { recursive: true })
})

describe('npm run demo', { timeout: 60_000 }, () => {
  it('places more than a thousand orders and ends with the table', async () => {
    const { code, output, errors } = await demo({ folder })
    expect(errors).toBe('')
    expect(table(output)).toEqual({
      'orders committed': 1_070,
      'orders rolled back (out of stock)': 55,
      'orders refused as duplicates': 50,
      'malformed lines': 25,
      'tasks Done': 1_054,
      'tasks retried (more than one attempt)': 71,
      'tasks Killed': 16,
    })
    expect(output).toContain('The outbox equation holds')
    expect(code).toBe(0)
    expect(await readdir(folder)).toHaveLength(1_054)
    expect(await databaseOf(output)).toBeUndefined()
  })

  it('ends with 1 when the equation does not hold', async () => {
    await writeFile(path.join(folder, 'A-0001.txt'), 'Nobody ordered this.')
    const { code, errors } = await demo({ folder })
    expect(errors).toContain('File A-0001.txt belongs to no Done task.')
    expect(code).toBe(1)
  })

  it('stops cleanly when it is interrupted', async () => {
    const { code, output, errors } = await demo({ folder, interruptAfter: 'line 142' })
    expect(output).toContain('The process received SIGINT. The worker has stopped')
    expect(output).not.toContain('tasks Done')
    expect(errors).toBe('')
    expect(code).toBe(130)
    expect(await databaseOf(output)).toBeUndefined()
  })

  it('says in one sentence that the server cannot be reached', async () => {
    const { code, output, errors } = await demo({ folder, url: 'postgres://user:secret@127.0.0.1:1/app' })
    expect(errors).toMatch(/^No PostgreSQL server can be used at 127\.0\.0\.1:1 .*\n$/)
    expect(errors).not.toContain('secret')
    expect(output).toBe('')
    expect(code).toBe(1)
  })
})

describe('orders.jsonl', () => {
  it('is what make-orders.ts makes', async () => {
    expect(await readFile(ORDERS_FILE, 'utf8')).toBe(makeOrders())
  })

  it.each([
    ['{"number":"A-1001","customer":"ada@mail.example","product":"mug","quantity":2}', undefined],
    ['{"number":"A-1001","customer":"ada@mail.example","product":"mug","quantity":0}', 'not an order (quantity)'],
    ['{"number":"A-1001"}', 'not an order (customer, product, quantity)'],
    ['[]', 'not an order (the whole line)'],
    ['{"number":', 'not JSON'],
    ['', 'not JSON'],
  ])('line %j: %s', (line, problem) => {
    const parsed = parseOrder(line)
    expect('problem' in parsed ? parsed.problem : undefined).toBe(problem)
  })
})

describe('checkOutbox', () => {
  const shop = useDatabase({ migrated: false })
  let confirmed: string
  let tally: Tally

  beforeAll(async () => {
    confirmed = await mkdtemp(path.join(tmpdir(), 'shop-test-'))
    const file = path.join(confirmed, '..', `${path.basename(confirmed)}.jsonl`)
    await writeFile(file, SMALL_DAY.map((order) => JSON.stringify(order)).join('\n'))
    tally = await runShop(shop.db, file, confirmed, new AbortController().signal)
    await rm(file)
  })
  afterAll(() => rm(confirmed, { recursive: true }))

  const check = () => checkOutbox(shop.db, confirmed, tally.committed)

  it('finds nothing after an honest day', async () => {
    expect(tally).toEqual({ committed: 3, rolledBack: 1, duplicate: 1, malformed: 0 })
    expect(await check()).toEqual([])
  })

  it('finds a task that vanished, with its file', async () => {
    const vanished = await shop.db.delete(jobs).where(eq(jobs.idempotencyKey, 'A-1001')).returning()
    expect(await check()).toEqual([
      'Order A-1001 has no task instead of one that ended.',
      'File A-1001.txt belongs to no Done task.',
    ])
    await shop.db.insert(jobs).values(vanished)
    expect(await check()).toEqual([])
  })

  it('finds a second task of an order', async () => {
    const [first] = await shop.db.select().from(jobs).where(eq(jobs.idempotencyKey, 'A-1003'))
    await shop.sql`drop index apalis.idx_jobs_idempotency_key`
    await shop.db.insert(jobs).values({ ...first!, id: '01ARZ3NDEKTSV4RRFFQ69G5FAV' })
    expect(await check()).toEqual(['Order A-1003 has Killed and Killed task instead of one that ended.'])
    await shop.db.delete(jobs).where(eq(jobs.id, '01ARZ3NDEKTSV4RRFFQ69G5FAV'))
    expect(await check()).toEqual([])
  })

  it('finds a task that did not end', async () => {
    await shop.db.update(jobs).set({ status: 'Failed' }).where(eq(jobs.idempotencyKey, 'A-1003'))
    expect(await check()).toEqual(['Order A-1003 has Failed task instead of one that ended.'])
    await shop.db.update(jobs).set({ status: 'Killed' }).where(eq(jobs.idempotencyKey, 'A-1003'))
    expect(await check()).toEqual([])
  })

  it('finds a task without its order, as if only the order had been rolled back', async () => {
    const [order] = await shop.db.delete(orders).where(eq(orders.number, 'A-1003')).returning()
    expect(await check()).toEqual([
      '3 orders were committed, and the table has 2.',
      expect.stringMatching(/^Task \w{26} belongs to no committed order\.$/),
    ])
    await shop.db.insert(orders).values(order!)
    expect(await check()).toEqual([])
  })

  it.each([
    ['A-1001', 1, [0, 2], 'Done'],
    ['A-1003', 0, [1], 'Killed'],
  ])('finds that %s was confirmed other than %i times', async (number, honest, others, status) => {
    const book = (confirmations: number) =>
      shop.db.update(orders).set({ confirmations }).where(eq(orders.number, number))
    for (const confirmations of others) {
      await book(confirmations)
      expect(await check()).toEqual([
        `Order ${number} was confirmed ${confirmations} times, and its task is ${status}.`,
      ])
    }
    await book(honest)
    expect(await check()).toEqual([])
  })

  it('finds a file that is missing, and one about another order', async () => {
    const [first, second] = ['A-1001', 'A-1002'].map((number) => path.join(confirmed, `${number}.txt`)) as [
      string,
      string,
    ]
    const text = await readFile(first, 'utf8')
    await rm(first)
    expect(await check()).toEqual([expect.stringMatching(/^Task \w{26} is Done, and there is no file A-1001\.txt\.$/)])
    await writeFile(first, await readFile(second))
    expect(await check()).toEqual(['File A-1001.txt is not about order A-1001.'])
    await writeFile(first, text)
    expect(await check()).toEqual([])
  })
})

const SMALL_DAY = [
  { number: 'A-1001', customer: 'ada@mail.example', product: 'mug', quantity: 1 },
  { number: 'A-1002', customer: 'kim@flaky.example', product: 'lamp', quantity: 2 },
  { number: 'A-1003', customer: 'hugo@unknown.example', product: 'teapot', quantity: 1 },
  { number: 'A-1004', customer: 'dora@mail.example', product: 'gramophone', quantity: 1 },
  { number: 'A-1001', customer: 'ada@mail.example', product: 'mug', quantity: 1 },
]

interface Ended {
  readonly code: number | null
  readonly output: string
  readonly errors: string
}

async function demo(options: { folder: string; url?: string; interruptAfter?: string }): Promise<Ended> {
  const { interruptAfter } = options
  const child = spawn(process.execPath, ['--import', 'tsx', 'examples/shop/main.ts', options.folder], {
    cwd: root,
    env: { ...process.env, DATABASE_URL: options.url ?? database.url },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  let errors = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const before = output
    output += text
    if (interruptAfter === undefined || before.includes(interruptAfter)) return
    if (output.includes(interruptAfter)) child.kill('SIGINT')
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, output, errors }
}

function table(output: string): Record<string, number> {
  const rows = output.matchAll(/^\| (.+?) +\| +([\d,]+) \|$/gm)
  return Object.fromEntries(
    Array.from(rows, ([, label = '', number = '']) => [label, Number(number.replaceAll(',', ''))]),
  )
}

/** The database that a demo said it uses, if the server still has it. */
async function databaseOf(output: string): Promise<string | undefined> {
  const name = /^Database (shop_\w+)/.exec(output)?.[1]
  if (name === undefined) throw new Error('The demo did not name its database.')
  const rows = await database.sql<{ name: string }[]>`select datname as name from pg_database where datname = ${name}`
  return rows[0]?.name
}
