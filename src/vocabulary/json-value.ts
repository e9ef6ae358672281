/**
 * Which values can be stored, decided before any bytes exist. A value is plain (JSON says it all), rich (superjson's
 * annotations are needed beside it) or refused, because it would come back as something else.
 */
import { MAX_PAYLOAD_BYTES } from './limits.js'
import { formatPath } from './path.js'

/** serde_json stops at 128 levels; the rest is room for the wrapping. */
export const MAX_DEPTH = 100
const MAX_NODES = 2 ** 20

// Restoring these costs far more than reading their text: the first two more than linear time, the last one milliseconds
// for a pattern of ten characters. So what is written, and what is read, is limited.
export const MAX_BIGINT_DIGITS = 20_000
export const MAX_URL_LENGTH = 8192
/** Of all RegExps in one value together. */
export const MAX_REGEXP_LENGTH = 4096

export interface WalkRules {
  /** What the value is called in messages. */
  readonly root: string
  /** Whether a value may need more than JSON. */
  readonly rich: boolean
  /** Strings that stay as they are: all of them, those Rust can read, or those a jsonb column can hold. */
  readonly text: 'any' | 'well-formed' | 'jsonb'
}

/** Why a value cannot be stored: the place and the kind of value, never the value. */
export class RefusedValue extends Error {
  readonly path: readonly PropertyKey[]

  /** @param what - Goes on after the place: "is a function; …". */
  constructor(root: string, path: readonly PropertyKey[], what: string) {
    super(`${formatPath(root, path)} ${what}`)
    this.path = path
  }
}

/** @throws {RefusedValue} */
export function kindOf(value: unknown, rules: WalkRules): 'plain' | 'rich' {
  const walk = new Walk(rules)
  walk.visit(value, 1)
  if (walk.rich && walk.richObstacle !== undefined) throw walk.richObstacle
  return walk.rich ? 'rich' : 'plain'
}

type TypedArray =
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array

/** The typed arrays that superjson restores, by the name in its annotations. */
export const TYPED_ARRAYS = {
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
} as const

/** By prototype, so that subclasses, which would come back as their base class, are not among them. */
const RICH_CLASSES = new Map<unknown, (walk: Walk, value: never, depth: number) => void>([
  [Date.prototype, (walk, value: Date) => walk.date(value)],
  [Map.prototype, (walk, value: Map<unknown, unknown>, depth) => walk.map(value, depth)],
  [Set.prototype, (walk, value: Set<unknown>, depth) => walk.set(value, depth)],
  [RegExp.prototype, (walk, value: RegExp) => walk.regExp(value)],
  [URL.prototype, (walk, value: URL) => walk.url(value)],
  ...Object.values(TYPED_ARRAYS).map(
    ({ prototype }) => [prototype, (walk: Walk, value: TypedArray) => walk.typedArray(value)] as const,
  ),
])

const RICH_NAMES: ReadonlySet<string> = new Set(['Date', 'Map', 'Set', 'RegExp', 'URL', ...Object.keys(TYPED_ARRAYS)])
const ANOTHER_REALM = 'another realm (vm context or frame), which superjson does not recognise'

/** Keys that superjson refuses in a value it annotates. */
export const FORBIDDEN_KEYS: ReadonlySet<string> = new Set(['__proto__', 'constructor', 'prototype'])

class Walk {
  rich = false
  /** What makes the value refused if it turns out to be rich. */
  richObstacle: RefusedValue | undefined
  readonly #rules: WalkRules
  readonly #path: PropertyKey[] = []
  #nodes = 0
  /** A lower bound of the bytes, so that a value far too large is refused before it is written. */
  #bytes = 0
  #regExpLength = 0

  constructor(rules: WalkRules) {
    this.#rules = rules
  }

  visit(value: unknown, depth: number): void {
    this.#count(1)
    switch (typeof value) {
      case 'string':
        return this.#text(value)
      case 'number':
        if (!Number.isFinite(value)) this.#needsAnnotation(String(value))
        return
      case 'boolean':
        return
      case 'object':
        if (value !== null) this.#object(value, depth)
        return
      case 'undefined':
        return this.#needsAnnotation('undefined')
      case 'bigint':
        return this.#bigint(value)
      default:
        this.#refuse(`is a ${typeof value}, which cannot be stored; use data instead`)
    }
  }

