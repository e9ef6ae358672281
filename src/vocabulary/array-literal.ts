/**
 * Postgres array literals. Drivers encode arrays differently (postgres.js cannot send bytea[] at all, and guesses the
 * type of others from the first element), a literal with a cast is the same everywhere.
 * Syntax: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
 */

/** For a cast to text[], int[], bigint[] or boolean[]. */
export function arrayLiteral(values: Iterable<string | number | boolean | null>): string {
  return `{${Array.from(values, element).join(',')}}`
}

/** For a cast to bytea[], in the hex format. */
export function bytesArrayLiteral(values: Iterable<Uint8Array>): string {
  return `{${Array.from(values, (bytes) => `"\\\\x${toHex(bytes)}"`).join(',')}}`
}

function element(value: string | number | boolean | null): string {
  if (typeof value !== 'string') return value === null ? 'NULL' : String(value)
  return `"${value.replace(/["\\]/g, '\\$&')}"`
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

function toHex(bytes: Uint8Array): string {
  let hex = ''
  for (const byte of bytes) hex += HEX[byte]
  return hex
}
