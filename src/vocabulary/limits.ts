/** What may be stored, and what PostgreSQL cannot store: NUL in text, NUL and lone surrogates in jsonb. */
import { InvalidArgumentError } from './errors.js'

// All caps are shared with the Rust crates; only what is strictly greater is refused.
export const MAX_PAYLOAD_BYTES = 1_048_576
export const MAX_RESULT_BYTES = 1_048_576
export const MAX_METADATA_BYTES = 8192
const MAX_KEY_BYTES = 1024
const MAX_QUEUE_BYTES = 255
const MAX_WORKER_BYTES = 255
export const MAX_ERROR_BYTES = 8192

/** The largest `int4`, the type of the columns for attempts and priority. */
export const MAX_INT4 = 2_147_483_647

/** A hundred years. PostgreSQL could take more, but nobody means it. */
export const MAX_DELAY_MS = 36_525 * 86_400_000

/** The last second that Rust's timestamps can represent (year 262142), with its milliseconds. */
export const MAX_RUN_AT_MS = 8_210_266_876_799_999

const encoder = new TextEncoder()

export function byteLength(text: string): number {
  return encoder.encode(text).length
}

/** @throws {InvalidArgumentError} if it is not a queue name: 1 to 255 bytes of UTF-8 without NUL. */
export function checkQueueName(name: string, argument = 'queue'): string {
  checkText(argument, name, MAX_QUEUE_BYTES)
  if (name === '') throw new InvalidArgumentError(argument, 'a queue needs a name of at least one character.')
  return name
}

/** @throws {InvalidArgumentError} if it is not a worker name: 1 to 255 bytes of UTF-8 without NUL. */
export function checkWorkerName(name: string, argument = 'name'): string {
  checkText(argument, name, MAX_WORKER_BYTES)
  if (name === '') {
    throw new InvalidArgumentError(
      argument,
      'a worker needs a name of at least one character; leave it out to get one.',
    )
  }
  return name
}

/** The empty string is a real key. */
export function checkIdempotencyKey(key: string): string {
  return checkText('idempotencyKey', key, MAX_KEY_BYTES)
}

/** @throws {InvalidArgumentError} if PostgreSQL cannot store the text, or would store another one. */
function checkText(argument: string, text: string, maxBytes: number): string {
  if (typeof text !== 'string') throw new InvalidArgumentError(argument, `a string is needed, not ${typeOf(text)}.`)
  const problem = text.includes('\0') ? 'a NUL character' : text.isWellFormed() ? undefined : 'a lone surrogate'
  if (problem !== undefined) {
    throw new InvalidArgumentError(argument, `it contains ${problem}, which PostgreSQL cannot store; remove it.`)
  }
  // Three bytes are the most that one UTF-16 unit takes.
  if (text.length * 3 <= maxBytes) return text
  const bytes = byteLength(text)
  if (bytes > maxBytes) {
    throw new InvalidArgumentError(
      argument,
      `it has ${bytes} bytes of UTF-8, and the limit is ${maxBytes}; shorten it, for example to a hash.`,
    )
  }
  return text
}

/** @throws {InvalidArgumentError} if it is not an integer between `min` and 2^31-1. */
export function checkInt4(argument: string, value: number, min: 0 | 1): number {
  if (!Number.isInteger(value) || value < min || value > MAX_INT4) {
    throw new InvalidArgumentError(argument, `an integer from ${min} to ${MAX_INT4} is needed, not ${shown(value)}.`)
  }
  return value
}

/** Whether it is a number of milliseconds that a task can be delayed by. */
export function isDelay(value: unknown): value is number {
  return typeof value === 'number' && value >= 0 && value <= MAX_DELAY_MS
}

/** @throws {InvalidArgumentError} if it is no delay. */
export function checkDelay(argument: string, value: number): number {
  if (!isDelay(value)) {
    throw new InvalidArgumentError(
      argument,
      `milliseconds from 0 to ${MAX_DELAY_MS} (100 years) are needed, not ${shown(value)}.`,
    )
  }
  return value
}

/** @throws {InvalidArgumentError} if it is no date, or one that the `run_at` column or a Rust peer cannot hold. */
export function checkInstant(argument: string, value: Date): number {
  if (!(value instanceof Date)) throw new InvalidArgumentError(argument, `a Date is needed, not ${typeOf(value)}.`)
  const ms = value.getTime()
  if (!(ms >= 0 && ms <= MAX_RUN_AT_MS)) {
    throw new InvalidArgumentError(
      argument,
      Number.isNaN(ms)
        ? 'it is an Invalid Date; check what it was parsed from.'
        : `it has to lie between 1970-01-01 and second ${Math.floor(MAX_RUN_AT_MS / 1000)} of the epoch (year 262142).`,
    )
  }
  return ms
}

/**
 * @param options - What was passed as options; `undefined` has none.
 * @param known - All options that there are.
 * @throws {InvalidArgumentError} for another one, which is a misspelt one most of the time.
 */
export function checkOptionNames(
  options: object | undefined,
  known: Readonly<Record<string, true>>,
  argument = 'options',
): void {
  if (options === undefined) return
  if (typeof options !== 'object' || options === null) {
    throw new InvalidArgumentError(argument, `an object is needed, not ${typeOf(options)}.`)
  }
  for (const name of Object.keys(options)) {
    if (Object.hasOwn(known, name)) continue
    const names = Object.keys(known).join(', ')
    throw new InvalidArgumentError(argument, `there is no option ${quoted(name)} here, but ${names}.`)
  }
}

/**
 * @param example - What the caller may have meant.
 * @throws {InvalidArgumentError} for what is no series, and for a string, which is one of characters.
 */
export function checkSeries<Item>(argument: string, series: Iterable<Item>, example: string): Iterable<Item> {
  if (typeof series === 'object' && typeof series?.[Symbol.iterator] === 'function') return series
  throw new InvalidArgumentError(
    argument,
    `an array or another series is needed, such as ${example}, not ${typeOf(series)}.`,
  )
}

/** A text in quotes, shortened: a name or an id, of which nobody knows what it is. */
export function quoted(text: string): string {
  return JSON.stringify(text.length <= 40 ? text : `${text.slice(0, 40)}…`)
}

/** A number as it is, of anything else the type: options hold no payload, but what was passed in their place may. */
export function shown(value: unknown): string {
  return typeof value === 'number' ? String(value) : typeOf(value)
}

/** `an array`, `null`, `a string` … */
export function typeOf(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (Array.isArray(value)) return 'an array'
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}