  #object(value: object, depth: number): void {
    if (depth > MAX_DEPTH) this.#refuseDepth()
    const prototype: unknown = Object.getPrototypeOf(value)
    if (Array.isArray(value)) {
      if (prototype !== Array.prototype && !isForeignArrayPrototype(prototype)) this.#refuseInstance(value)
      return this.#array(value, depth)
    }
    if (prototype === Object.prototype || prototype === null) return this.#record(value, depth)
    const rich = RICH_CLASSES.get(prototype)
    if (rich !== undefined) return rich(this, value as never, depth)
    if (!isForeignObjectPrototype(prototype)) this.#refuseInstance(value)
    this.#obstacle(`is an object of ${ANOTHER_REALM}; copy it`)
    this.#record(value, depth)
  }

  #record(record: object, depth: number): void {
    this.#noSymbolKeys(record)
    for (const key of Object.keys(record)) {
      const value = (record as Record<string, unknown>)[key]
      // JSON drops it. Only superjson would write it, and only if something else makes the value rich.
      if (value === undefined && !this.#rules.rich) continue
      this.#path.push(key)
      this.#text(key)
      if (FORBIDDEN_KEYS.has(key)) this.#obstacle('uses a key that superjson refuses; rename it')
      if (value !== undefined) this.visit(value, depth + 1)
      this.#path.pop()
    }
  }

  #array(array: readonly unknown[], depth: number): void {
    for (let index = 0; index < array.length; index++) {
      this.#path.push(index)
      const value = array[index]
      if (value === undefined && !Object.hasOwn(array, index)) {
        this.#refuse('is a hole in an array; fill it or filter it out')
      }
      this.visit(value, depth + 1)
      this.#path.pop()
    }
    this.#noExtraKeys(array, array.length)
  }

  date(date: Date): void {
    if (Number.isNaN(date.getTime())) this.#refuse('is an Invalid Date; check what it was parsed from')
    this.#needsAnnotation('a Date')
    this.#noExtraKeys(date, 0)
  }

  /** An entry is a level of its own, because it is written as an array of two. */
  map(map: ReadonlyMap<unknown, unknown>, depth: number): void {
    this.#needsAnnotation('a Map')
    this.#noExtraKeys(map, 0)
    if (depth === MAX_DEPTH && map.size > 0) this.#refuseDepth()
    let index = 0
    for (const entry of map) {
      this.#path.push(index++, 0)
      this.visit(entry[0], depth + 2)
      this.#path.pop()
      this.#path.push(1)
      this.visit(entry[1], depth + 2)
      this.#path.length -= 2
    }
  }

  set(set: ReadonlySet<unknown>, depth: number): void {
    this.#needsAnnotation('a Set')
    this.#noExtraKeys(set, 0)
    let index = 0
    for (const value of set) {
      this.#path.push(index++)
      this.visit(value, depth + 1)
      this.#path.pop()
    }
  }

  regExp(regExp: RegExp): void {
    this.#needsAnnotation('a RegExp')
    this.#noExtraKeys(regExp, 0)
    this.#regExpLength += regExp.source.length
    if (this.#regExpLength > MAX_REGEXP_LENGTH) {
      this.#refuse(`is a RegExp, and all of them together have more than ${MAX_REGEXP_LENGTH} characters`)
    }
    if (regExp.flags.includes('v')) {
      this.#refuse('is a RegExp with the flag v, which costs too much to restore; store its source')
    }
    this.#text(regExp.source)
  }

  url(url: URL): void {
    this.#needsAnnotation('a URL')
    this.#noExtraKeys(url, 0)
    if (url.href.length > MAX_URL_LENGTH) {
      this.#refuse(`is a URL of more than ${MAX_URL_LENGTH} characters; store its text`)
    }
    this.#text(url.href)
    // The URL standard has a few URLs whose text parses to another URL or to none.
    if (!URL.canParse(url.href) || new URL(url.href).href !== url.href) {
      this.#refuse('is a URL whose text does not parse to the same URL; store what it was made from')
    }
  }

  typedArray(array: TypedArray): void {
    this.#needsAnnotation('a typed array')
    this.#count(array.length)
    this.#noExtraKeys(array, array.length)
    if (!(array instanceof Float32Array || array instanceof Float64Array)) return
    const index = array.findIndex((element) => !Number.isFinite(element) || Object.is(element, -0))
    if (index === -1) return
    this.#path.push(index)
    this.#refuse(
      'is NaN, infinite or -0 in a typed array, which would come back as another number; use an ordinary array',
    )
  }

  #bigint(value: bigint): void {
    this.#needsAnnotation('a bigint')
    bigintLimit ??= 10n ** BigInt(MAX_BIGINT_DIGITS)
    if (value >= bigintLimit || value <= -bigintLimit) {
      this.#refuse(`is a bigint of more than ${MAX_BIGINT_DIGITS} digits`)
    }
    this.#addBytes(value.toString().length)
  }

  #text(text: string): void {
    this.#addBytes(text.length)
    if (this.#rules.text === 'any') return
    if (!text.isWellFormed()) this.#refuse('contains a lone surrogate, which other JSON readers refuse; remove it')
    if (this.#rules.text === 'jsonb' && text.includes('\0')) {
      this.#refuse('contains a NUL character, which PostgreSQL cannot hold in JSON; remove it')
    }
  }

  #needsAnnotation(what: string): void {
    this.rich = true
    if (!this.#rules.rich) {
      this.#refuse(`is ${what}, and only JSON values are stored here; convert it first, for example to a string`)
    }
  }

  #noSymbolKeys(value: object): void {
    const symbols = Object.getOwnPropertySymbols(value)
    if (symbols.length === 0) return
    const symbol = symbols.find((key) => Object.prototype.propertyIsEnumerable.call(value, key))
    if (symbol === undefined) return
    this.#path.push(symbol)
    this.#refuse('has a symbol as its key, which cannot be stored; use a string')
  }

  /** Properties beside the contents would be lost. */
  #noExtraKeys(value: object, expected: number): void {
    const keys = Object.keys(value)
    if (keys.length !== expected) {
      this.#path.push(keys.at(-1) ?? '')
      this.#refuse(
        `is a property of a ${Array.isArray(value) ? 'list' : 'value'} beside its contents, which would be lost; put it into an object`,
      )
    }
    this.#noSymbolKeys(value)
  }

  #count(nodes: number): void {
    this.#nodes += nodes
    if (this.#nodes > MAX_NODES) {
      this.#refuse(`is one of more than ${MAX_NODES} values; store the data elsewhere and pass a reference`)
    }
  }

  #addBytes(bytes: number): void {
    this.#bytes += bytes
    if (this.#bytes > MAX_PAYLOAD_BYTES) {
      throw new RefusedValue(this.#rules.root, [], tooLarge(`more than ${MAX_PAYLOAD_BYTES}`))
    }
  }

  #obstacle(what: string): void {
    this.richObstacle ??= new RefusedValue(this.#rules.root, [...this.#path], what)
  }

  #refuseInstance(value: object): never {
    const name = className(value)
    if (name === 'Buffer') this.#refuse('is a Buffer, which cannot be restored; wrap it: new Uint8Array(buffer)')
    if (RICH_NAMES.has(name)) this.#refuse(`is a ${name} of ${ANOTHER_REALM}; copy it`)
    this.#refuse(`is an instance of ${name}, which cannot be stored; convert it to a plain object`)
  }

  /** The first steps say where: the others repeat themselves in a cycle. */
  #refuseDepth(): never {
    const what = `is nested more than ${MAX_DEPTH} levels deep, or contains itself`
    throw new RefusedValue(this.#rules.root, this.#path.slice(0, 5), what)
  }

  #refuse(what: string): never {
    throw new RefusedValue(this.#rules.root, [...this.#path], what)
  }
}

