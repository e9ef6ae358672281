import { type } from 'arktype'
import * as v from 'valibot'
import { describe, expectTypeOf, it } from 'vitest'
import { z } from 'zod'
import type { Admin, Claim, PostgresStorage, TaskResult } from '../../src/index.js'
import { type Codec, jsonCodec, superjsonCodec } from '../../src/vocabulary/codec.js'
import { decodeArgs } from '../../src/vocabulary/decode.js'
import type { TaskId } from '../../src/vocabulary/errors.js'
import { defineQueue, definitionOf, type Queue } from '../../src/vocabulary/queue.js'
import { typed } from '../../src/vocabulary/standard-schema.js'
import type { Task } from '../../src/vocabulary/task.js'

interface SendEmail {
  to: string
  cc?: string
}
interface Receipt {
  messageId: string
}

declare function push(task: Task): void
declare function pushTo<Input>(queue: Queue<unknown, unknown, Input>, task: Task<Input>): void

describe('explicit types', () => {
  it('give payload, input and result', () => {
    const emails = defineQueue<SendEmail, Receipt>('emails', { maxAttempts: 8 })
    expectTypeOf(emails).toEqualTypeOf<Queue<SendEmail, Receipt, SendEmail>>()
    expectTypeOf(emails.$inferArgs).toEqualTypeOf<SendEmail>()
    expectTypeOf(emails.$inferInput).toEqualTypeOf<SendEmail>()
    expectTypeOf(emails.$inferResult).toEqualTypeOf<Receipt>()
    expectTypeOf(emails.task({ to: 'a' })).toEqualTypeOf<Task<SendEmail, Receipt>>()
  })

  it('have a result of void by default', () => {
    expectTypeOf(defineQueue<SendEmail>('emails').$inferResult).toBeVoid()
  })

  it('may be none, for tasks without a payload', () => {
    const ticks = defineQueue('ticks')
    expectTypeOf(ticks).toEqualTypeOf<Queue<void, void, void>>()
    push(ticks.task())
    push(ticks.task(undefined, { delayMs: 5 }))
    // @ts-expect-error the queue has no payload
    ticks.task({ to: 'a' })
  })

  it('are checked against a schema', () => {
    defineQueue<SendEmail>('emails', { args: typed<SendEmail>() })
    // @ts-expect-error the schema says number
    defineQueue<SendEmail>('emails', { args: z.number() })
    // @ts-expect-error the schema says number
    defineQueue<SendEmail, Receipt>('emails', { result: z.number() })
  })

  it('may be written on the constant, as isolated declarations demand', () => {
    const emails: Queue<SendEmail, Receipt> = defineQueue('emails')
    expectTypeOf(emails.$inferArgs).toEqualTypeOf<SendEmail>()
  })
})

describe('a wrong payload is refused at the payload', () => {
  const emails = defineQueue<SendEmail>('emails')

  it('with explicit types', () => {
    emails.task({ to: 'a' })
    // @ts-expect-error to is a string
    emails.task({ to: 5 })
    // @ts-expect-error to is missing
    emails.task({})
    // @ts-expect-error there is no bcc
    emails.task({ to: 'a', bcc: 'b' })
    // @ts-expect-error the payload is missing
    emails.task()
    expectTypeOf(emails.task).parameter(0).toEqualTypeOf<SendEmail>()
  })

  it('and a wrong option at the option', () => {
    // @ts-expect-error runAt is a Date
    emails.task({ to: 'a' }, { runAt: '2026-11-23' })
    // @ts-expect-error the option is delayMs
    emails.task({ to: 'a' }, { delay: 5 })
    emails.task({ to: 'a' }, { metadata: { trace: 1 }, idempotencyKey: undefined, runAt: undefined })
  })
})

describe('schemas', () => {
  it('of zod give input, payload and result', () => {
    const people = defineQueue('people', {
      args: z.object({ name: z.string(), age: z.string().transform(Number), tags: z.array(z.string()).default([]) }),
      result: z.object({ id: z.number() }),
    })
    expectTypeOf(people.$inferInput).toEqualTypeOf<{ name: string; age: string; tags?: string[] | undefined }>()
    expectTypeOf(people.$inferArgs).toEqualTypeOf<{ name: string; age: number; tags: string[] }>()
    expectTypeOf(people.$inferResult).toEqualTypeOf<{ id: number }>()
    people.task({ name: 'a', age: '5' })
    // @ts-expect-error the input is a string
    people.task({ name: 'a', age: 5 })
  })

  it('of valibot give input, payload and result', () => {
    const people = defineQueue('people', {
      args: v.object({ name: v.string(), age: v.pipe(v.string(), v.transform(Number)) }),
      result: v.object({ id: v.number() }),
    })
    expectTypeOf(people.$inferInput).toEqualTypeOf<{ name: string; age: string }>()
    expectTypeOf(people.$inferArgs).toEqualTypeOf<{ name: string; age: number }>()
    expectTypeOf(people.$inferResult).toEqualTypeOf<{ id: number }>()
    // @ts-expect-error the input is a string
    people.task({ name: 'a', age: 5 })
  })

  it('of arktype give input, payload and result', () => {
    const people = defineQueue('people', {
      args: type({ name: 'string', age: 'string.numeric.parse' }),
      result: type({ id: 'number' }),
    })
    expectTypeOf(people.$inferInput).toEqualTypeOf<{ name: string; age: string }>()
    expectTypeOf(people.$inferArgs).toEqualTypeOf<{ name: string; age: number }>()
    expectTypeOf(people.$inferResult).toEqualTypeOf<{ id: number }>()
    // @ts-expect-error the input is a string
    people.task({ name: 'a', age: 5 })
  })

  it('of one side leave the other to typed()', () => {
    const mixed = defineQueue('mixed', { args: z.object({ n: z.number() }), result: typed<Receipt>() })
    expectTypeOf(mixed).toEqualTypeOf<Queue<{ n: number }, Receipt, { n: number }>>()
    const onlyArgs = defineQueue('only', { args: z.number() })
    expectTypeOf(onlyArgs).toEqualTypeOf<Queue<number, void, number>>()
  })

  it('of results must not transform', () => {
    // @ts-expect-error the result would be read as another type than it was written
    defineQueue('q', { result: z.string().transform(Number) })
    // @ts-expect-error the result would be read as another type than it was written
    defineQueue('q', { result: v.pipe(v.string(), v.transform(Number)) })
  })

  it('are all that may stand in their place', () => {
    // @ts-expect-error that is no Standard Schema
    defineQueue('q', { args: { parse: (value: unknown) => value } })
  })
})

