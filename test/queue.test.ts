import { describe, expect, it } from 'vitest'
import { type Codec, jsonCodec, superjsonCodec } from '../src/vocabulary/codec.js'
import { InvalidArgumentError } from '../src/vocabulary/errors.js'
import { definitionOfTask } from '../src/vocabulary/definition.js'
import { defineQueue, definitionOf, type Queue, type QueueOptions } from '../src/vocabulary/queue.js'
import { typed } from '../src/vocabulary/standard-schema.js'
import type { Task } from '../src/vocabulary/task.js'

const codec: Codec = { encode: () => new Uint8Array(), decode: () => null }

function refusal(run: () => unknown): InvalidArgumentError {
  try {
    run()
  } catch (error) {
    if (error instanceof InvalidArgumentError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

describe('defineQueue', () => {
  it('has defaults, those of the Rust crate where it has the option', () => {
    expect(definitionOf(defineQueue('emails'))).toMatchObject({
      name: 'emails',
      codec: superjsonCodec,
      argsSchema: undefined,
      resultSchema: undefined,
      maxAttempts: 5,
      priority: 0,
      timeoutMs: undefined,
      notify: { maxPerSecond: 20 },
    })
  })

  it('keeps what it is told', () => {
    const args = typed<string>()
    const result = typed<number>()
    const options = { args, result, codec, maxAttempts: 1, priority: 7, timeoutMs: 500, notify: { maxPerSecond: 0.5 } }
    const { argsSchema, resultSchema, ...definition } = definitionOf(defineQueue('emails', options))
    expect({ argsSchema, resultSchema }).toEqual({ argsSchema: args, resultSchema: result })
    expect(definition).toMatchObject({
      codec,
      maxAttempts: 1,
      priority: 7,
      timeoutMs: 500,
      notify: { maxPerSecond: 0.5 },
    })
  })

  it.each(['e', 'alloc::string::String', 'x'.repeat(255), 'ä'.repeat(127), '"quoted" \\ \u{1f600}\n'])(
    'accepts the name %j',
    (name) => {
      expect(defineQueue(name).name).toBe(name)
    },
  )

  it.each([
    ['', 'at least one character'],
    ['x'.repeat(256), 'has 256 bytes of UTF-8, and the limit is 255'],
    ['ä'.repeat(128), 'has 256 bytes of UTF-8'],
    ['a\0b', 'contains a NUL character'],
    ['a\ud800b', 'contains a lone surrogate'],
    [5 as never, 'a string is needed, not a number'],
  ])('refuses the name %j', (name, message) => {
    const error = refusal(() => defineQueue(name))
    expect(error.argument).toBe('name')
    expect(error.message).toContain(message)
  })

  it.each<[string, QueueOptions<unknown, unknown, unknown>]>([
    ['maxAttempts', { maxAttempts: 0 }],
    ['maxAttempts', { maxAttempts: 1.5 }],
    ['maxAttempts', { maxAttempts: 2 ** 31 }],
    ['maxAttempts', { maxAttempts: NaN }],
    ['maxAttempts', { maxAttempts: '5' as never }],
    ['priority', { priority: -1 }],
    ['priority', { priority: 2 ** 31 }],
    ['timeoutMs', { timeoutMs: 0 }],
    ['timeoutMs', { timeoutMs: -1 }],
    ['timeoutMs', { timeoutMs: 2 ** 31 }],
    ['timeoutMs', { timeoutMs: NaN }],
    ['codec', { codec: {} as never }],
    ['codec', { codec: JSON as never }],
    ['args', { args: { parse: () => 1 } as never }],
    ['result', { result: null as never }],
    ['notify', { notify: 'sometimes' as never }],
    ['notify', { notify: { maxPerSecond: 0 } }],
    ['notify', { notify: { maxPerSecond: Infinity } }],
    ['retry', { retry: 5 as never }],
    ['retry', { retry: null as never }],
    ['retry.baseMs', { retry: { baseMs: -1 } }],
    ['retry.baseMs', { retry: { baseMs: 2000, maxMs: 1000 } }],
    ['retry.factor', { retry: { factor: 0.5 } }],
    ['retry.factor', { retry: { factor: Infinity } }],
    ['retry.maxMs', { retry: { maxMs: Infinity } }],
    ['retry.maxMs', { retry: { maxMs: NaN } }],
    ['retry.jitter', { retry: { jitter: 1.1 } }],
    ['retry.jitter', { retry: { jitter: -0.1 } }],
  ])('refuses %s: %j', (argument, options) => {
    expect(refusal(() => defineQueue('emails', options)).argument).toBe(argument)
  })

  it('accepts the largest values', () => {
    const options = { maxAttempts: 2 ** 31 - 1, priority: 2 ** 31 - 1, timeoutMs: 2 ** 31 - 1 }
    expect(definitionOf(defineQueue('emails', options))).toMatchObject(options)
  })

  it('accepts options that are undefined', () => {
    const options = { args: undefined, codec: undefined, maxAttempts: undefined, retry: { baseMs: undefined } }
    expect(definitionOf(defineQueue('emails', options)).maxAttempts).toBe(5)
  })

  it('takes its functions apart from it', () => {
    const { task, withCodec } = defineQueue<string>('emails')
    expect(task('a').queue).toBe('emails')
    expect(withCodec(jsonCodec).name).toBe('emails')
  })
})

describe('withCodec', () => {
  it('changes the codec and nothing else, in a new queue', () => {
    const queue = defineQueue<string>('emails', { maxAttempts: 8, retry: { baseMs: 7, factor: 1, jitter: 0 } })
    const other = queue.withCodec(jsonCodec)
    expect(definitionOf(queue).codec).toBe(superjsonCodec)
    expect(definitionOf(other)).toEqual({ ...definitionOf(queue), codec: jsonCodec })
    expect(definitionOf(other).retryDelay(1, undefined).delayMs).toBe(7)
  })

  it('refuses what is no codec', () => {
    expect(refusal(() => defineQueue('emails').withCodec({} as never)).argument).toBe('codec')
  })
})

describe('a task', () => {
  const queue = defineQueue<{ to: string }>('emails')

  it('says what it was made of and cannot be changed', () => {
    const args = { to: 'a' }
    const options = { priority: 1 }
    const task = queue.task(args, options)
    options.priority = 2
    expect(task).toMatchObject({ queue: 'emails', args, options: { priority: 1 } })
    expect(Object.isFrozen(task) && Object.isFrozen(task.options) && Object.isFrozen(queue)).toBe(true)
  })

  it('leads to the definition of its queue', () => {
    expect(definitionOfTask(queue.task({ to: 'a' }))).toBe(definitionOf(queue))
  })

  it.each<[string, unknown]>([
    ['an object of its form', { queue: 'emails', args: {}, options: {} }],
    ['a copy of a task', { ...queue.task({ to: 'a' }) }],
    ['a payload', { to: 'a' }],
    ['a queue', queue],
    ['null', null],
    ['text', 'emails'],
  ])('is not %s', (_, value) => {
    expect(refusal(() => definitionOfTask(value as Task))).toMatchObject({
      argument: 'task',
      message: expect.stringContaining('pass what queue.task(args) returned') as string,
    })
  })
})

describe('a queue', () => {
  it.each<[string, unknown]>([
    ['a copy of a queue', { ...defineQueue('emails') }],
    ['null', null],
    ['text', 'emails'],
  ])('is not %s', (_, value) => {
    expect(refusal(() => definitionOf(value as Queue<unknown>)).argument).toBe('queue')
  })

  it('has no options but those that there are', () => {
    const options = { maxAttempt: 3 } as QueueOptions<unknown, unknown, unknown>
    expect(refusal(() => defineQueue('emails', options))).toMatchObject({
      argument: 'options',
      message: expect.stringContaining('there is no option "maxAttempt" here, but args, result, codec') as string,
    })
    expect(refusal(() => defineQueue('emails', 'retry' as never)).argument).toBe('options')
  })
})
