/** From values to stored bytes and back. */
import { InvalidArgumentError, isApalisError } from './errors.js'
import { keepsIntegers } from './json-text.js'
import { kindOf, RefusedValue, tooLarge, type WalkRules } from './json-value.js'
import { MAX_PAYLOAD_BYTES } from './limits.js'
import { errorName } from './standard-schema.js'
import { isEnvelope, readAnnotated, UnreadableValue, wrapLookAlike, writeEnvelope } from './superjson-envelope.js'

/** How the payloads of a queue become bytes. Producers and consumers of a queue have to use the same one. */
export interface Codec<T = unknown> {
  readonly encode: (value: T) => Uint8Array
  readonly decode: (bytes: Uint8Array) => T
}

/**
 * The default: a plain JSON value is stored as `JSON.stringify` writes it, so that any other program can read it. A value
 * with bigint, Date, Map, Set, URL, RegExp, typed arrays, NaN, infinities or undefined in it is stored in the form of
 * superjson. What would not come back as it was (functions, class instances, symbols, invalid dates, holes in arrays,
 * cycles) is refused.
 *
 * In a value that is otherwise plain, `-0` becomes `0` and properties that are undefined are absent. An object referenced
 * twice comes back as two objects.
 */
export const superjsonCodec: Codec = {
  encode: (value) => encodeArgs(value, { root: 'args', rich: true, text: 'any' }),
  decode: (bytes) => readAnnotated(parseJson(decodeText(bytes))),
}

/**
 * Only JSON, for queues shared with other languages: what JSON cannot say is refused at push, and so are strings that
 * Rust cannot read (lone surrogates). `undefined` as the whole payload is stored as `null`.
 */
export const jsonCodec: Codec = {
  encode: (value) => encodeArgs(value, { root: 'args', rich: false, text: 'well-formed' }),
  decode: (bytes) => parseJson(decodeText(bytes)),
}

/**
 * The JSON text of a value, by the rule of `superjsonCodec`, or with `rich: false` of `jsonCodec`.
 *
 * @throws {RefusedValue}
 */
export function writeValue(value: unknown, rules: WalkRules): string {
  if (value === undefined && !rules.rich) return 'null'
  if (kindOf(value, rules) === 'rich') return writeEnvelope(value)
  const json = JSON.stringify(value)
  return rules.rich && isEnvelope(value) ? wrapLookAlike(json) : json
}

/** Parses JSON text without changing its integers. @throws {UnreadableValue} */
export function parseJson(json: string): unknown {
  const value = parse(json)
  if (keepsIntegers(json)) return value
  throw new UnreadableValue(
    'it holds an integer that a JavaScript number would round; send it as a string, or give the queue a codec that keeps it',
  )
}

/** Turns whatever was thrown while a value was written into an error that does not quote the value. */
export function refusal(argument: string, error: unknown): InvalidArgumentError {
  if (isApalisError(error, 'INVALID_ARGUMENT')) return error
  if (error instanceof RefusedValue) {
    return new InvalidArgumentError(argument, `${error.message}.`, [{ path: error.path, message: error.message }])
  }
  return new InvalidArgumentError(argument, `writing it threw ${errorName(error)}, from a getter or the queue's codec.`)
}

/** The same for what was thrown while it was read. Goes on after "cannot be decoded:". */
export function unreadableReason(error: unknown): string {
  return error instanceof UnreadableValue ? error.message : `the queue's codec threw ${errorName(error)}`
}

const encoder = new TextEncoder()
// A byte order mark is kept, and so refused: no writer of the contract writes one.
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function encodeArgs(value: unknown, rules: WalkRules): Uint8Array {
  try {
    const bytes = encoder.encode(writeValue(value, rules))
    if (bytes.length > MAX_PAYLOAD_BYTES) throw new RefusedValue(rules.root, [], tooLarge(bytes.length))
    return bytes
  } catch (error) {
    throw refusal(rules.root, error)
  }
}

function decodeText(bytes: Uint8Array): string {
  try {
    return decoder.decode(bytes)
  } catch {
    throw new UnreadableValue('it is not UTF-8')
  }
}

function parse(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    throw new UnreadableValue('it is not JSON')
  }
}
