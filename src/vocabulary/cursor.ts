/** The place of a task in the lists, and its form outside: an opaque text that a caller hands back to read on from there. */
import { sql, type SQL, type SQLWrapper } from 'drizzle-orm'
import { InvalidArgumentError } from './errors.js'
import { isStatus, type Status } from './row.js'

/** What tasks are listed by. Times are whole microseconds since 1970, or an infinity: a `Date` holds less than a row. */
export interface Position {
  readonly queue: string
  readonly status: Status
  readonly doneAtUs: string | null
  readonly runAtUs: string
  readonly id: string
}

/** A column of time as a position has it. */
export function microseconds(time: SQLWrapper): SQL<string> {
  return sql<string>`floor(extract(epoch from ${time}) * 1000000.0)::text`
}

/** The reverse, exact also where a number of JavaScript or a double of Postgres would not be. */
export function instant(us: string): SQL {
  if (us === 'Infinity') return sql`'infinity'::timestamptz`
  if (us === '-Infinity') return sql`'-infinity'::timestamptz`
  return sql`('epoch'::timestamptz + ${`${us} microseconds`}::interval)`
}

export function formatCursor({ queue, status, doneAtUs, runAtUs, id }: Position): string {
  return toBase64Url(JSON.stringify([queue, status, doneAtUs, runAtUs, id]))
}

/** @throws {InvalidArgumentError} for the argument `after`, if no list of this library made the text. */
export function parseCursor(after: unknown): Position {
  const position = typeof after === 'string' ? read(after) : undefined
  if (position !== undefined && formatCursor(position) === after) return position
  throw new InvalidArgumentError('after', 'pass the cursor of a listed task, as it is.')
}

function read(text: string): Position | undefined {
  let parts: unknown
  try {
    parts = JSON.parse(fromBase64Url(text))
  } catch {
    return undefined
  }
  if (!Array.isArray(parts)) return undefined
  const [queue, status, doneAtUs, runAtUs, id] = parts as unknown[]
  if (typeof queue !== 'string' || typeof status !== 'string' || typeof id !== 'string') return undefined
  if (!isStatus(status) || !(doneAtUs === null || isMicroseconds(doneAtUs)) || !isMicroseconds(runAtUs))
    return undefined
  // The driver would send them as something else, and the database would refuse them.
  if ([queue, id].some((part) => part.includes('\0') || !part.isWellFormed())) return undefined
  return { queue, status, doneAtUs, runAtUs, id }
}

/** From 4714 BC, where the timestamps of Postgres begin, to the end of 64 bits, the year 294247. */
function isMicroseconds(value: unknown): value is string {
  if (typeof value !== 'string') return false
  if (value === 'Infinity' || value === '-Infinity') return true
  if (!/^(0|-?[1-9]\d{0,18})$/.test(value)) return false
  const us = BigInt(value)
  return us >= -210_866_803_200_000_000n && us <= 9_223_372_036_854_775_807n
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function toBase64Url(text: string): string {
  const bytes = Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join('')
  return btoa(bytes).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
}

function fromBase64Url(text: string): string {
  const bytes = atob(text.replaceAll('-', '+').replaceAll('_', '/'))
  return decoder.decode(Uint8Array.from(bytes, (character) => character.charCodeAt(0)))
}
