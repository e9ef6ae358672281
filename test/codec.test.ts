import { runInNewContext } from 'node:vm'
import { SuperJSON } from 'superjson'
import { describe, expect, it } from 'vitest'
import { type Codec, jsonCodec, superjsonCodec } from '../src/vocabulary/codec.js'
import { InvalidArgumentError } from '../src/vocabulary/errors.js'
import { MAX_PAYLOAD_BYTES } from '../src/vocabulary/limits.js'
import { UnreadableValue } from '../src/vocabulary/superjson-envelope.js'

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)
const bytes = (json: string) => new TextEncoder().encode(json)
const written = (value: unknown, codec = superjsonCodec) => text(codec.encode(value))
const read = (json: string, codec = superjsonCodec) => codec.decode(bytes(json))
const roundTrip = (value: unknown, codec = superjsonCodec) => codec.decode(codec.encode(value))
const envelope = (json: unknown, values: unknown) => JSON.stringify({ json, meta: { values, v: 1 } })

function refusal(value: unknown, codec: Codec = superjsonCodec): InvalidArgumentError {
  try {
    codec.encode(value)
  } catch (error) {
    if (error instanceof InvalidArgumentError) return error
    throw error
  }
  throw new Error('the value was accepted')
}

function unreadable(json: string | Uint8Array, codec: Codec = superjsonCodec): string {
  try {
    codec.decode(typeof json === 'string' ? bytes(json) : json)
  } catch (error) {
    if (error instanceof UnreadableValue) return error.message
    throw error
  }
  throw new Error('the bytes were read')
}

class Point {
  constructor(readonly x = 1) {}
}
class Dates extends Date {}
class List extends Array<number> {}

function nested(levels: number): unknown {
  return levels === 0 ? 1 : [nested(levels - 1)]
}
function nestedMaps(levels: number): unknown {
  return levels === 0 ? 1 : new Map([[1, nestedMaps(levels - 1)]])
}
function cycle(): unknown {
  const value: Record<string, unknown> = { a: [] }
  value['a'] = [value, value]
  return value
}

