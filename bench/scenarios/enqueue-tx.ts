/** Enqueue inside a `db.transaction` of Drizzle that also inserts an order, 16 callers on 16 connections. */
import { enqueueing } from '../harness/enqueueing.ts'

export const enqueueTx = enqueueing('enqueue-tx', { inTransaction: true, target: { peer: 2, floor: 0.9 } })
