import { type Codec, superjsonCodec } from './codec.js'
import { Defined, type Notify, type QueueDefinition } from './definition.js'
import { InvalidArgumentError } from './errors.js'
import { checkInt4, checkOptionNames, checkQueueName, MAX_INT4, shown, typeOf } from './limits.js'
import { type Backoff, checkRetry, retryDelay } from './retry.js'
import type { StandardSchema } from './standard-schema.js'
import { createTask, type Task, type TaskOptions } from './task.js'

export { definitionOf, type QueueDefinition } from './definition.js'

/**
 * A named stream of tasks of one type. It carries no connection and no handler, so producers and consumers can share it.
 *
 * `Args` reaches the handler, `Result` the waiter, `Input` is what is pushed; it differs from `Args` when a schema
 * transforms.
 */
export interface Queue<Args, Result = void, Input = Args> {
  readonly name: string
  /** Describes a task. Nothing is checked or stored before it is pushed, so pushing it twice stores two tasks. */
  readonly task: (args: Input, options?: TaskOptions) => Task<Input, Result>
  /** The same queue with other bytes. Producers and consumers have to agree. */
  readonly withCodec: (codec: Codec | Codec<Input>) => Queue<Args, Result, Input>
  /** Only a type: `typeof queue.$inferInput`. */
  readonly $inferInput: Input
  /** Only a type: `typeof queue.$inferArgs`. */
  readonly $inferArgs: Args
  /** Only a type: `typeof queue.$inferResult`. */
  readonly $inferResult: Result
}

export interface QueueOptions<Args, Result, Input> {
  /**
   * Checks payloads: any Standard Schema. A push validates and stores the input as given; the worker parses what is
   * stored, and the handler gets the output. Transforms and defaults so run once, in the worker.
   */
  args?: StandardSchema<Input, Args> | undefined
  /** Checks results. It must not transform. */
  result?: StandardSchema<NoInfer<Result>, Result> | undefined
  /** Default: `superjsonCodec`. */
  codec?: Codec | Codec<NoInfer<Input>> | undefined
  /** How often a task runs before it is given up. Default: 5. */
  maxAttempts?: number | undefined
  /** Higher runs first, from 0. Default: 0. */
  priority?: number | undefined
  /** How long one attempt may take, in milliseconds; then `ctx.signal` aborts and the attempt counts as failed. Default: no limit. */
  timeoutMs?: number | undefined
  /** The wait after a failed attempt: constants, or a function that gives milliseconds. See {@link Backoff} for the defaults. */
  retry?: Backoff | ((attempt: number, error: unknown) => number) | undefined
  /**
   * Whether pushes inside transactions of the application wake idle workers by NOTIFY: always, never, or at most so often
   * a second per process, after a burst of 20. PostgreSQL lets one notifying transaction commit at a time, so a busy
   * producer should not announce each task; workers find the others by polling, within half of the transaction's age and
   * five seconds at most. Pushes outside of transactions always announce themselves, except with `'never'`.
   * A `pushTasksWithTx` of several queues is announced as a whole, as soon as one of them may be.
   * Default: `{ maxPerSecond: 20 }`.
   */
  notify?: 'always' | 'never' | { maxPerSecond: number } | undefined
}

/**
 * Defines a queue. Types are given explicitly or inferred from schemas; both ways have one signature.
 *
 * @param name - Up to 255 bytes; shared with every other program that uses the queue.
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a name or option that cannot work.
 * @example const emails = defineQueue<SendEmail, Receipt>('emails', { maxAttempts: 8 })
 * @example const emails = defineQueue('emails', { args: z.object({ to: z.email() }), result: typed<Receipt>() })
 */
export function defineQueue<Args = void, Result = void, Input = Args>(
  name: string,
  options: QueueOptions<Args, Result, Input> = {},
): Queue<Args, Result, Input> {
  checkOptionNames(options, OPTION_NAMES)
  const retry = checkRetry(options.retry)
  return new DefinedQueue<Args, Result, Input>({
    name: checkQueueName(name, 'name'),
    codec: checkCodec(options.codec ?? superjsonCodec),
    argsSchema: checkSchema('args', options.args),
    resultSchema: checkSchema('result', options.result),
    maxAttempts: checkInt4('maxAttempts', options.maxAttempts ?? 5, 1),
    priority: checkInt4('priority', options.priority ?? 0, 0),
    timeoutMs: checkTimeout(options.timeoutMs),
    retryDelay: (attempt, error) => retryDelay(retry, attempt, error, Math.random()),
    notify: checkNotify(options.notify ?? { maxPerSecond: 20 }),
  })
}

const OPTION_NAMES = {
  args: true,
  result: true,
  codec: true,
  maxAttempts: true,
  priority: true,
  timeoutMs: true,
  retry: true,
  notify: true,
} as const satisfies Record<keyof QueueOptions<unknown, unknown, unknown>, true>

class DefinedQueue<Args, Result, Input> extends Defined implements Queue<Args, Result, Input> {
  readonly name: string
  readonly task: (args: Input, options?: TaskOptions) => Task<Input, Result>
  readonly withCodec: (codec: Codec | Codec<Input>) => Queue<Args, Result, Input>
  declare readonly $inferInput: Input
  declare readonly $inferArgs: Args
  declare readonly $inferResult: Result

  constructor(definition: QueueDefinition) {
    super(Object.freeze(definition))
    this.name = definition.name
    this.task = (args, options) => createTask(definition, args, options)
    this.withCodec = (codec) => new DefinedQueue({ ...definition, codec: checkCodec(codec) })
    Object.freeze(this)
  }
}

/** The payload's type is the queue's matter; from here on a codec takes what the queue hands to it. */
function checkCodec<Input>(codec: Codec | Codec<Input>): Codec {
  const { encode, decode } = (codec ?? {}) as Partial<Codec>
  if (typeof encode === 'function' && typeof decode === 'function') return codec as Codec
  throw new InvalidArgumentError(
    'codec',
    `an object with the functions encode and decode is needed, not ${typeOf(codec)}.`,
  )
}

function checkSchema<Input, Output>(
  argument: string,
  schema: StandardSchema<Input, Output> | undefined,
): StandardSchema<unknown, Output> | undefined {
  if (schema === undefined || typeof schema?.['~standard']?.validate === 'function') return schema
  throw new InvalidArgumentError(
    argument,
    'a Standard Schema is needed, as from zod 3.24, valibot 1, arktype 2 or later; for a type alone use typed<T>().',
  )
}

function checkTimeout(timeoutMs: number | undefined): number | undefined {
  if (timeoutMs === undefined || (typeof timeoutMs === 'number' && timeoutMs > 0 && timeoutMs <= MAX_INT4)) {
    return timeoutMs
  }
  // The longest delay that timers keep.
  throw new InvalidArgumentError(
    'timeoutMs',
    `milliseconds above 0, at most ${MAX_INT4} (24 days), are needed, not ${shown(timeoutMs)}; leave it out for no limit.`,
  )
}

function checkNotify(notify: Notify): Notify {
  if (notify === 'always' || notify === 'never') return notify
  const maxPerSecond: unknown = (notify as { readonly maxPerSecond?: unknown } | null)?.maxPerSecond
  if (typeof maxPerSecond === 'number' && Number.isFinite(maxPerSecond) && maxPerSecond > 0) return { maxPerSecond }
  throw new InvalidArgumentError('notify', "it has to be 'always', 'never' or { maxPerSecond } with a number above 0.")
}
