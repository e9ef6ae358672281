/** The shop's own tables. Those of the tasks are in schema `apalis` and belong to the library. */
import { sql } from 'drizzle-orm'
import { integer, pgTable, text, timestamp } from 'drizzle-orm/pg-core'
import type { ShopDb } from './database.js'

export const stock = pgTable('stock', {
  product: text('product').primaryKey(),
  available: integer('available').notNull(),
})

export const orders = pgTable('orders', {
  number: text('number').primaryKey(),
  customer: text('customer').notNull(),
  product: text('product').notNull(),
  quantity: integer('quantity').notNull(),
  placedAt: timestamp('placed_at', { withTimezone: true }).notNull().defaultNow(),
  /** How often its confirmation was booked: once, if it was sent. */
  confirmations: integer('confirmations').notNull().default(0),
})

/** Of fairy lights there are fewer than are ordered, of gramophones none. */
const IN_STOCK = { mug: 5_000, teapot: 5_000, lamp: 5_000, blanket: 5_000, 'fairy lights': 40, gramophone: 0 }

/** What drizzle-kit would generate from the tables above, and the first delivery of goods. */
export async function createTables(db: ShopDb): Promise<void> {
  await db.execute(sql`create table stock (
    product text primary key,
    available integer not null check (available >= 0)
  )`)
  await db.execute(sql`create table orders (
    number text primary key,
    customer text not null,
    product text not null,
    quantity integer not null,
    placed_at timestamptz not null default now(),
    confirmations integer not null default 0
  )`)
  await db.insert(stock).values(Object.entries(IN_STOCK).map(([product, available]) => ({ product, available })))
}
