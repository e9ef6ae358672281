import fc from 'fast-check'
import * as v from 'valibot'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { type } from 'arktype'
import { type Codec, jsonCodec } from '../src/vocabulary/codec.js'
import { decodeArgs } from '../src/vocabulary/decode.js'
import { DecodeError, InvalidArgumentError, type TaskId } from '../src/vocabulary/errors.js'
import { defineQueue, definitionOf, type Queue } from '../src/vocabulary/queue.js'
import type { StandardSchema } from '../src/vocabulary/standard-schema.js'
import { type EncodedTask, encodeTask, type Task, type TaskOptions } from '../src/vocabulary/task.js'
import { newTaskId, parseTaskId, parseTaskIds } from '../src/vocabulary/task-id.js'

const ID = '01JD8ZW5T3Q4M6A7B8C9D0EFGH' as TaskId
const queue = defineQueue<unknown>('emails', { maxAttempts: 8, priority: 3 })
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

function encoded(task: Task): EncodedTask {
  const result = encodeTask(task)
  if (result instanceof Promise) throw new Error('a promise where none is needed')
  return result
}

type Validate = StandardSchema<unknown, unknown>['~standard']['validate']
const schema = (validate: Validate): StandardSchema<unknown, unknown> => ({
  '~standard': { version: 1, vendor: 'test', validate },
})

function refusal(task: Task): InvalidArgumentError {
  try {
    encoded(task)
  } catch (error) {
    if (error instanceof InvalidArgumentError) return error
    throw error
  }
  throw new Error('the task was accepted')
}

async function rejection(run: () => unknown): Promise<unknown> {
  try {
    await run()
  } catch (error) {
    return error
  }
  throw new Error('nothing was thrown')
}

