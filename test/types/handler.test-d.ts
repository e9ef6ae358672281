import { drizzle } from 'drizzle-orm/postgres-js'
import type { Sql } from 'postgres'
import { describe, expectTypeOf, it } from 'vitest'
import type { Completed, Handler, Outcome, PostgresStorage, TaskContext } from '../../src/index.js'

declare const sql: Sql
declare const storage: PostgresStorage<{ orderId: number }, { file: string }>
declare const quiet: PostgresStorage<number>
declare const pending: Promise<Response>
const db = drizzle({ client: sql })

describe('a handler', () => {
  it('returns the result of its queue, or what completeWithTx resolves to, and nothing else', () => {
    storage.worker(({ orderId }) => ({ file: `${orderId}` }))
    storage.worker((_, ctx) => db.transaction((tx) => ctx.completeWithTx(tx, { file: 'a' })))
    storage.worker(async ({ orderId }, { completeWithTx }) => {
      if (orderId === 0) return { file: 'none' }
      return db.transaction((tx) => completeWithTx(tx, { file: 'a' }))
    })
    quiet.worker(async (_, ctx) => db.transaction((tx) => ctx.completeWithTx(tx, undefined)))
    // @ts-expect-error the queue has another result
    storage.worker(() => ({ files: [] }))
    // @ts-expect-error a queue without a result takes none
    quiet.worker(() => pending)
    // @ts-expect-error only completeWithTx makes one
    storage.worker(() => ({ completed: true }))
  })

  it('completes with the result of its queue, in a transaction', () => {
    expectTypeOf<TaskContext<number, string>>().not.toBeAny()
    expectTypeOf<TaskContext<number, string>['completeWithTx']>().returns.toEqualTypeOf<Promise<Completed>>()
    expectTypeOf<Parameters<Handler<number, string>>>().toEqualTypeOf<[number, TaskContext<number, string>]>()
    storage.worker((_, ctx) => {
      // @ts-expect-error a database is no transaction
      void ctx.completeWithTx(db, { file: 'a' })
      // @ts-expect-error the queue has another result
      return db.transaction((tx) => ctx.completeWithTx(tx, 'a'))
    })
  })

  it('cannot make a Completed of anything else', () => {
    expectTypeOf<object>().not.toExtend<Completed>()
    expectTypeOf<{ file: string }>().not.toExtend<Completed>()
  })
})

describe('ackWithTx', () => {
  it('takes a transaction, a claim and an outcome of the queue', () => {
    type Arguments = Parameters<typeof storage.ackWithTx>
    expectTypeOf<Arguments[1]['args']>().toEqualTypeOf<{ orderId: number }>()
    expectTypeOf<Arguments[2]>().toEqualTypeOf<Outcome<{ file: string }>>()
    expectTypeOf(db).not.toExtend<Arguments[0]>()
    void db.transaction(async (tx) => expectTypeOf(tx).toExtend<Arguments[0]>())
  })
})