describe('codecs', () => {
  const own: Codec<SendEmail> = { encode: () => new Uint8Array(), decode: () => ({ to: 'a' }) }
  const others: Codec<number> = { encode: () => new Uint8Array(), decode: () => 1 }

  it('of the library fit every queue, own ones that of their input', () => {
    expectTypeOf(superjsonCodec).toEqualTypeOf<Codec>()
    defineQueue<SendEmail>('q', { codec: jsonCodec })
    defineQueue<SendEmail>('q', { codec: own })
    expectTypeOf(defineQueue<SendEmail>('q').withCodec(own)).toEqualTypeOf<Queue<SendEmail>>()
    defineQueue('q', { args: z.object({ to: z.string().transform(Number) }), codec: jsonCodec })
    // @ts-expect-error the codec is for numbers
    defineQueue<SendEmail>('q', { codec: others })
    // @ts-expect-error the codec is for numbers
    defineQueue<SendEmail>('q').withCodec(others)
    // @ts-expect-error the codec is for numbers
    defineQueue('q', { args: z.object({ to: z.string() }), codec: others })
  })

  it('do not take part in the inference', () => {
    expectTypeOf(defineQueue('q', { args: z.number(), codec: others }).$inferArgs).toEqualTypeOf<number>()
  })
})

describe('tasks', () => {
  it('of all queues go together', () => {
    const tasks = [defineQueue<SendEmail>('a').task({ to: 'a' }), defineQueue<number, Receipt>('b').task(1)]
    tasks.forEach(push)
  })

  it('of another payload are refused', () => {
    pushTo(defineQueue<SendEmail>('a'), defineQueue<SendEmail>('a').task({ to: 'a' }))
    // @ts-expect-error the task is for numbers
    pushTo<SendEmail>(defineQueue<SendEmail>('a'), defineQueue<number>('b').task(1))
  })

  it('cannot be written by hand', () => {
    // @ts-expect-error no queue made it
    push({ queue: 'a', args: 1, options: {} })
  })

  it('are read-only', () => {
    const task = defineQueue<SendEmail>('a').task({ to: 'a' })
    // @ts-expect-error a task is immutable
    task.queue = 'b'
    // @ts-expect-error options are immutable
    task.options.priority = 5
  })
})

describe('claims', () => {
  it('have the payload of the queue, and take its result', async () => {
    const storage = {} as PostgresStorage<SendEmail, Receipt>
    const claim = await storage.lockTask('id', 'consumer')
    expectTypeOf(claim).toEqualTypeOf<Claim<SendEmail>>()
    expectTypeOf(await storage.claimByIds(['id'], 'consumer')).toEqualTypeOf<Claim<SendEmail>[]>()
    expectTypeOf(await ({} as Admin).lockTask('id', 'consumer')).toEqualTypeOf<Claim<unknown>>()
    // @ts-expect-error the result is a receipt
    await storage.ack(claim, { status: 'Done', result: 1 })
  })
})

describe('results', () => {
  it('are those of the queue, once it is known that the task is done', async () => {
    const storage = {} as PostgresStorage<SendEmail, Receipt>
    const ended = await storage.waitForSingle('id')
    expectTypeOf(ended).toEqualTypeOf<TaskResult<Receipt>>()
    if (ended.status === 'Done') expectTypeOf(ended.result).toEqualTypeOf<Receipt>()
    else expectTypeOf(ended.error).toEqualTypeOf<string>()
    // @ts-expect-error nobody knows yet how it ended
    ended.result
    expectTypeOf(storage.waitFor(['id'])).toEqualTypeOf<AsyncIterable<TaskResult<Receipt>>>()
    expectTypeOf(storage.checkStatus(new Set(['id']))).resolves.toEqualTypeOf<TaskResult<Receipt>[]>()
  })
})

describe('definitions', () => {
  it('carry the types of the reader', () => {
    const people = defineQueue('people', { args: z.string().transform(Number), result: z.boolean() })
    const args = decodeArgs(definitionOf(people), 'x' as TaskId, new Uint8Array())
    expectTypeOf(args).toEqualTypeOf<number | Promise<number>>()
  })
})