describe('encodeTask', () => {
  it("fills in the queue's values and the defaults", () => {
    const task = encoded(queue.task({ to: 'a' }))
    expect(task).toEqual({
      id: parseTaskId(task.id),
      idGiven: false,
      queue: 'emails',
      job: new TextEncoder().encode('{"to":"a"}'),
      maxAttempts: 8,
      priority: 3,
      runAtMs: undefined,
      delayMs: 0,
      metadata: '{}',
      idempotencyKey: null,
      notify: { maxPerSecond: 20 },
    })
  })

  it('takes what the task says', () => {
    const runAt = new Date('2026-11-23T12:00:00.123Z')
    const options = { id: ID, idempotencyKey: '', priority: 0, maxAttempts: 1, runAt, metadata: { trace: ['a', 1] } }
    expect(encoded(queue.task(1, options))).toMatchObject({
      id: ID,
      idGiven: true,
      idempotencyKey: '',
      priority: 0,
      maxAttempts: 1,
      runAtMs: 1_795_435_200_123,
      metadata: '{"trace":["a",1]}',
    })
    expect(encoded(queue.task(1, { delayMs: 1500.5 })).delayMs).toBe(1500.5)
  })

  it('takes undefined options as absent', () => {
    const options = { id: undefined, idempotencyKey: undefined, runAt: undefined, delayMs: 5, metadata: undefined }
    expect(encoded(queue.task(1, options))).toMatchObject({ idGiven: false, idempotencyKey: null, delayMs: 5 })
  })

  it('makes a new id each time, later ones after earlier ones', () => {
    const task = queue.task(1)
    const ids = Array.from({ length: 1000 }, () => encoded(task).id)
    expect(new Set(ids).size).toBe(1000)
    expect([...ids].sort()).toEqual(ids)
  })

  it.each<[keyof TaskOptions, TaskOptions, string]>([
    ['id', { id: 'x' }, 'ULID'],
    ['id', { id: ID.toLowerCase() }, 'convert "01jd8zw5t3q4m6a7b8c9d0efgh" with toUpperCase()'],
    ['id', { id: `8${ID.slice(1)}` }, 'the first at most 7'],
    ['id', { id: `${ID.slice(1)}U` }, 'without I, L, O and U'],
    ['id', { id: `${ID}\n` }, ' has 27 characters'],
    ['id', { id: 5 as never }, 'ULID'],
    ['idempotencyKey', { idempotencyKey: 'k'.repeat(1025) }, 'has 1025 bytes of UTF-8, and the limit is 1024'],
    ['idempotencyKey', { idempotencyKey: 'a\0' }, 'a NUL character'],
    ['idempotencyKey', { idempotencyKey: '\udc00' }, 'a lone surrogate'],
    ['idempotencyKey', { idempotencyKey: null as never }, 'a string is needed, not null'],
    ['priority', { priority: -1 }, 'an integer from 0 to 2147483647 is needed, not -1'],
    ['priority', { priority: 0.5 }, 'not 0.5'],
    ['priority', { priority: 2 ** 31 }, 'not 2147483648'],
    ['maxAttempts', { maxAttempts: 0 }, 'an integer from 1'],
    ['maxAttempts', { maxAttempts: 2 ** 31 }, 'not 2147483648'],
    ['delayMs', { delayMs: -1 }, 'milliseconds from 0'],
    ['delayMs', { delayMs: NaN }, 'not NaN'],
    ['delayMs', { delayMs: Infinity }, 'not Infinity'],
    ['delayMs', { delayMs: 3_155_760_000_001 }, '(100 years)'],
    ['delayMs', { delayMs: '5' as never }, 'not a string'],
    ['delayMs', { delayMs: 0, runAt: new Date() }, 'either runAt or delayMs'],
    ['runAt', { runAt: new Date(NaN) }, 'an Invalid Date'],
    ['runAt', { runAt: new Date(-1) }, 'between 1970-01-01'],
    ['runAt', { runAt: 0 as never }, 'a Date is needed, not a number'],
    ['metadata', { metadata: [] as never }, 'a plain object is needed, not an array'],
    ['metadata', { metadata: null as never }, 'not null'],
    ['metadata', { metadata: new Map() as never }, 'metadata is a Map'],
    ['metadata', { metadata: new Date(0) as never }, 'metadata is a Date'],
    ['metadata', { metadata: { at: new Date(0) } }, 'metadata.at is a Date'],
    ['metadata', { metadata: { a: { b: [undefined] } } }, 'metadata.a.b[0] is undefined'],
    ['metadata', { metadata: { f: () => 1 } }, 'metadata.f is a function'],
    ['metadata', { metadata: { 'a\0': 1 } }, 'a NUL character'],
    ['metadata', { metadata: { a: ['\0'] } }, 'metadata.a[0] contains a NUL character'],
    ['metadata', { metadata: { '\ud800': 1 } }, 'a lone surrogate'],
    ['metadata', { metadata: { a: 'x'.repeat(8185) } }, 'has 8193 bytes of JSON, and the limit is 8192'],
    ['metadata', { metadata: { a: 'ä'.repeat(4093) } }, 'has 8194 bytes of JSON'],
    ['metadata', { metadata: { a: 'x'.repeat(2_000_000) } }, 'metadata has more than'],
  ])('refuses %s: %j', (argument, options, message) => {
    const error = refusal(queue.task(1, options))
    expect(error.argument).toBe(argument)
    expect(error.message).toContain(message)
  })

  it.each<TaskOptions>([
    { idempotencyKey: 'k'.repeat(1024) },
    { idempotencyKey: 'ä'.repeat(512) },
    { metadata: { a: 'x'.repeat(8184) } },
    { metadata: { a: 'ä'.repeat(4092) } },
    { metadata: { dropped: undefined } },
    { priority: 2 ** 31 - 1, maxAttempts: 2 ** 31 - 1 },
    { delayMs: 3_155_760_000_000 },
    { runAt: new Date(0) },
    { runAt: new Date(8_210_266_876_799_999) },
  ])('accepts the limits', (options) => {
    expect(encoded(queue.task(1, options)).queue).toBe('emails')
  })

  it('refuses a run_at beyond what Rust can represent [PUSH-18]', () => {
    expect(refusal(queue.task(1, { runAt: new Date(8_210_266_876_800_000) })).argument).toBe('runAt')
    expect(refusal(queue.task(1, { runAt: new Date(8.64e15) })).argument).toBe('runAt')
  })

  it('refuses a payload above 1 MiB, whatever the codec [NEXT-45]', () => {
    const codec: Codec = { encode: (value) => new Uint8Array(value as number), decode: () => 0 }
    expect(refusal(queue.withCodec(codec).task(1_048_577)).message).toContain('has 1048577 bytes')
    expect(encoded(queue.withCodec(codec).task(1_048_576)).job).toHaveLength(1_048_576)
    expect(refusal(queue.task('x'.repeat(1_048_575))).argument).toBe('args')
    expect(encoded(queue.task('x'.repeat(1_048_574))).job).toHaveLength(1_048_576)
  })

  it('stores arbitrary text as it is, or refuses it', () => {
    const unit = fc.oneof(fc.constantFrom('"', '\\', '\0', '\ud800', '\u{1f600}', "'"), fc.string({ unit: 'binary' }))
    const anyText = fc.array(unit).map((parts) => parts.join(''))
    fc.assert(
      fc.property(anyText, (value) => {
        const storable = value.isWellFormed() && !value.includes('\0')
        const task = queue.task(value, { idempotencyKey: value, metadata: { [value]: value } })
        expect(decodeArgs(definitionOf(queue), ID, encoded(queue.task(value)).job)).toBe(value)
        if (!storable) return void refusal(task)
        const { metadata, idempotencyKey } = encoded(task)
        expect(idempotencyKey).toBe(value)
        expect(JSON.parse(metadata)).toEqual(JSON.parse(JSON.stringify({ [value]: value })))
      }),
    )
  })
})

