/**
 * The part of a Drizzle database that the library calls. The only file that knows Drizzle's class names; everything
 * else depends on the shapes below. Drizzle 0.45 and 1.0 name their classes differently, so `Db` asks which it is.
 */
import { InvalidArgumentError } from './errors.js'

/** A Drizzle transaction on Postgres, any driver. A plain `db` does not fit. */
export interface PgTx {
  execute(query: never): PromiseLike<unknown>
  refreshMaterializedView(view: never): unknown
  rollback(): never
  setTransaction(config: never): PromiseLike<unknown>
}

/** A Drizzle database on Postgres, any driver. A transaction does not fit. */
export interface PgDb {
  execute(query: never): PromiseLike<unknown>
  refreshMaterializedView(view: never): unknown
  transaction(run: never, config?: never): PromiseLike<unknown>
  readonly rollback?: never
}

/** For helper functions that take the caller's transaction: `type Tx = TxOf<typeof db>`. */
export type TxOf<Database extends { transaction(run: never, config?: never): unknown }> = Database extends {
  transaction(run: (tx: infer Tx) => Promise<unknown>, config?: never): unknown
}
  ? Tx
  : never

type Core = typeof import('drizzle-orm/pg-core')
// Drizzle's own generics say nothing that the statements need: they are typed by the tables.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
type Instance<Class> = Class extends abstract new (...args: any) => infer Value ? Value : never

/** A Drizzle database or transaction, as the statements use it. Never part of a public signature. */
export type Db = Core extends { PgAsyncDatabase: infer Class }
  ? Instance<Class>
  : Core extends { PgDatabase: infer Class }
    ? Instance<Class>
    : never

/** The database to write to and to read state from: with Drizzle's `withReplicas` the primary, because replicas lag. */
export function primary(db: PgDb): Db {
  const { $primary } = db as { $primary?: unknown }
  return ($primary ?? db) as Db
}

/**
 * The caller's transaction. Refuses a plain database at run time too, for callers whose types were lost on the way.
 *
 * @param otherwise - What to do outside of a transaction.
 */
export function transaction(
  tx: PgTx,
  call: string,
  otherwise = 'To enqueue outside a transaction use storage.push.',
): Db {
  if (typeof (tx as Partial<PgTx> | undefined)?.rollback !== 'function') {
    const needed = `${call} needs the transaction that db.transaction hands to its callback.`
    throw new InvalidArgumentError('tx', `${needed} ${otherwise}`)
  }
  return tx as unknown as Db
}

/** A plain database, not a transaction. */
export function database(db: PgDb, call: string): Db {
  if (typeof (db as { transaction?: unknown } | undefined)?.transaction !== 'function') {
    throw new InvalidArgumentError(
      'db',
      `${call} needs a Drizzle database on Postgres, as drizzle({ client }) returns it.`,
    )
  }
  if (typeof (db as { rollback?: unknown }).rollback === 'function') {
    throw new InvalidArgumentError('db', `${call} needs the database itself, not a transaction.`)
  }
  return primary(db)
}

/** Whether it is a transaction, where both will do. */
export function isTransaction(dbOrTx: PgDb | PgTx | Db): boolean {
  return typeof (dbOrTx as Partial<PgTx> | undefined)?.rollback === 'function'
}

/** Either of them. */
export function databaseOrTransaction(dbOrTx: PgDb | PgTx, call: string): Db {
  if (isTransaction(dbOrTx)) return dbOrTx as unknown as Db
  return database(dbOrTx as PgDb, call)
}

/** Drizzle's own name for the class of a database, such as `PostgresJsDatabase`; the same in every copy of Drizzle. */
export function kindOf(db: Db): string | undefined {
  const { constructor } = db as unknown as { constructor: { [kind: symbol]: unknown } }
  const kind = constructor[Symbol.for('drizzle:entityKind')]
  return typeof kind === 'string' ? kind : undefined
}
