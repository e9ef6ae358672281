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

const DIGITS = new TextEncoder().encode('0123456789abcdef')
const decoder = new TextDecoder()

/** Through bytes, because a string that grows digit by digit takes ten times as long. */
function toHex(bytes: Uint8Array): string {
  const hex = new Uint8Array(2 * bytes.length)
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!
    hex[2 * i] = DIGITS[byte >> 4]!
    hex[2 * i + 1] = DIGITS[byte & 15]!
  }
  return decoder.decode(hex)
}
