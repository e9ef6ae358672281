/** The table of the application that enqueues in its own transactions. */
import { integer, pgTable, text } from 'drizzle-orm/pg-core'
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import postgres, { type Sql } from 'postgres'
import type { Payload } from './payload.ts'

const orders = pgTable('orders', {
  id: integer('id').primaryKey().generatedAlwaysAsIdentity(),
  customer: text('customer').notNull(),
  total: integer('total').notNull(),
})

export const CREATE_ORDERS =
  'create table orders (id integer generated always as identity primary key, customer text not null, total integer not null)'

export type Transaction = Parameters<Parameters<PostgresJsDatabase['transaction']>[0]>[0]

/** The application's own client and database, the same for every side. */
export function openShop(url: string, connections: number): { readonly client: Sql; readonly db: PostgresJsDatabase } {
  const client = postgres(url, { max: connections, onnotice: () => undefined })
  return { client, db: drizzle({ client }) }
}

/** A transaction of two statements: the order, and whatever enqueues its task. */
export async function placeOrder(
  db: PostgresJsDatabase,
  { n, to }: Payload,
  enqueue: (tx: Transaction) => Promise<unknown>,
): Promise<void> {
  await db.transaction(async (tx) => {
    await tx
      .insert(orders)
      .values({ customer: to, total: n % 1_000 })
      .returning({ id: orders.id })
    await enqueue(tx)
  })
}
