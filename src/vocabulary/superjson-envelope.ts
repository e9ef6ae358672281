/**
 * The form of a rich value: `{"json": …, "meta": {"values": …, "v": 1}}`, as superjson writes it.
 *
 * Reading does not go through superjson: stored bytes may come from an end user through another service, and 85 bytes are
 * enough to make `SuperJSON.parse` allocate gigabytes. Each annotation is checked against the raw value and applied in
 * the same step, so that what was checked is what is used.
 */
import { SuperJSON } from 'superjson'
import {
  FORBIDDEN_KEYS,
  MAX_BIGINT_DIGITS,
  MAX_DEPTH,
  MAX_REGEXP_LENGTH,
  MAX_URL_LENGTH,
  TYPED_ARRAYS,
} from './json-value.js'

/** Own instance: what the application registers on the shared one would be unreadable for others. */
const superjson = new SuperJSON()

/** Stored bytes that are not a value. The message names no part of them. */
export class UnreadableValue extends Error {}

interface Envelope {
  readonly json: unknown
  readonly meta: { readonly values: object; readonly v: 1 }
}

/** The JSON text of a rich value. `referentialEqualities` are left out: identity is not part of a value. */
export function writeEnvelope(value: unknown): string {
  const { json, meta } = superjson.serialize(value)
  return JSON.stringify({ json, meta: { values: meta?.values, v: 1 } })
}

/** A plain value that would be mistaken for an envelope, in one of its own. */
export function wrapLookAlike(json: string): string {
  return `{"json":${json},"meta":{"values":{},"v":1}}`
}

/** Whether a plain or parsed value has the form of an envelope. Undefined properties are not written, so they do not count. */
export function isEnvelope(value: unknown): value is Envelope {
  // Nearly all values end here, and each payload and result passes: so nothing is allocated for it.
  if (typeof value !== 'object' || value === null || !('meta' in value)) return false
  if (!hasExactly(value, 'json', 'meta') || !hasExactly(value['meta'], 'values', 'v')) return false
  const { values, v } = value['meta']
  return v === 1 && typeof values === 'object' && values !== null
}

/**
 * What parsed JSON stands for: an envelope for the value in it, anything else for itself. Changes the envelope.
 *
 * @throws {UnreadableValue} if an annotation does not fit the raw value.
 */
export function readAnnotated(parsed: unknown): unknown {
  if (!isEnvelope(parsed)) return parsed
  const top = { json: parsed.json }
  new Reading().apply(top, 'json', parsed.meta.values, 0)
  return top.json
}

/** One reading of one envelope. */
class Reading {
  #regExpLength = 0

  /** Either `[type]`, `[type, annotations of its parts]` or the latter alone. Parts first: they are named by their raw places. */
  apply(parent: object, key: string, tree: unknown, depth: number): void {
    if (!Array.isArray(tree)) return this.#applyParts(own(parent, key), tree, depth)
    const [type, parts] = tree as unknown[]
    if (tree.length > 2) throw new UnreadableValue('an annotation is malformed')
    if (tree.length === 2) this.#applyParts(own(parent, key), parts, depth)
    ;(parent as Record<string, unknown>)[key] = this.#restore(type, own(parent, key))
  }

