/**
 * Postgres array literals. Drivers encode arrays differently (postgres.js cannot send bytea[] at all, and guesses the
 * type of others from the first element), a literal with a cast is the same everywhere.
 * Syntax: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
 */

export type Element = string | number | boolean | null

/** For a cast to text[], int[], bigint[] or boolean[]. */
export function arrayLiteral(values: Iterable<Element>): string {
  let literal = ''
  for (const value of values) literal += literal === '' ? element(value) : `,${element(value)}`
  return `{${literal}}`
}

/** For a cast to bytea[], in the hex format. */
export function bytesArrayLiteral(values: readonly Uint8Array[]): string {
  return decoder.decode(bytesLiteral(values))
}

function element(value: Element): string {
  if (typeof value !== 'string') return value === null ? 'NULL' : String(value)
  return TO_ESCAPE.test(value) ? `"${value.replace(/["\\]/g, '\\$&')}"` : `"${value}"`
}

const TO_ESCAPE = /["\\]/
const decoder = new TextDecoder()
const [OPEN, CLOSE, COMMA, QUOTE] = new TextEncoder().encode('{},"') as unknown as [number, number, number, number]
const PREFIX = new TextEncoder().encode('"\\\\x')
const DIGITS = new TextEncoder().encode('0123456789abcdef')

/** Through one piece of memory, because a string that grows digit by digit takes ten times as long. */
function bytesLiteral(values: readonly Uint8Array[]): Uint8Array {
  const length = values.reduce((sum, bytes) => sum + PREFIX.length + 2 * bytes.length + 2, 1)
  const literal = new Uint8Array(Math.max(length, 2))
  literal[0] = OPEN
  let end = 1
  for (const bytes of values) {
    if (end > 1) literal[end++] = COMMA
    literal.set(PREFIX, end)
    end += PREFIX.length
    for (const byte of bytes) {
      literal[end++] = DIGITS[byte >> 4]!
      literal[end++] = DIGITS[byte & 15]!
    }
    literal[end++] = QUOTE
  }
  literal[end] = CLOSE
  return literal
}