describe('a custom codec', () => {
  const broken = (codec: Partial<Codec>) =>
    queue.withCodec({ encode: () => new Uint8Array(), decode: () => null, ...codec })

  it('that throws is quoted neither at push nor at claim', async () => {
    const fail = () => {
      throw new RangeError('secret')
    }
    expect(refusal(broken({ encode: fail }).task(1)).message).toBe(
      "Invalid args: writing it threw RangeError, from a getter or the queue's codec.",
    )
    const error = await rejection(() => decodeArgs(definitionOf(broken({ decode: fail })), ID, new Uint8Array()))
    expect(error).toBeInstanceOf(DecodeError)
    expect(error).toMatchObject({ taskId: ID, queue: 'emails' })
    expect((error as DecodeError).cause).toBeUndefined()
    expect(String(error)).toContain("the queue's codec threw RangeError")
    expect(String(error)).not.toContain('secret')
  })

  it('that throws no error, or one that does not even have a class, is reported', () => {
    for (const thrown of ['secret', undefined, Object.setPrototypeOf(new Error('secret'), null)]) {
      const encode = () => {
        throw thrown
      }
      expect(refusal(broken({ encode }).task(1)).message).toContain('writing it threw')
      expect(refusal(broken({ encode }).task(1)).message).not.toContain('secret')
    }
  })

  it('that returns no bytes is refused', () => {
    expect(refusal(broken({ encode: () => 'text' as never }).task(1)).message).toContain('not a string')
  })

  it('may wrap one of the library, whose refusal stays', () => {
    expect(refusal(broken({ encode: (value) => jsonCodec.encode({ value }) }).task(new Date(0))).message).toContain(
      'args.value is a Date',
    )
  })

  it('may use one buffer for all', () => {
    const buffer = Buffer.alloc(1)
    const shared = broken({ encode: (value) => (buffer.writeUInt8(value as number), buffer) })
    const [first, second] = [encoded(shared.task(1)), encoded(shared.task(2))]
    expect([first.job, second.job]).toEqual([new Uint8Array([1]), new Uint8Array([2])])
  })
})

const age = z.object({ name: z.string(), age: z.string().transform(Number).default(7), at: z.coerce.date().optional() })

