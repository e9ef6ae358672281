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

/** A statement of Drizzle's, not yet executed. */
export interface Preparable<Prepared> {
  toSQL(): { sql: string }
  prepare(name: string): Prepared
}

const preparedStatements = new WeakMap<object, Map<unknown, unknown>>()
const statementTexts = new WeakMap<object, Map<unknown, Written>>()
const statementNames = new Map<unknown, string>()

/**
 * The prepared form of a statement, built once per database. Prepared, it costs one round trip on every
 * driver; postgres.js needs two for an unprepared one.
 *
 * @param build - A function at module level: it is the key of the cache, and its text must not depend on anything else.
 */
export function prepared<Prepared>(db: Db, build: (db: Db) => Preparable<Prepared>): Prepared {
  // A transaction is over before it pays, and thousands of them in a WeakMap keep the garbage collector busy.
  if (isTransaction(db)) return prepareInTransaction(db, build)
  const statements = preparedStatements.get(db) ?? new Map<unknown, unknown>()
  preparedStatements.set(db, statements)
  const known = (statements.get(build) as Prepared | undefined) ?? prepare(build, build(db))
  statements.set(build, known)
  return known
}

function prepare<Prepared>(build: unknown, query: Preparable<Prepared>): Prepared {
  return query.prepare(statementName(build, query))
}

/** A statement that Drizzle has written: its text and its parameters, by name where they are placeholders. */
interface Written {
  query?: unknown
}

/** What Drizzle's statements are before they are written, as far as it is used here. */
interface Writable {
  getSQL(...options: unknown[]): { toQuery(config: unknown): unknown }
}

/**
 * Each transaction is an object of its own, and to write a statement takes Drizzle a tenth of the time of a whole short
 * transaction. So it is written for the first transaction of a kind, and the others are given what that has written.
 */
function prepareInTransaction<Prepared>(tx: Db, build: (db: Db) => Preparable<Prepared>): Prepared {
  const kind: object = tx.constructor
  const texts = statementTexts.get(kind) ?? new Map<unknown, Written>()
  statementTexts.set(kind, texts)
  const written = texts.get(build) ?? {}
  texts.set(build, written)
  const query = build(tx)
  const { getSQL } = query as Partial<Writable>
  // Of a Drizzle that asks in another way nothing is saved, and nothing breaks.
  if (getSQL !== undefined) {
    ;(query as unknown as Writable).getSQL = (...options) => ({
      toQuery: (config) => (written.query ??= getSQL.apply(query, options).toQuery(config)),
    })
  }
  return prepare(build, query)
}

/** node-postgres refuses one name for two texts on a connection, so the name is made from the text. */
function statementName(build: unknown, query: Preparable<unknown>): string {
  const known = statementNames.get(build)
  if (known !== undefined) return known
  const name = `apalis_${fnv1a(query.toSQL().sql)}`
  statementNames.set(build, name)
  return name
}

/** FNV-1a, 32 bits (http://www.isthe.com/chongo/tech/comp/fnv/): enough to tell a dozen statements apart. */
function fnv1a(text: string): string {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return (hash >>> 0).toString(16).padStart(8, '0')
}
