import { sql, type SQL } from 'drizzle-orm'
import { arrayLiteral, bytesArrayLiteral, type Element } from './array-literal.js'

type Type = 'text' | 'int' | 'bigint' | 'float8' | 'boolean' | 'bytea'
type Values = readonly Element[] | readonly Uint8Array[]

export interface RowArrays<Name extends string> {
  /** For FROM. */
  readonly source: SQL
  readonly column: Readonly<Record<Name, SQL>>
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
  const named = (name: Name) => sql.raw(`${alias}.${name}`)
  const arrays = types.map(([name, type]) => sql`${sql.placeholder(name)}::${sql.raw(type)}[]`)
  const column = types.map(([name, type]) => [
    name,
    name === first ? named(name) : sql`coalesce(${named(name)}, ${sql.placeholder(ofAll(name))}::${sql.raw(type)})`,
  ])
  return {
    source: sql`unnest(${sql.join(arrays, sql`, `)}) as ${sql.raw(`${alias}(${types.map(([name]) => name).join(', ')})`)}`,
    column: Object.fromEntries(column) as Record<Name, SQL>,
    parameters(values) {
      const parameters: Record<string, string | null> = {}
      for (const [name] of types) {
        const of = values[name]
        const agreed = name !== first && agreement(of)
        parameters[name] = agreed ? '{}' : literal(of)
        if (name !== first) parameters[ofAll(name)] = agreed && of[0] !== null ? String(of[0]) : null
      }
      return parameters
    },
  }
}

function ofAll(name: string): string {
  return `${name}OfAll`
}

function agreement(values: Values): boolean {
  const [first] = values
  return values.every((value) => value === first)
}

function literal(values: Values): string {
  return isBytes(values) ? bytesArrayLiteral(values) : arrayLiteral(values)
}

function isBytes(values: Values): values is readonly Uint8Array[] {
  return values[0] instanceof Uint8Array
}
