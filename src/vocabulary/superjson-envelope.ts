/**
 * The form of a rich value: `{"json": …, "meta": {"values": …, "v": 1}}`, as superjson writes it.
 *
 * Reading does not go through superjson: stored bytes may come from an end user through another service, and 85 bytes are
 * enough to make `SuperJSON.parse` allocate gigabytes. Each annotation is checked against the raw value and applied in
 * the same step, so that what was checked is what is used.
 */
import { SuperJSON } from 'superjson'
import { FORBIDDEN_KEYS, MAX_BIGINT_DIGITS, MAX_DEPTH, TYPED_ARRAYS } from './json-value.js'

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
  applyTree(top, 'json', parsed.meta.values, 0)
  return top.json
}

/** Either `[type]`, `[type, annotations of its parts]` or the latter alone. Parts first: they are named by their raw places. */
function applyTree(parent: object, key: string, tree: unknown, depth: number): void {
  if (!Array.isArray(tree)) return applyParts(own(parent, key), tree, depth)
  const [type, parts] = tree as unknown[]
  if (tree.length > 2) throw new UnreadableValue('an annotation is malformed')
  if (tree.length === 2) applyParts(own(parent, key), parts, depth)
  ;(parent as Record<string, unknown>)[key] = restore(type, own(parent, key))
}

function applyParts(value: unknown, parts: unknown, depth: number): void {
  if (typeof parts !== 'object' || parts === null || Array.isArray(parts))
    throw new UnreadableValue('an annotation is malformed')
  for (const [path, tree] of Object.entries(parts)) {
    const keys = parsePath(path)
    if (depth + keys.length > MAX_DEPTH) throw new UnreadableValue('an annotation points too deep')
    const last = keys.pop() ?? ''
    const parent = keys.reduce(own, value)
    own(parent, last)
    applyTree(parent as object, last, tree, depth + keys.length + 1)
  }
}

/** A part of a raw value. What is already restored has no parts, so no annotation reaches into another. */
function own(value: unknown, key: string): unknown {
  const reachable = Array.isArray(value) ? /^(0|[1-9]\d*)$/.test(key) : isRecord(value) && !FORBIDDEN_KEYS.has(key)
  if (!reachable || !Object.hasOwn(value as object, key)) throw new UnreadableValue('an annotation points to nothing')
  return (value as Record<string, unknown>)[key]
}

/** Keys joined by dots; dots and backslashes inside a key are escaped. */
function parsePath(path: string): string[] {
  const keys = ['']
  for (let at = 0; at < path.length; at++) {
    let char = path.charAt(at)
    if (char === '.') {
      keys.push('')
      continue
    }
    if (char === '\\') {
      char = path.charAt(++at)
      if (char !== '\\' && char !== '.') throw new UnreadableValue('an annotation is malformed')
    }
    keys[keys.length - 1] += char
  }
  return keys
}

function restore(type: unknown, raw: unknown): unknown {
  const restored = Array.isArray(type)
    ? type.length === 2 && type[0] === 'typed-array'
      ? typedArray(type[1], raw)
      : UNFIT
    : typeof type === 'string' && Object.hasOwn(RESTORERS, type)
      ? RESTORERS[type]?.(raw)
      : UNFIT
  if (restored === UNFIT)
    throw new UnreadableValue('an annotation does not fit its value, or names a type that is not read')
  return restored
}

const UNFIT = Symbol('unfit')

const NUMBERS = new Map<unknown, number>([
  ['NaN', NaN],
  ['Infinity', Infinity],
  ['-Infinity', -Infinity],
  ['-0', -0],
])

const RESTORERS: Record<string, (raw: unknown) => unknown> = {
  undefined: (raw) => (raw === null ? undefined : UNFIT),
  number: (raw) => NUMBERS.get(raw) ?? UNFIT,
  bigint: (raw) =>
    typeof raw === 'string' && raw.length <= MAX_BIGINT_DIGITS + 1 && /^-?\d+$/.test(raw) ? BigInt(raw) : UNFIT,
  Date: (raw) => {
    const date = typeof raw === 'string' ? new Date(raw) : undefined
    return date === undefined || Number.isNaN(date.getTime()) ? UNFIT : date
  },
  regexp: (raw) => {
    const end = typeof raw === 'string' ? raw.lastIndexOf('/') : -1
    if (typeof raw !== 'string' || !raw.startsWith('/') || end < 1) return UNFIT
    return attempt(() => new RegExp(raw.slice(1, end), raw.slice(end + 1)))
  },
  URL: (raw) => (typeof raw === 'string' ? attempt(() => new URL(raw)) : UNFIT),
  set: (raw) => (Array.isArray(raw) ? new Set(raw) : UNFIT),
  map: (raw) => (Array.isArray(raw) && raw.every(isPair) ? new Map(raw) : UNFIT),
}

function typedArray(name: unknown, raw: unknown): unknown {
  if (typeof name !== 'string' || !Object.hasOwn(TYPED_ARRAYS, name) || !Array.isArray(raw)) return UNFIT
  if (!raw.every((element) => typeof element === 'number')) return UNFIT
  const array = TYPED_ARRAYS[name as keyof typeof TYPED_ARRAYS].from(raw)
  return raw.every((element, index) => array[index] === element) ? array : UNFIT
}

function attempt(restored: () => unknown): unknown {
  try {
    return restored()
  } catch {
    return UNFIT
  }
}

function isPair(value: unknown): value is [unknown, unknown] {
  return Array.isArray(value) && value.length === 2
}

function isRecord(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

function hasExactly<Key extends string>(value: unknown, ...keys: Key[]): value is Record<Key, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  const record = value as Record<string, unknown>
  const present = Object.keys(record).filter((key) => record[key] !== undefined)
  return present.length === keys.length && keys.every((key) => present.includes(key))
}
