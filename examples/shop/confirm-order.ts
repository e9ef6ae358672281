import { AbortTaskError, DeferTaskError, RetryAfterError, type Handler } from 'apalis-drizzle'
import { eq, sql } from 'drizzle-orm'
import type { Confirmation, Receipt } from './confirmations.js'
import type { ShopDb } from './database.js'
import type { MailServer } from './mail-server.js'
import { orders } from './schema.js'

/**
 * The handler. It may run more than once for an order, and then sends a mail with the same id, which replaces the first. In
 * the shop's own books that would be a second confirmation, so these are kept in the transaction that completes the task.
 */
export function confirmOrder(db: ShopDb, mailServer: MailServer): Handler<Confirmation, Receipt> {
  return async ({ orderNumber }, { signal, completeWithTx }) => {
    const [order] = await db.select().from(orders).where(eq(orders.number, orderNumber))
    // The task exists only if its order was committed with it.
    if (!order) throw new AbortTaskError(`There is no order ${orderNumber}.`)

    const text = `Thank you for your order ${order.number}: ${order.quantity} x ${order.product}.`
    const answer = await mailServer.send({ to: order.customer, id: order.number, text }, signal)
    switch (answer.status) {
      case 'accepted':
        return db.transaction(async (tx) => {
          const confirmations = sql`${orders.confirmations} + 1`
          await tx.update(orders).set({ confirmations }).where(eq(orders.number, orderNumber))
          return completeWithTx(tx, { file: answer.file })
        })
      case 'no such mailbox':
        // Trying again would be in vain.
        throw new AbortTaskError('The customer has no mailbox.')
      case 'greylisted':
        // This attempt failed; the next one comes when the server wants it.
        throw new RetryAfterError(answer.retryAfterMs)
      case 'closed':
        // Nothing failed, it is only too early: no attempt is charged.
        throw new DeferTaskError(answer.opensInMs)
    }
    // Anything else that was thrown, such as a broken connection, is retried with the backoff of the queue.
  }
}
