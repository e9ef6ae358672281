import { isApalisError, pushTaskWithTx } from 'apalis-drizzle'
import { and, eq, gte, sql } from 'drizzle-orm'
import { confirmations } from './confirmations.js'
import type { ShopDb, ShopTx } from './database.js'
import type { Order } from './orders.js'
import { orders, stock } from './schema.js'

export type Placed = 'committed' | 'rolledBack' | 'duplicate'

class OutOfStockError extends Error {}

/**
 * Order, confirmation task and stock in one transaction: all of it happens or nothing. The stock is checked last, so that
 * a task which is already inserted has to disappear with its order.
 */
export async function placeOrder(db: ShopDb, order: Order): Promise<Placed> {
  try {
    await db.transaction(async (tx) => {
      // An order that arrives twice adds no row; the key of its confirmation refuses it.
      await tx.insert(orders).values(order).onConflictDoNothing()
      const task = confirmations.task({ orderNumber: order.number }, { idempotencyKey: order.number })
      await pushTaskWithTx(tx, task)
      await takeFromStock(tx, order)
    })
    return 'committed'
  } catch (error) {
    if (error instanceof OutOfStockError) return 'rolledBack'
    if (isApalisError(error, 'IDEMPOTENCY_CONFLICT')) return 'duplicate'
    throw error
  }
}

async function takeFromStock(tx: ShopTx, { product, quantity }: Order): Promise<void> {
  const taken = await tx
    .update(stock)
    .set({ available: sql`${stock.available} - ${quantity}` })
    .where(and(eq(stock.product, product), gte(stock.available, quantity)))
    .returning({ product: stock.product })
  if (taken.length === 0) throw new OutOfStockError(`Not enough of ${product} in stock.`)
}
