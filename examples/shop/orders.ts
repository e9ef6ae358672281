/** Orders as they arrive: one JSON object a line, and not every line is one. */
import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { z } from 'zod'

const Order = z.object({
  number: z.string().regex(/^[A-Z]-\d{4,}$/),
  customer: z.email(),
  product: z.string().min(1),
  quantity: z.int().positive(),
})

export type Order = z.infer<typeof Order>

export type OrderLine =
  | { readonly line: number; readonly order: Order }
  /** What is wrong, without quoting the line: it may hold personal data. */
  | { readonly line: number; readonly problem: string }

export async function* readOrders(file: string): AsyncGenerator<OrderLine, void> {
  let line = 0
  for await (const text of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
    line += 1
    yield { line, ...parseOrder(text) }
  }
}

export function parseOrder(text: string): { readonly order: Order } | { readonly problem: string } {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return { problem: 'not JSON' }
  }
  const parsed = Order.safeParse(value)
  if (parsed.success) return { order: parsed.data }
  const fields = parsed.error.issues.map(({ path }) => path.join('.') || 'the whole line')
  return { problem: `not an order (${[...new Set(fields)].join(', ')})` }
}