let bigintLimit: bigint | undefined

export function tooLarge(bytes: number | string): string {
  return `has ${bytes} bytes, and the limit is ${MAX_PAYLOAD_BYTES} (1 MiB); store the data elsewhere and pass a reference`
}

function className(value: object): string {
  const name = (value.constructor as { readonly name?: unknown } | undefined)?.name
  return typeof name === 'string' && /^[\w$]{1,60}$/.test(name) ? name : 'a class'
}

// Values made in another vm context or frame have prototypes of their own, recognised by their place at the root.

function isForeignArrayPrototype(prototype: unknown): boolean {
  return Array.isArray(prototype) && isRoot(Object.getPrototypeOf(prototype))
}

function isForeignObjectPrototype(prototype: unknown): boolean {
  if (!isRoot(prototype) || !Object.hasOwn(prototype, 'constructor')) return false
  const { constructor } = prototype
  return (
    typeof constructor === 'function' &&
    constructor.prototype === prototype &&
    sourceOf(constructor) === sourceOf(Object)
  )
}

function isRoot(prototype: unknown): prototype is object {
  return typeof prototype === 'object' && prototype !== null && Object.getPrototypeOf(prototype) === null
}

/** The same text for the native constructor of every realm. */
function sourceOf(constructor: unknown): string {
  return Function.prototype.toString.call(constructor)
}