  #applyParts(value: unknown, parts: unknown, depth: number): void {
    if (!isRecord(parts)) throw new UnreadableValue('an annotation is malformed')
    for (const [path, tree] of Object.entries(parts)) {
      const keys = parsePath(path)
      if (depth + keys.length > MAX_DEPTH) throw new UnreadableValue('an annotation points too deep')
      const last = keys.pop() ?? ''
      const parent = keys.reduce(own, value)
      own(parent, last)
      this.apply(parent as object, last, tree, depth + keys.length + 1)
    }
  }

  #restore(type: unknown, raw: unknown): unknown {
    const restored = Array.isArray(type) ? this.#typedArray(type, raw) : this.#simple(type, raw)
    if (restored === UNFIT) {
      throw new UnreadableValue('an annotation does not fit its value, or names a type that is not read')
    }
    return restored
  }

  #simple(type: unknown, raw: unknown): unknown {
    switch (type) {
      case 'undefined':
        return raw === null ? undefined : UNFIT
      case 'number':
        return NUMBERS.get(raw) ?? UNFIT
      case 'map':
        return Array.isArray(raw) && raw.every(isPair) ? new Map(raw) : UNFIT
      case 'set':
        return Array.isArray(raw) ? new Set(raw) : UNFIT
      default:
        return typeof raw === 'string' ? this.#fromText(type, raw) : UNFIT
    }
  }

  #fromText(type: unknown, raw: string): unknown {
    switch (type) {
      case 'bigint':
        return raw.length <= MAX_BIGINT_DIGITS + 1 && /^-?\d+$/.test(raw) ? BigInt(raw) : UNFIT
      case 'Date': {
        const date = new Date(raw)
        return Number.isNaN(date.getTime()) ? UNFIT : date
      }
      case 'URL':
        return raw.length <= MAX_URL_LENGTH && URL.canParse(raw) ? new URL(raw) : UNFIT
      case 'regexp':
        return this.#regExp(raw)
      default:
        return UNFIT
    }
  }

  #regExp(raw: string): unknown {
    const end = raw.lastIndexOf('/')
    const [source, flags] = [raw.slice(1, end), raw.slice(end + 1)]
    this.#regExpLength += source.length
    if (!raw.startsWith('/') || end < 2 || flags.includes('v') || this.#regExpLength > MAX_REGEXP_LENGTH) return UNFIT
    try {
      return new RegExp(source, flags)
    } catch {
      return UNFIT
    }
  }

  #typedArray([kind, name, ...others]: readonly unknown[], raw: unknown): unknown {
    if (kind !== 'typed-array' || others.length > 0 || typeof name !== 'string') return UNFIT
    if (!Object.hasOwn(TYPED_ARRAYS, name) || !Array.isArray(raw) || !raw.every(isNumber)) return UNFIT
    const array = TYPED_ARRAYS[name as keyof typeof TYPED_ARRAYS].from(raw)
    return raw.every((element, index) => array[index] === element) ? array : UNFIT
  }
}

const UNFIT = Symbol('unfit')

const NUMBERS = new Map<unknown, number>([
  ['NaN', NaN],
  ['Infinity', Infinity],
  ['-Infinity', -Infinity],
  ['-0', -0],
])

/** A part of a raw value. What is already restored has no parts, so no annotation reaches into another. */
function own(value: unknown, key: string): unknown {
  const reachable = Array.isArray(value) ? /^(0|[1-9]\d*)$/.test(key) : isRecord(value) && !FORBIDDEN_KEYS.has(key)
  if (!reachable || !Object.hasOwn(value as object, key)) throw new UnreadableValue('an annotation points to nothing')
  return (value as Record<string, unknown>)[key]
}

/** Keys joined by dots; dots and backslashes inside a key are escaped. */
function parsePath(path: string): string[] {
  const keys: string[] = []
  let key = ''
  for (let at = 0; at < path.length; at++) {
    const char = path.charAt(at)
    if (char === '.') {
      keys.push(key)
      key = ''
    } else if (char === '\\') {
      const escaped = path.charAt(++at)
      if (escaped !== '\\' && escaped !== '.') throw new UnreadableValue('an annotation is malformed')
      key += escaped
    } else {
      key += char
    }
  }
  return [...keys, key]
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number'
}

function isPair(value: unknown): value is [unknown, unknown] {
  return Array.isArray(value) && value.length === 2
}

function isRecord(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

function hasExactly<Key extends string>(value: unknown, ...keys: Key[]): value is Record<Key, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  const record = value as Record<string, unknown>
  const present = Object.keys(record).filter((key) => record[key] !== undefined)
  return present.length === keys.length && keys.every((key) => present.includes(key))
}
