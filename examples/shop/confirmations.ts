/** The queue that the shop's checkout fills and its mailer empties. Both import this file; only the mailer has the handler. */
import { defineQueue } from 'apalis-drizzle'

/** Not the order itself: the mailer reads it, and so sends what is true when it sends. */
export interface Confirmation {
  orderNumber: string
}

export interface Receipt {
  file: string
}

/** Three attempts, and short waits between them, so that the demo is over soon. */
export const confirmations = defineQueue<Confirmation, Receipt>('shop-confirmations', {
  maxAttempts: 3,
  retry: { baseMs: 200, factor: 2 },
  timeoutMs: 10_000,
})
