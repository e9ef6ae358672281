import { inspect } from 'node:util'
import { DrizzleQueryError } from 'drizzle-orm'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { type Codec, jsonCodec } from '../src/vocabulary/codec.js'
import { InvalidArgumentError, type TaskId } from '../src/vocabulary/errors.js'
import { defineQueue, definitionOf } from '../src/vocabulary/queue.js'
import { errResult, okResult, readResult, unstorableResult } from '../src/vocabulary/result.js'

const ID = '01JD8ZW5T3Q4M6A7B8C9D0EFGH' as TaskId
const MARKER = '…[truncated]'
const queue = definitionOf(defineQueue<unknown, unknown>('q'))
const jsonQueue = definitionOf(defineQueue<unknown, unknown>('q', { codec: jsonCodec }))

function refusal(run: () => unknown): InvalidArgumentError {
  try {
    run()
  } catch (error) {
    if (error instanceof InvalidArgumentError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

const errText = (error: unknown) => (JSON.parse(errResult(error)) as { Err: string }).Err

describe('okResult', () => {
  it.each<[unknown, string]>([
    [undefined, '{"Ok":null}'],
    [null, '{"Ok":null}'],
    [0, '{"Ok":0}'],
    [{ id: 'a', none: undefined }, '{"Ok":{"id":"a"}}'],
    [new Date(0), '{"Ok":{"json":"1970-01-01T00:00:00.000Z","meta":{"values":["Date"],"v":1}}}'],
    [
      { json: 1, meta: { values: {}, v: 1 } },
      '{"Ok":{"json":{"json":1,"meta":{"values":{},"v":1}},"meta":{"values":{},"v":1}}}',
    ],
  ])('writes %j', (result, json) => {
    expect(okResult(queue, result)).toBe(json)
  })

  it('is JSON whatever the codec', () => {
    const codec: Codec = { encode: () => new Uint8Array([1]), decode: () => 1 }
    const other = definitionOf(defineQueue<unknown, unknown>('q', { codec }))
    expect(okResult(other, { n: 1n })).toBe('{"Ok":{"json":{"n":"1"},"meta":{"values":{"n":["bigint"]},"v":1}}}')
  })

  it("follows jsonCodec where that is the queue's", () => {
    expect(okResult(jsonQueue, { json: 1, meta: { values: {}, v: 1 } })).toBe(
      '{"Ok":{"json":1,"meta":{"values":{},"v":1}}}',
    )
    expect(okResult(jsonQueue, undefined)).toBe('{"Ok":null}')
    expect(refusal(() => okResult(jsonQueue, new Date(0))).message).toContain('result is a Date')
  })

  it.each<[string, unknown, string]>([
    ['a Response', { response: new Response('secret') }, 'result.response is an instance of Response'],
    ['a function', () => 'secret', 'result is a function'],
    ['a NUL character', { text: 'secret\0' }, 'result.text contains a NUL character, which PostgreSQL cannot hold'],
    ['a NUL character in a key', { 'a\0': 1 }, 'a NUL character'],
    ['a NUL character in a RegExp', { r: new RegExp(String.fromCharCode(0)) }, 'result.r contains a NUL character'],
    ['a lone surrogate', ['secret\ud800'], 'result[0] contains a lone surrogate'],
    ['more than 1 MiB', 'secret'.repeat(200_000), 'result has more than 1048576 bytes'],
    ['more than 1 MiB of UTF-8', 'ä'.repeat(600_000), 'result has 1200002 bytes'],
  ])('refuses %s and does not quote it [ACK-21]', (_, result, message) => {
    const error = refusal(() => okResult(queue, result))
    expect(error.argument).toBe('result')
    expect(error.message).toContain(message)
    expect(error.message).not.toContain('secret')
  })

  it('accepts exactly 1 MiB', () => {
    expect(okResult(queue, 'x'.repeat(1_048_574))).toHaveLength(1_048_576 + '{"Ok":}'.length)
    expect(refusal(() => okResult(queue, 'x'.repeat(1_048_575))).message).toContain('has 1048577 bytes')
  })

  it('is checked by the schema of the queue', async () => {
    const checked = definitionOf(defineQueue('q', { result: z.object({ n: z.number() }) }))
    expect(okResult(checked, { n: 1 })).toBe('{"Ok":{"n":1}}')
    const error = refusal(() => okResult(checked, { n: 'secret' } as never))
    expect(error.message).toBe("Invalid result: it does not fit the queue's schema at result.n.")
    expect(error.issues).toHaveLength(1)
    const later = definitionOf(defineQueue('q', { result: z.number().refine(async (n) => Promise.resolve(n > 0)) }))
    expect(await okResult(later, 1)).toBe('{"Ok":1}')
    await expect(okResult(later, -1)).rejects.toThrow("it does not fit the queue's schema at result.")
  })

  it('tells in the stored text that the handler finished and what to change', () => {
    const error = refusal(() => okResult(queue, { body: new Response() }))
    expect(JSON.parse(unstorableResult(error))).toEqual({
      Err: 'The handler finished and is not run again, but its result could not be stored. InvalidArgumentError: Invalid result: result.body is an instance of Response, which cannot be stored; convert it to a plain object.',
    })
  })
})

describe('errResult', () => {
  it.each<[string, unknown, string]>([
    ['an Error', new Error('no route'), 'no route'],
    ['another error', new TypeError('x is not a function'), 'TypeError: x is not a function'],
    ['an error without a message', new RangeError(), 'RangeError: '],
    ['text', 'no route', 'no route'],
    ['an object', { secret: 1 }, 'The handler threw an object instead of an Error.'],
    ['nothing', undefined, 'The handler threw undefined instead of an Error.'],
    ['NUL characters', new Error('a\0b\0'), 'a\ufffdb\ufffd'],
    ['lone surrogates', new Error('a\ud800b\udc00\u{1f600}'), 'a\ufffdb\ufffd\u{1f600}'],
  ])('is the text of %s', (_, error, message) => {
    expect(errText(error)).toBe(message)
  })

  it("leaves out the parameters that Drizzle's message lists", () => {
    const cause = new Error('duplicate key value violates unique constraint "users_email_key"')
    const error = new DrizzleQueryError('insert into "users" values ($1)', ['secret@example.org'], cause)
    expect(error.message).toContain('secret')
    expect(errText(error)).toBe(`Failed query: insert into "users" values ($1): ${cause.message}`)
    expect(errText(new DrizzleQueryError('select', ['secret']))).toBe('Failed query: select: unknown cause')
  })

  it('is some text when the message cannot be had', () => {
    const error = Object.defineProperty(new Error(), 'message', {
      get() {
        throw new Error('again')
      },
    })
    expect(errText(error)).toBe('The handler threw an error whose message cannot be read.')
    expect(errText(Object.assign(new Error('x'), { message: { no: 'text' } }))).toEqual(expect.any(String))
    expect(errText(Object.assign(new Error('x'), { name: Symbol('s') }))).toEqual(expect.any(String))
  })

  it.each([0, 1, 4096, 8191, 8192])('keeps %i bytes as they are, without a marker [ACK-24]', (length) => {
    expect(errText('x'.repeat(length))).toBe('x'.repeat(length))
  })

  it.each([8193, 10_000, 5_000_000])('cuts %i bytes to 8192 and the marker [ACK-25]', (length) => {
    expect(errText('x'.repeat(length))).toBe(`${'x'.repeat(8192)}${MARKER}`)
  })

  it.each([
    ['ä', 0, 8192],
    ['ä', 1, 8191],
    ['€', 0, 8190],
    ['\u{1f600}', 0, 8192],
    ['\u{1f600}', 1, 8189],
    ['\u{1f600}', 3, 8191],
  ])('cuts between characters: %s after %i bytes', (character, before, bytes) => {
    const kept = errText('x'.repeat(before) + character.repeat(8192)).slice(0, -MARKER.length)
    expect(Buffer.byteLength(kept)).toBe(bytes)
    expect(kept).toMatch(new RegExp(`^x*(${character})+$`))
  })

  it('is always text that PostgreSQL stores, short text otherwise unchanged', () => {
    const units = fc.array(fc.integer({ min: 0, max: 0xffff }), { size: 'large' })
    fc.assert(
      fc.property(units, (codes) => {
        const message = String.fromCharCode(...codes)
        const stored = errText(message)
        expect(stored.isWellFormed() && !stored.includes('\0')).toBe(true)
        const clean = message.replaceAll('\0', '\ufffd').toWellFormed()
        if (Buffer.byteLength(clean) <= 8192) expect(stored).toBe(clean)
        else expect(clean.startsWith(stored.slice(0, -MARKER.length))).toBe(true)
      }),
    )
  })
})

describe('readResult', () => {
  it.each<[string, unknown]>([
    ['{"Ok": null}', { ok: true, result: null }],
    ['{"Ok": {"a": [1]}}', { ok: true, result: { a: [1] } }],
    ['{"Err": "no route"}', { ok: false, error: 'no route' }],
    ['{"Ok": {"json": "1", "meta": {"v": 1, "values": ["bigint"]}}}', { ok: true, result: 1n }],
  ])('reads %s', (json, stored) => {
    expect(readResult(queue, ID, json)).toEqual(stored)
  })

  it.each<[string, string]>([
    ['null', 'neither'],
    ['"secret"', 'neither'],
    ['{"Err": {"secret": 1}}', 'neither'],
    ['{"Ok": 1, "Err": "secret"}', 'neither'],
    ['{}', 'neither'],
    ['secret', 'it is not JSON'],
    ['{"Ok": 18446744073709551615}', 'an integer that a JavaScript number would round'],
    ['{"Ok": {"json": "secret", "meta": {"values": ["bigint"], "v": 1}}}', 'does not fit its value'],
  ])('does not read %s', (json, reason) => {
    try {
      void readResult(queue, ID, json)
      expect.unreachable()
    } catch (error) {
      expect(error).toMatchObject({ code: 'DECODE', taskId: ID, queue: 'q' })
      expect(String(error)).toContain(reason)
      expect(inspect(error)).not.toContain('secret')
    }
  })

  it('parses by the schema of the queue, for which null may stand for nothing', async () => {
    const numbers = definitionOf(defineQueue('q', { result: z.object({ n: z.number() }) }))
    expect(readResult(numbers, ID, '{"Ok":{"n":1}}')).toEqual({ ok: true, result: { n: 1 } })
    expect(() => readResult(numbers, ID, '{"Ok":{"n":"1"}}')).toThrow(
      "its result does not fit the queue's schema at result.n",
    )
    expect(readResult(numbers, ID, '{"Err":"x"}')).toEqual({ ok: false, error: 'x' })
    const nothing = definitionOf(defineQueue('q', { result: z.void() }))
    expect(readResult(nothing, ID, okResult(nothing, undefined) as string)).toEqual({ ok: true, result: undefined })
  })

  it('reads what okResult wrote', () => {
    const result = fc.anything({ withDate: true, withMap: true, withSet: true, withBigInt: true, withTypedArray: true })
    fc.assert(
      fc.property(result, (value) => {
        let json: string
        try {
          json = okResult(queue, value) as string
        } catch (error) {
          expect(error).toBeInstanceOf(InvalidArgumentError)
          return
        }
        expect(okResult(queue, (readResult(queue, ID, json) as { result: unknown }).result)).toBe(json)
      }),
      { numRuns: 2000 },
    )
  })
})
