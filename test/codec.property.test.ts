import { inspect } from 'node:util'
import fc from 'fast-check'
import { SuperJSON } from 'superjson'
import { describe, expect, it } from 'vitest'
import { type Codec, jsonCodec, superjsonCodec } from '../src/vocabulary/codec.js'
import { InvalidArgumentError } from '../src/vocabulary/errors.js'
import { UnreadableValue } from '../src/vocabulary/superjson-envelope.js'

/** Everything a value consists of, prototypes and the sign of zero included. */
const shape = (value: unknown) =>
  inspect(value, { depth: Infinity, maxArrayLength: Infinity, maxStringLength: Infinity, breakLength: Infinity })
const written = (value: unknown, codec: Codec = superjsonCodec) => new TextDecoder().decode(codec.encode(value))
const RUNS = { numRuns: 1_000 }

/** Any sequence of UTF-16 units: quotes, NUL, backslashes and lone surrogates among them. */
const units = fc.array(fc.oneof(fc.integer({ min: 0, max: 0x7f }), fc.integer({ min: 0, max: 0xffff })), {
  maxLength: 12,
})
const anyText = fc.oneof(
  fc.string({ unit: 'binary' }),
  units.map((codes) => String.fromCharCode(...codes)),
)
const finite = fc.double({ noNaN: true, noDefaultInfinity: true })
const plainLeaf = fc.oneof(fc.constant(null), fc.boolean(), anyText, finite, fc.integer(), fc.maxSafeInteger())
const anyKey = fc.oneof(
  anyText,
  fc.constantFrom('__proto__', 'constructor', 'prototype', 'json', 'meta', 'length', '0'),
)
const richKey = anyKey.filter((key) => !['__proto__', 'constructor', 'prototype'].includes(key))

const floats = { noNaN: true, noDefaultInfinity: true }
const richLeaf = fc.oneof(
  fc.constantFrom(NaN, Infinity, -Infinity, undefined),
  fc.bigInt(),
  fc.date({ noInvalidDate: true }),
  fc.webUrl({ withFragments: true, withQueryParameters: true }).map((url) => new URL(url)),
  fc.constantFrom(/a/, /\/\\n"/giu, /(?<name>x)|[^\]]/su, new RegExp('')),
  fc.uint8Array(),
  fc.int8Array(),
  fc.uint8ClampedArray(),
  fc.uint16Array(),
  fc.int16Array(),
  fc.uint32Array(),
  fc.int32Array(),
  fc.float32Array(floats).map((array) => array.map((element) => element || 0)),
  fc.float64Array(floats).map((array) => array.map((element) => element || 0)),
)

const { plain } = fc.letrec<{ plain: unknown }>((tie) => ({
  plain: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    plainLeaf,
    fc.array(tie('plain')),
    fc.dictionary(anyKey, fc.oneof(tie('plain'), fc.constant(undefined)), { noNullPrototype: false }),
  ),
}))

const { rich } = fc.letrec<{ rich: unknown }>((tie) => ({
  rich: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    plainLeaf,
    richLeaf,
    fc.array(tie('rich')),
    fc.dictionary(richKey, tie('rich'), { noNullPrototype: false }),
    fc.array(fc.tuple(tie('rich'), tie('rich'))).map((entries) => new Map(entries)),
    fc.array(tie('rich')).map((values) => new Set(values)),
  ),
}))

/** Own reading of the rule, to compare with. */
function isRich(value: unknown): boolean {
  if (typeof value === 'number') return !Number.isFinite(value)
  if (Array.isArray(value)) return value.some((element) => element === undefined || isRich(element))
  if (typeof value !== 'object' || value === null) return typeof value === 'bigint' || value === undefined
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return true
  return Object.values(value).some((member) => member !== undefined && isRich(member))
}

/** What is to come back: as it was, except for what JSON has no word for in a value that is otherwise plain. */
function expected(value: unknown, asPlain = !isRich(value)): unknown {
  if (asPlain && Object.is(value, -0)) return 0
  if (Array.isArray(value)) return value.map((element) => expected(element, asPlain))
  if (value instanceof Map) {
    return new Map(Array.from(value, ([key, entry]) => [expected(key, asPlain), expected(entry, asPlain)]))
  }
  if (value instanceof Set) return new Set(Array.from(value, (element) => expected(element, asPlain)))
  if (typeof value !== 'object' || value === null) return value
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return value
  const copy = {}
  for (const [key, member] of Object.entries(value)) {
    if (asPlain && member === undefined) continue
    Object.defineProperty(copy, key, {
      value: expected(member, asPlain),
      enumerable: true,
      configurable: true,
      writable: true,
    })
  }
  return copy
}

