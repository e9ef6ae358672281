/** What a database holds of the library's objects, as PostgreSQL itself describes them: texts, so that they compare and print. */

export interface Catalog {
  /** By name: tables, views and whatever else has columns in schema `apalis`. */
  readonly relations: Readonly<Record<string, Relation>>
  /** `table.constraint` to its definition. */
  readonly constraints: Readonly<Record<string, string>>
  readonly indexes: Readonly<Record<string, Index>>
  /** `name(argument types)` to the function. */
  readonly functions: Readonly<Record<string, CatalogFunction>>
  /** `table.trigger` to its definition, with ` (disabled)` after it where it does not fire. */
  readonly triggers: Readonly<Record<string, string>>
  /** Likewise for schema `apalis_drizzle`. */
  readonly own: Pick<Catalog, 'relations' | 'constraints'>
  readonly ledger: LedgerAccess
}

export interface Relation {
  /** `r` is a table, `m` a materialized view, `v` a view (pg_class.relkind). */
  readonly kind: string
  /** `name type [not null] [default expression]`, in order. */
  readonly columns: readonly string[]
  /** Storage parameters as `name=value`. */
  readonly settings: readonly string[]
}

export interface Index {
  readonly definition: string
  /** False while it is being built and after a build that was interrupted. */
  readonly valid: boolean
}

export interface CatalogFunction {
  /** Arguments, result, language, volatility, rights, settings. */
  readonly signature: string
  readonly body: string
}

/** What the session may do with the ledger of applied migrations. */
export interface LedgerAccess {
  readonly exists: boolean
  readonly readable: boolean
  readonly writable: boolean
}
