import { sql, type SQL } from 'drizzle-orm'
import { arrayLiteral, bytesArrayLiteral, type Element } from './array-literal.js'

type Type = 'text' | 'int' | 'bigint' | 'float8' | 'boolean' | 'bytea'
type Values = readonly Element[] | readonly Uint8Array[]

export interface RowArrays<Name extends string> {
  /** For FROM: the rows, under the name that was given. */
  readonly source: SQL
  /** @param values - Of each column, row by row. */
  parameters(values: Readonly<Record<Name, Values>>): Record<string, string | null>
}

/**
 * Rows that a statement takes as arrays, one for each column: one constant text for any number of rows, and few parameters.
 *
 * A value on which all rows agree is sent and read once, as most columns of a batch are: its array is empty, which unnest
 * fills up with nulls. Only the first column is always sent in full, because it says how many rows there are.
 *
 * @param columns - Their types, by names in lower case.
 */
export function rowArrays<Name extends string>(alias: string, columns: Readonly<Record<Name, Type>>): RowArrays<Name> {
  const types = Object.entries(columns) as [Name, Type][]
  const [[first]] = types as [[Name, Type]]
  const names = sql.raw(types.map(([name]) => name).join(', '))
  const arrays = types.map(([name, type]) => sql`${sql.placeholder(name)}::${sql.raw(type)}[]`)
  const values = types.map(([name, type]) => {
    const value = sql.raw(name)
    return name === first
      ? value
      : // As text, because drivers send other types in ways of their own.
        sql`coalesce(${value}, ${sql.placeholder(ofAll(name))}::text::${sql.raw(type)}) as ${value}`
  })
  return {
    source: sql`(select ${sql.join(values, sql`, `)} from unnest(${sql.join(arrays, sql`, `)}) as sent(${names})) as ${sql.raw(alias)}`,
    parameters(rows) {
      const parameters: Record<string, string | null> = {}
      for (const [name] of types) {
        const column = rows[name]
        const agreed = name !== first && isOneValue(column)
        const [value = null] = column
        parameters[name] = agreed ? '{}' : literal(column)
        if (name !== first) parameters[ofAll(name)] = agreed && value !== null ? String(value) : null
      }
      return parameters
    },
  }
}

function ofAll(name: string): string {
  return `${name}OfAll`
}

function isOneValue(column: Values): boolean {
  const [first] = column
  return column.every((value) => value === first)
}

function literal(column: Values): string {
  return isBytes(column) ? bytesArrayLiteral(column) : arrayLiteral(column)
}

function isBytes(column: Values): column is readonly Uint8Array[] {
  return column[0] instanceof Uint8Array
}
