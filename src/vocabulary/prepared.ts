import { isTransaction, type Db } from './db.js'

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
