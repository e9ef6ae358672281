/**
 * Makes orders.jsonl, always the same: `npx tsx examples/shop/make-orders.ts`. It says here what is in the file, and so what
 * the demo has to arrive at; `shop.test.ts` compares both with this.
 */
import { writeFileSync } from 'node:fs'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Order } from './orders.js'

export const ORDERS_FILE = fileURLToPath(new URL('orders.jsonl', import.meta.url))

/** Orders of goods that are in stock, by the domain of the customer; see mail-server.ts for what the domains do. */
const CUSTOMERS = {
  'mail.example': 934,
  'flaky.example': 40,
  'greylist.example': 25,
  'weekdays.example': 15,
  'unknown.example': 10,
  'down.example': 6,
}
const IN_STOCK = ['mug', 'teapot', 'lamp', 'blanket']
/** One is ordered each time, and 40 are in stock. */
const FAIRY_LIGHTS = 55
/** None are in stock, so an order that arrives twice is rolled back twice. */
const GRAMOPHONES = 35
const GRAMOPHONES_AGAIN = 5
const DUPLICATES = 50
const NAMES = ['ada', 'björk', 'chen', 'dora', 'emeka', 'fatima', 'grete', 'hugo', 'inês', 'jürgen', 'kim', 'lotte']

export function makeOrders(): string {
  const random = randomNumbers(20_260_101)
  const pick = <Value>(values: readonly Value[]) => values[Math.floor(random() * values.length)] as Value
  let number = 1000
  const order = (domain: string, product: string, quantity: number): Order => ({
    number: `A-${(number += 1)}`,
    customer: `${pick(NAMES)
      .normalize('NFD')
      .replaceAll(/\P{ASCII}/gu, '')}.${number}@${domain}`,
    product,
    quantity,
  })
  const repeat = (count: number, make: () => Order) => Array.from({ length: count }, make)

  const placed = Object.entries(CUSTOMERS).flatMap(([domain, count]) =>
    repeat(count, () => order(domain, pick(IN_STOCK), 1 + Math.floor(random() * 3))),
  )
  const fairyLights = repeat(FAIRY_LIGHTS, () => order('mail.example', 'fairy lights', 1))
  const gramophones = repeat(GRAMOPHONES, () => order('mail.example', 'gramophone', 1))
  const again = [...sample(placed, DUPLICATES), ...sample(gramophones, GRAMOPHONES_AGAIN)]
  const lines = [...placed, ...fairyLights, ...gramophones, ...again].map((order) => JSON.stringify(order))
  return `${shuffled([...lines, ...malformed()]).join('\n')}\n`

  function malformed(): string[] {
    const good = order('mail.example', 'mug', 1)
    const bad = [
      ...[
        { ...good, quantity: 0 },
        { ...good, quantity: -2 },
        { ...good, quantity: 1.5 },
        { ...good, quantity: 'two' },
      ],
      ...[
        { ...good, number: 17 },
        { ...good, number: '' },
        { ...good, number: undefined },
        { ...good, number: "'; --" },
      ],
      ...[
        { ...good, customer: 'nobody' },
        { ...good, customer: null },
        { ...good, customer: undefined },
      ],
      ...[{ ...good, product: '' }, { ...good, product: ['mug'] }, { order: good }, [good], {}, null, 42],
    ].map((value) => JSON.stringify(value))
    const text = JSON.stringify(good)
    return [...bad, text.slice(0, 30), text.slice(1), `${text},`, text.replaceAll('"', "'"), '', '# end of day', 'NaN']
  }

  function sample(values: readonly Order[], count: number): Order[] {
    return shuffled(values).slice(0, count)
  }

  /** Fisher and Yates. */
  function shuffled<Value>(values: readonly Value[]): Value[] {
    const result = [...values]
    for (let last = result.length - 1; last > 0; last--) {
      const other = Math.floor(random() * (last + 1))
      ;[result[last], result[other]] = [result[other] as Value, result[last] as Value]
    }
    return result
  }
}

/** Mulberry32 by Tommy Ettinger (public domain): the same numbers from 0 to 1 on every machine. */
function randomNumbers(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) writeFileSync(ORDERS_FILE, makeOrders())
