/** What `ctx.completeWithTx` resolves to. A handler returns it in place of the result, which is stored already. */
export interface Completed {
  readonly [brand]: 'Completed'
}
declare const brand: unique symbol

/**
 * The same for every task: whether a task is completed says its row. A symbol, so that it cannot be stored as a part of a
 * result.
 */
export const COMPLETED = Symbol('Completed') as unknown as Completed