const lookAlike = fc
  .record({
    json: plain,
    meta: fc.record({ values: fc.oneof(fc.dictionary(anyKey, plain), fc.array(plain)), v: fc.constant(1) }),
  })
  .map((value) => value as unknown)

function refuses(codec: Codec, value: unknown): InvalidArgumentError | undefined {
  try {
    codec.encode(value)
    return undefined
  } catch (error) {
    if (error instanceof InvalidArgumentError) return error
    throw error
  }
}

describe('superjsonCodec', () => {
  it('writes plain values byte for byte as JSON.stringify', () => {
    fc.assert(
      fc.property(plain, (value) => {
        expect(written(value)).toBe(JSON.stringify(value))
      }),
      RUNS,
    )
  })

  it('reads back every plain value', () => {
    fc.assert(
      fc.property(plain, (value) => {
        expect(shape(superjsonCodec.decode(superjsonCodec.encode(value)))).toBe(shape(expected(value)))
      }),
      RUNS,
    )
  })

  it('reads back every rich value', () => {
    fc.assert(
      fc.property(rich, (value) => {
        expect(shape(superjsonCodec.decode(superjsonCodec.encode(value)))).toBe(shape(expected(value)))
      }),
      RUNS,
    )
  })

  it('reads back every look-alike of an envelope', () => {
    fc.assert(
      fc.property(lookAlike, (value) => {
        expect(written(value)).not.toBe(JSON.stringify(value))
        expect(shape(superjsonCodec.decode(superjsonCodec.encode(value)))).toBe(shape(expected(value)))
      }),
      RUNS,
    )
  })

  it('writes what superjson itself reads', () => {
    fc.assert(
      fc.property(rich.filter(isRich), (value) => {
        expect(shape(SuperJSON.parse(written(value)))).toBe(shape(expected(value)))
      }),
      RUNS,
    )
  })

  class Instance {
    readonly x = 1
  }
  const refused = fc.constantFrom<unknown>(
    () => 1,
    Symbol('symbol'),
    new Instance(),
    new Error('error'),
    new Date(NaN),
    new Array(3),
    Object.assign([1], { extra: 1 }),
    { [Symbol('key')]: 1 },
    new Float64Array([NaN]),
    new Float32Array([-0]),
    Buffer.from('buffer'),
    new WeakMap(),
    new DataView(new ArrayBuffer(1)),
  )

  it('refuses a value wherever the refused part is, and quotes nothing of it', () => {
    const leaf = fc.oneof(fc.constant('canary'), fc.integer(), fc.bigInt())
    const path = fc.array(fc.oneof(fc.constantFrom('list', 'record', 'map key', 'map value', 'set')), { maxLength: 8 })
    fc.assert(
      fc.property(refused, path, leaf, (part, places, neighbour) => {
        const value = places.reduce<unknown>((inner, place) => {
          if (place === 'list') return [neighbour, inner]
          if (place === 'record') return { neighbour, inner }
          if (place === 'set') return new Set([neighbour, inner])
          return new Map([place === 'map key' ? [inner, neighbour] : [neighbour, inner]])
        }, part)
        const error = refuses(superjsonCodec, value)
        expect(error?.argument).toBe('args')
        expect(error?.message).not.toContain('canary')
        // A set and a list name the index, a record the key, a map the entry and its side.
        const length = places.reduce((sum, place) => sum + (place.startsWith('map') ? 2 : 1), 0)
        expect(error?.issues[0]?.path.slice(0, length)).toHaveLength(length)
      }),
      RUNS,
    )
  })

  it('throws nothing but UnreadableValue for arbitrary bytes', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.uint8Array(),
          fc.json().map((json) => new TextEncoder().encode(json)),
        ),
        (bytes) => {
          try {
            superjsonCodec.decode(bytes)
          } catch (error) {
            expect(error).toBeInstanceOf(UnreadableValue)
          }
        },
      ),
      RUNS,
    )
  })

  it('reads an arbitrary envelope as superjson does, or not at all', () => {
    const key = fc.constantFrom('a', 'b', '0', '1', 'a.b', '0.0', '1.0', 'a.0', '0.a', '__proto__', 'length', '00')
    const type = fc.constantFrom<unknown>(
      ...['undefined', 'bigint', 'Date', 'regexp', 'set', 'map', 'number', 'URL', 'Error', 'x'],
      ...[
        ['typed-array', 'Uint8Array'],
        ['typed-array', 'Float32Array'],
        ['class', 'x'],
        ['symbol', 'x'],
        ['custom', 'x'],
      ],
    )
    const raw = fc.constantFrom<unknown>(
      null,
      '1',
      '-0',
      'NaN',
      '/a/g',
      'http://a/',
      '2026-11-23T00:00:00.000Z',
      1,
      0,
      {},
    )
    const { json, tree } = fc.letrec<{ json: unknown; tree: unknown; parts: unknown }>((tie) => ({
      json: fc.oneof(
        { depthSize: 'small' },
        raw,
        fc.array(tie('json'), { maxLength: 3 }),
        fc.array(fc.tuple(tie('json'), tie('json')), { maxLength: 2 }),
        fc.dictionary(fc.constantFrom('a', 'b', '0'), tie('json')),
      ),
      tree: fc.oneof({ depthSize: 'small' }, fc.tuple(type), fc.tuple(type, tie('parts')), tie('parts')),
      parts: fc.dictionary(key, tie('tree'), { maxKeys: 3 }),
    }))
    let readable = 0
    fc.assert(
      fc.property(json, tree, (value, values) => {
        const text = JSON.stringify({ json: value, meta: { values, v: 1 } })
        let result: unknown
        try {
          result = superjsonCodec.decode(new TextEncoder().encode(text))
        } catch (error) {
          expect(error).toBeInstanceOf(UnreadableValue)
          return
        }
        if (Object.keys(values as object).length > 0) readable++
        expect(shape(result)).toBe(shape(SuperJSON.parse(text)))
      }),
      { numRuns: 10_000 },
    )
    expect(readable).toBeGreaterThan(100)
  })

  it('reads an integer of any length as it is, or not at all', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(10n ** 30n), max: 10n ** 30n }), (integer) => {
        let value: unknown
        try {
          value = superjsonCodec.decode(new TextEncoder().encode(`[${integer}]`))
        } catch (error) {
          expect(error).toBeInstanceOf(UnreadableValue)
          return
        }
        const [number] = value as [number]
        const shortest = BigInt(number.toLocaleString('en', { useGrouping: false, maximumSignificantDigits: 17 }))
        expect([BigInt(number), shortest]).toContain(integer)
      }),
      RUNS,
    )
  })

  it('reads every number in the form of JSON and, where it is an integer, in full', () => {
    fc.assert(
      fc.property(finite, (number) => {
        const read = (text: string) => superjsonCodec.decode(new TextEncoder().encode(text))
        expect(read(JSON.stringify(number))).toBe(number || 0)
        if (Number.isInteger(number)) expect(read(BigInt(number).toString())).toBe(number || 0)
      }),
      RUNS,
    )
  })
})

describe('jsonCodec', () => {
  const hasLoneSurrogate = (value: unknown) => /\\u(d[89ab]|d[c-f])/.test(JSON.stringify(value))

  it('reads back every plain value and refuses lone surrogates', () => {
    fc.assert(
      fc.property(plain, (value) => {
        if (hasLoneSurrogate(value)) {
          expect(refuses(jsonCodec, value)?.message).toContain('a lone surrogate')
        } else {
          expect(written(value, jsonCodec)).toBe(JSON.stringify(value))
          expect(shape(jsonCodec.decode(jsonCodec.encode(value)))).toBe(shape(expected(value)))
        }
      }),
      RUNS,
    )
  })

  it('refuses every rich value', () => {
    fc.assert(
      fc.property(
        rich.filter((value) => value !== undefined && isRich(value)),
        (value) => {
          expect(refuses(jsonCodec, value)?.argument).toBe('args')
        },
      ),
      RUNS,
    )
  })
})