describe('a queue with a schema', () => {
  const schemas: [string, Queue<unknown, void, unknown>][] = [
    ['zod', defineQueue('q', { args: age }) as never],
    [
      'valibot',
      defineQueue('q', {
        args: v.object({ name: v.string(), age: v.optional(v.pipe(v.string(), v.transform(Number)), '7') }),
      }) as never,
    ],
    ['arktype', defineQueue('q', { args: type({ name: 'string', age: 'string.numeric.parse = "7"' }) }) as never],
  ]

  it.each(schemas)('of %s stores the input as given and hands the output to the handler', (_, people) => {
    const task = encoded(people.task({ name: 'a', age: '41' }))
    expect(text(task.job)).toBe('{"name":"a","age":"41"}')
    expect(decodeArgs(definitionOf(people), ID, task.job)).toEqual({ name: 'a', age: 41 })
    const defaulted = encoded(people.task({ name: 'a' }))
    expect(text(defaulted.job)).toBe('{"name":"a"}')
    expect(decodeArgs(definitionOf(people), ID, defaulted.job)).toEqual({ name: 'a', age: 7 })
  })

  it.each(schemas)('of %s refuses at push with the place, and with the issues beside the message', (_, people) => {
    const error = refusal(people.task({ name: 5, secret: 'secret', age: { secret: 'secret' } }))
    expect(error.argument).toBe('args')
    expect(error.message).toMatch(/do not fit the queue's schema at args\.(name, args\.age|age, args\.name)\./)
    expect(error.issues.map(({ path }) => path)).toContainEqual(['name'])
    expect(error.issues[0]?.message).toEqual(expect.any(String))
    expect(error.message).not.toContain('secret')
  })

  it.each(schemas)('of %s refuses at claim with the place, not the value', async (_, people) => {
    const job = new TextEncoder().encode('{"name":"a","age":["secret"]}')
    const error = await rejection(() => decodeArgs(definitionOf(people), ID, job))
    expect(error).toMatchObject({ code: 'DECODE', taskId: ID, queue: 'q' })
    expect(String(error)).toContain("the payload does not fit the queue's schema at args.age")
    expect(String(error)).not.toContain('secret')
    expect((error as DecodeError).issues[0]?.path).toEqual(['age'])
  })

  it('counts the places of many issues', () => {
    const numbers = defineQueue('q', { args: z.array(z.number()) })
    expect(refusal(numbers.task(Array(8).fill('x') as never)).message).toBe(
      "Invalid args: they do not fit the queue's schema at args[0], args[1], args[2], args[3], args[4] and 3 more places.",
    )
  })

  it('that throws is quoted neither at push nor at claim', async () => {
    const broken = defineQueue('q', {
      args: schema(() => {
        throw new RangeError('secret')
      }),
    })
    expect(refusal(broken.task(1)).message).toContain('because the schema itself threw RangeError')
    const error = await rejection(() => decodeArgs(definitionOf(broken), ID, new TextEncoder().encode('1')))
    expect(String(error)).toContain('because the schema itself threw RangeError')
    expect(String(error)).not.toContain('secret')
  })

  describe('that is asynchronous', () => {
    const known = defineQueue('q', {
      args: z.object({ id: z.number() }).refine(async ({ id }) => Promise.resolve(id === 1)),
    })

    it('stores the payload as it was when it was pushed', async () => {
      const args = { id: 1 }
      const encoding = encodeTask(known.task(args))
      args.id = 2
      expect(text((await encoding).job)).toBe('{"id":1}')
    })

    it('refuses at push and at claim', async () => {
      expect(await rejection(() => encodeTask(known.task({ id: 2 })))).toMatchObject({ argument: 'args' })
      const job = new TextEncoder().encode('{"id":2}')
      expect(await rejection(() => decodeArgs(definitionOf(known), ID, job))).toMatchObject({
        code: 'DECODE',
        taskId: ID,
      })
      expect(await decodeArgs(definitionOf(known), ID, new TextEncoder().encode('{"id":1}'))).toEqual({ id: 1 })
    })

    it('refuses an option at once, and leaves no rejection behind', async () => {
      expect(() => encodeTask(known.task({ id: 2 }, { priority: -1 }))).toThrow('Invalid priority')
    })

    it('that rejects is not quoted', async () => {
      const broken = defineQueue('q', {
        args: schema(async () => Promise.reject(new RangeError('secret'))),
      })
      const error = await rejection(() => encodeTask(broken.task(1)))
      expect(String(error)).toContain('because the schema itself threw RangeError')
    })
  })
})

describe('decodeArgs', () => {
  it('names task and queue and gives the reason, not the payload', async () => {
    const error = await rejection(() => decodeArgs(definitionOf(queue), ID, new TextEncoder().encode('secret')))
    expect(error).toBeInstanceOf(DecodeError)
    expect(String(error)).toBe(
      `DecodeError: Task ${ID} of queue "emails" cannot be decoded: it is not JSON. Check that producer and consumer use the same codec and schema.`,
    )
  })

  it('reads Buffers too', () => {
    expect(decodeArgs(definitionOf(queue), ID, Buffer.from('{"a":1}'))).toEqual({ a: 1 })
  })
})

describe('task ids', () => {
  it('are ULIDs of 26 characters [STORE-11]', () => {
    expect(newTaskId()).toMatch(/^[0-7][0-9A-HJKMNP-TV-Z]{25}$/)
    expect(parseTaskId(ID)).toBe(ID)
    expect(parseTaskId('7ZZZZZZZZZZZZZZZZZZZZZZZZZ')).toHaveLength(26)
  })

  it('are refused with their place in a series and their text, cut to 40 characters', async () => {
    expect(await rejection(() => parseTaskIds([ID, 'x'.repeat(41)]))).toMatchObject({
      argument: 'ids',
      message: expect.stringMatching(`^Invalid ids: at \\[1\\]: .*; "${'x'.repeat(40)}…" has 41 characters.`) as string,
    })
    expect(await rejection(() => parseTaskIds([null] as never))).toMatchObject({
      message: expect.stringMatching(/, and this is null\.$/) as string,
    })
    expect(refusal(queue.task(1, { id: '' })).message).toMatch(
      /; "" has 0 characters\. Leave id out, and one is made\.$/,
    )
  })

  it('carry the time they were made at', () => {
    const before = Date.now()
    const time = Array.from(newTaskId().slice(0, 10)).reduce(
      (sum, char) => sum * 32 + '0123456789ABCDEFGHJKMNPQRSTVWXYZ'.indexOf(char),
      0,
    )
    expect(time).toBeGreaterThanOrEqual(before)
    expect(time).toBeLessThanOrEqual(Date.now())
  })
})