describe('superjsonCodec', () => {
  describe('writes plain values as JSON.stringify does', () => {
    it.each([
      ['null', null],
      ['a string', 'a "quoted" \\ \0 \u{1f600} text'],
      ['an empty string', ''],
      ['a number', 0.1],
      ['a large number', 2 ** 67],
      ['a record', { to: 'a@example.org', tags: ['x'], count: 3, none: null, yes: true }],
      ['a record without prototype', Object.assign(Object.create(null), { a: 1 })],
      ['a record of another realm', runInNewContext('({ a: [1, { b: 2 }] })')],
      ['an empty array', []],
      ['a lone surrogate', '\ud800'],
      ['an object referenced twice', ((shared) => ({ a: shared, b: shared }))({ x: 1 })],
      ['a key named __proto__', JSON.parse('{"__proto__":{"a":1},"constructor":2,"prototype":3}')],
      ['something like an envelope, but not one', { json: 1, meta: { values: {}, v: 2 } }],
      ['an envelope inside', { envelope: { json: 1, meta: { values: {}, v: 1 } } }],
      ['a hundred levels', nested(100)],
    ])('%s', (_, value) => {
      expect(written(value)).toBe(JSON.stringify(value))
      expect(roundTrip(value)).toEqual(value)
    })
  })

  it('drops undefined properties and the sign of zero in plain values', () => {
    expect(written({ cc: undefined, n: -0 })).toBe('{"n":0}')
    expect(roundTrip({ cc: undefined, n: -0 })).toStrictEqual({ n: 0 })
  })

  it('writes rich values as superjson does, without identities', () => {
    const shared = { at: new Date(0) }
    const value = { shared, again: shared, big: 12345678901234567890n }
    const { json, meta } = SuperJSON.serialize(value)
    expect(meta?.referentialEqualities).toBeDefined()
    expect(JSON.parse(written(value))).toEqual({ json, meta: { values: meta?.values, v: 1 } })
  })

  it.each([
    ['undefined', undefined],
    ['a bigint', -(10n ** 19_999n)],
    ['numbers JSON has not', [NaN, Infinity, -Infinity, -0, undefined]],
    ['undefined and -0 in a rich value', { at: new Date(1), cc: undefined, n: -0 }],
    ['dates', { at: new Date('2026-11-23T12:00:00.123Z'), far: new Date(8.64e15) }],
    [
      'a Map',
      new Map<unknown, unknown>([
        [{ a: 1n }, new Map([[undefined, new Date(5)]])],
        ['k', 'v'],
      ]),
    ],
    ['a Set', new Set([1, '1', null, undefined, new Set([2n]), new Date(7)])],
    ['a RegExp', [/a\/b\n"\\/giu, /(?:)/, new RegExp('')]],
    [
      'typed arrays',
      [new Uint8Array([0, 255]), new Int8Array([-1]), new Uint8ClampedArray([255]), new Int16Array([-5])],
    ],
    ['more typed arrays', [new Uint16Array([9]), new Int32Array([-9]), new Uint32Array([2 ** 31]), new Uint8Array()]],
    ['typed arrays of floats', [new Float32Array([0.1, -3.4e38]), new Float64Array([5e-324, 1.7e308])]],
    ['awkward keys', { 'a.b': 1n, 'a\\b': 2n, '': 3n, '.': { '\\': 4n }, '0': [5n] }],
    ['something like an envelope with a bigint', { json: 1n, meta: { values: {}, v: 1 } }],
    ['fifty nested maps', nestedMaps(50)],
    ['a lone surrogate in a rich value', { '\ud800': 1n, a: '\udc00' }],
  ])('reads back %s', (_, value) => {
    expect(roundTrip(value)).toStrictEqual(value)
  })

  it('reads back a URL', () => {
    const url = new URL('https://user:pw@exämple.org:8080/ä?q=1#h')
    const restored = (roundTrip({ url }) as { url: URL }).url
    expect(restored).toBeInstanceOf(URL)
    expect(restored.href).toBe(url.href)
  })

  describe('wraps what would be mistaken for an envelope', () => {
    it.each([
      ['one with annotations', { json: 'x', meta: { values: ['Date'], v: 1 } }],
      ['one without', { json: null, meta: { values: {}, v: 1 } }],
      ['one with its keys in another order', { meta: { v: 1, values: [] }, json: { a: 1 } }],
    ])('%s', (_, value) => {
      expect(JSON.parse(written(value))).toEqual({ json: value, meta: { values: {}, v: 1 } })
      expect(roundTrip(value)).toStrictEqual(value)
      expect(SuperJSON.parse(written(value))).toStrictEqual(value)
    })

    it('one that becomes one when undefined properties are dropped', () => {
      const value = { json: 1, meta: { values: {}, v: 1, x: undefined }, y: undefined }
      expect(roundTrip(value)).toStrictEqual({ json: 1, meta: { values: {}, v: 1 } })
    })

    it('but not one that loses its json', () => {
      expect(roundTrip({ json: undefined, meta: { values: {}, v: 1 } })).toStrictEqual({ meta: { values: {}, v: 1 } })
    })
  })

  describe('refuses', () => {
    it.each<[string, unknown, string]>([
      ['a function', { on: { click: () => 1 } }, 'args.on.click is a function, which cannot be stored'],
      ['a symbol', [Symbol('secret')], 'args[0] is a symbol'],
      ['a symbol as a key', { a: { [Symbol('key')]: 1 } }, 'args.a[Symbol(key)] has a symbol as its key'],
      ['a class instance', { point: new Point() }, 'args.point is an instance of Point'],
      ['a subclass of Date', new Dates(), 'args is an instance of Dates'],
      ['a subclass of Array', List.of(1), 'args is an instance of List'],
      ['an Error', { error: new TypeError('secret') }, 'args.error is an instance of TypeError'],
      ['a Promise', Promise.resolve(1), 'args is an instance of Promise'],
      ['a Buffer', { file: Buffer.from('secret') }, 'args.file is a Buffer, which cannot be restored; wrap it'],
      ['an ArrayBuffer', new ArrayBuffer(1), 'args is an instance of ArrayBuffer'],
      ['a BigInt64Array', new BigInt64Array(1), 'args is an instance of BigInt64Array'],
      ['a boxed number', Object(1), 'args is an instance of Number'],
      [
        'a Date of another realm',
        runInNewContext('new Date(0)'),
        'args is a Date of another realm (vm context or frame)',
      ],
      ['an object that inherits', Object.create({ inherited: 1 }), 'args is an instance of Object'],
      ['an Invalid Date', { at: new Date(NaN) }, 'args.at is an Invalid Date'],
      // eslint-disable-next-line no-sparse-arrays
      ['a hole in an array', { list: [1, , 2] }, 'args.list[1] is a hole'],
      ['a huge sparse array', new Array(2 ** 32 - 1), 'args[0] is a hole'],
      ['a property on an array', Object.assign([1], { extra: 1 }), 'args.extra is a property'],
      ['a property on a Date', Object.assign(new Date(0), { extra: 1 }), 'args.extra is a property'],
      ['a property on a Map', Object.assign(new Map(), { extra: 1 }), 'args.extra is a property'],
      ['a property on a typed array', Object.assign(new Uint8Array(2), { extra: 1 }), 'args.extra is a property'],
      ['NaN in floats', { f: new Float32Array([1, NaN]) }, 'args.f[1] is NaN, infinite or -0'],
      ['infinity in floats', new Float64Array([Infinity]), 'args[0] is NaN, infinite or -0'],
      ['-0 in floats', new Float64Array([-0]), 'args[0] is NaN, infinite or -0'],
      ['a cycle', cycle(), 'is nested more than 100 levels deep, or contains itself'],
      ['a cycle by the first steps to it', cycle(), 'args.a[0].a[0].a is nested'],
      ['101 levels', nested(101), 'is nested more than 100 levels deep'],
      ['51 nested maps', nestedMaps(51), 'is nested more than 100 levels deep'],
      ['a bigint of 20,001 digits', 10n ** 20_000n, 'args is a bigint of more than 20000 digits'],
      [
        'a key that superjson refuses',
        { at: new Date(0), constructor: 1 },
        'args.constructor uses a key that superjson refuses',
      ],
      [
        'that key before the rich part',
        JSON.parse('{"a":{"__proto__":1}}', (key, value: unknown) =>
          key === '' ? { ...(value as object), b: 1n } : value,
        ),
        'args.a.__proto__ uses a key',
      ],
      [
        'a record of another realm in a rich value',
        { a: runInNewContext('({})') as unknown, b: 1n },
        'args.a is an object of another realm',
      ],
      ['a long URL', new URL(`data:,${'a'.repeat(8192)}`), 'args is a URL of more than 8192 characters'],
      [
        'long RegExps',
        [new RegExp('a'.repeat(4000)), new RegExp('b'.repeat(97))],
        'args[1] is a RegExp, and all of them together',
      ],
      ['a RegExp with the flag v', new RegExp('[a--b]', 'v'), 'args is a RegExp with the flag v'],
      [
        'a long string',
        { s: 'x'.repeat(MAX_PAYLOAD_BYTES) },
        'args has more than 1048576 bytes, and the limit is 1048576',
      ],
      ['what is long only as UTF-8', { s: 'ä'.repeat(600_000) }, 'args has 1200008 bytes, and the limit is 1048576'],
      ['a million values', new Array(2 ** 20).fill(0), 'is one of more than 1048576 values'],
      [
        'a million values by sharing',
        Array.from({ length: 20 }).reduce((value) => [value, value], 0),
        'is one of more than 1048576',
      ],
      ['a typed array of a million elements', new Uint8Array(2 ** 20), 'args is one of more than 1048576'],
    ])('%s', (_, value, message) => {
      const error = refusal(value)
      expect(error.message).toContain(message)
      expect(error.message).not.toContain('secret')
      expect(error.argument).toBe('args')
      expect(error.issues).toHaveLength(1)
    })

    it('with the path of the place', () => {
      expect(refusal({ 'a b': [{ c: new Map([[1, () => 1]]) }] }).issues[0]?.path).toEqual(['a b', 0, 'c', 0, 1])
    })

    it('what throws while it is read, without its message', () => {
      const value = {
        get name() {
          throw new RangeError('secret')
        },
      }
      expect(refusal(value).message).toBe(
        "Invalid args: writing it threw RangeError, from a getter or the queue's codec.",
      )
    })

    it('long keys, shortened in the message', () => {
      expect(refusal({ ['x'.repeat(100_000)]: new Point() }).message.length).toBeLessThan(300)
      expect(refusal(JSON.parse(`${'{"abcdefghij":'.repeat(101)}1${'}'.repeat(101)}`)).message.length).toBeLessThan(400)
    })
  })

  it('accepts exactly 1 MiB', () => {
    expect(superjsonCodec.encode('x'.repeat(MAX_PAYLOAD_BYTES - 2))).toHaveLength(MAX_PAYLOAD_BYTES)
    expect(refusal('x'.repeat(MAX_PAYLOAD_BYTES - 1)).message).toContain('has 1048577 bytes')
  })

  it('is not affected by what the application registers on superjson', () => {
    SuperJSON.registerClass(Point)
    expect(refusal(new Point()).message).toContain('instance of Point')
    expect(unreadable(envelope({ x: 1 }, [['class', 'Point']]))).toContain('names a type that is not read')
  })

  describe('reads', () => {
    it.each<[string, string, unknown]>([
      ['whitespace of jsonb', '{"a": [1, 2]}', { a: [1, 2] }],
      ['an envelope with nested trees', envelope({ a: { b: '1' } }, { a: { b: ['bigint'] } }), { a: { b: 1n } }],
      [
        'what is no envelope for lack of a version',
        '{"json":1,"meta":{"values":{}}}',
        { json: 1, meta: { values: {} } },
      ],
      [
        'what is no envelope for identities',
        '{"json":1,"meta":{"values":{},"v":1,"referentialEqualities":{}}}',
        { json: 1, meta: { values: {}, v: 1, referentialEqualities: {} } },
      ],
      ['an escaped lone surrogate', '"\\ud800"', '\ud800'],
      ['2 ** 53', '9007199254740992', 2 ** 53],
      ['an exact larger integer', '9007199254740994', 9007199254740994],
      ['2 ** 67 in full', '147573952589676412928', 2 ** 67],
      ['2 ** 67 as JSON.stringify rounds it', JSON.stringify(2 ** 67), 2 ** 67],
      ['1e+23 as jsonb prints it', '[100000000000000000000000, -1]', [1e23, -1]],
      [
        'long digits in strings and fractions',
        '["18446744073709551615", 0.12345678901234568]',
        ['18446744073709551615', 0.12345678901234568],
      ],
    ])('%s', (_, json, value) => {
      expect(read(json)).toStrictEqual(value)
    })

    it('a key named __proto__ as a harmless own key', () => {
      const value = read('{"__proto__":{"polluted":true}}') as object
      expect(Object.getPrototypeOf(value)).toBe(Object.prototype)
      expect(Object.keys(value)).toEqual(['__proto__'])
      const rich = read(
        envelope({ at: '0' }, { at: ['bigint'] }).replace('"at":"0"', '"at":"0","__proto__":{"x":1}'),
      ) as object
      expect(Object.getPrototypeOf(rich)).toBe(Object.prototype)
      expect(Object.keys(rich)).toEqual(['at', '__proto__'])
    })
  })

  describe('does not read', () => {
    it.each<[string, string | Uint8Array, string]>([
      ['nothing', '', 'it is not JSON'],
      ['other text', 'secret', 'it is not JSON'],
      ['a byte order mark', '\ufeff1', 'it is not JSON'],
      ['other bytes', new Uint8Array([0x22, 0xff, 0x22]), 'it is not UTF-8'],
      ['a surrogate in UTF-8', new Uint8Array([0x22, 0xed, 0xa0, 0x80, 0x22]), 'it is not UTF-8'],
      [
        'a u64 that would be rounded',
        '{"id": 18446744073709551615}',
        'an integer that a JavaScript number would round',
      ],
      ['2 ** 53 + 1', '[-9007199254740993]', 'an integer that a JavaScript number would round'],
      ['an integer that would be infinite', '1'.repeat(400), 'an integer that a JavaScript number would round'],
      [
        'such an integer after an escaped quote',
        '["\\\\\\"", 9007199254740993]',
        'an integer that a JavaScript number would round',
      ],
      ['an annotation of nothing', envelope({}, { a: ['Date'] }), 'points to nothing'],
      ['an annotation of an inherited key', envelope({}, { toString: ['Date'] }), 'points to nothing'],
      ['an annotation of a prototype', envelope({}, { '__proto__.a': ['Date'] }), 'points to nothing'],
      [
        'a path through constructor',
        envelope({ constructor: { a: '1' } }, { 'constructor.a': ['bigint'] }),
        'points to nothing',
      ],
      ['an index with leading zeros', envelope(['1'], { '00': ['bigint'] }), 'points to nothing'],
      ['a huge index', envelope([], { '4294967290': ['Date'] }), 'points to nothing'],
      ['the length of an array', envelope([], { length: ['bigint'] }), 'points to nothing'],
      ['a path into what is restored', envelope({ a: ['1'] }, { a: ['set'], 'a.0': ['bigint'] }), 'points to nothing'],
      [
        'a place annotated twice',
        envelope({ a: ['1'] }, { a: ['set', { 0: ['bigint'] }], 'a.0': ['bigint'] }),
        'points to nothing',
      ],
      ['a class', envelope({}, [['class', 'Point']]), 'names a type that is not read'],
      ['a custom type', envelope({}, [['custom', 'x']]), 'names a type that is not read'],
      ['a symbol', envelope('x', [['symbol', 'x']]), 'names a type that is not read'],
      ['an Error', envelope({ message: 'x' }, ['Error']), 'names a type that is not read'],
      ['a type from the prototype', envelope('x', ['toString']), 'names a type that is not read'],
      ['no type', envelope('x', []), 'names a type that is not read'],
      ['too long an annotation', envelope(['1'], ['set', { 0: ['bigint'] }, 1]), 'malformed'],
      ['parts that are no record', envelope(['1'], ['set', 'x']), 'malformed'],
      ['a tree that is no tree', envelope(['1'], { 0: null }), 'malformed'],
      ['a wrong escape', envelope({ a: '1' }, { '\\a': ['bigint'] }), 'malformed'],
      ['an Invalid Date', envelope('secret', ['Date']), 'does not fit'],
      ['a Date of a number', envelope(5, ['Date']), 'does not fit'],
      ['a bigint that is none', envelope('0x10', ['bigint']), 'does not fit'],
      ['a long bigint', envelope('1'.repeat(20_002), ['bigint']), 'does not fit'],
      ['a number that is none', envelope('1e3', ['number']), 'does not fit'],
      ['undefined of a value', envelope('secret', ['undefined']), 'does not fit'],
      ['a wrong URL', envelope('secret', ['URL']), 'does not fit'],
      ['a wrong RegExp', envelope('/(/', ['regexp']), 'does not fit'],
      ['wrong flags', envelope('/a/secret', ['regexp']), 'does not fit'],
      ['a RegExp without slashes', envelope('aa', ['regexp']), 'does not fit'],
      ['a Set of no array', envelope({ length: 1e9 }, ['set']), 'does not fit'],
      ['a Map of no pairs', envelope([[1, 2, 3]], ['map']), 'does not fit'],
      ['a typed array of no array', envelope({ length: 268435456 }, [['typed-array', 'Float64Array']]), 'does not fit'],
      ['a typed array of strings', envelope(['1'], [['typed-array', 'Uint8Array']]), 'does not fit'],
      ['a typed array that would round', envelope([256], [['typed-array', 'Uint8Array']]), 'does not fit'],
      ['an unknown typed array', envelope([1], [['typed-array', 'BigInt64Array']]), 'does not fit'],
    ])('%s', (_, json, reason) => {
      const message = unreadable(json)
      expect(message).toContain(reason)
      expect(message).not.toContain('secret')
    })

    it('and reads on after a failure', () => {
      expect(unreadable(new Uint8Array([0xc3]))).toBe('it is not UTF-8')
      expect(read('"ä"')).toBe('ä')
    })
  })
})

describe('jsonCodec', () => {
  it.each([
    ['a record', { a: [1, 'x', null, { b: true }], c: undefined }],
    ['an envelope, which it does not know', { json: '1', meta: { values: ['bigint'], v: 1 } }],
    ['a NUL character', { '\0': '\0' }],
    ['pairs of surrogates', '\u{1f600}'],
  ])('writes and reads %s as JSON', (_, value) => {
    expect(written(value, jsonCodec)).toBe(JSON.stringify(value))
    expect(roundTrip(value, jsonCodec)).toEqual(value)
  })

  it('writes undefined as null', () => {
    expect(written(undefined, jsonCodec)).toBe('null')
  })

  it.each<[string, unknown, string]>([
    ['a Date', { at: new Date(0) }, 'args.at is a Date, and only JSON values are stored here; convert it first'],
    ['a bigint', [1n], 'args[0] is a bigint'],
    ['NaN', { n: NaN }, 'args.n is NaN'],
    ['undefined in an array', [undefined], 'args[0] is undefined'],
    ['a Map', new Map(), 'args is a Map'],
    ['a class instance', new Point(), 'args is an instance of Point'],
    ['a lone surrogate', { a: ['\ud800'] }, 'args.a[0] contains a lone surrogate'],
    ['a lone surrogate in a key', { '\udc00': 1 }, 'contains a lone surrogate'],
  ])('refuses %s', (_, value, message) => {
    expect(refusal(value, jsonCodec).message).toContain(message)
  })

  it('keeps integers or does not read them', () => {
    expect(unreadable('18446744073709551615', jsonCodec)).toContain('an integer')
    expect(read('9007199254740991', jsonCodec)).toBe(2 ** 53 - 1)
  })
})
