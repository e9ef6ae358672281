import { refusal, writeValue } from './codec.js'
import { Defined, definitionOfTask, type Notify, type QueueDefinition } from './definition.js'
import { InvalidArgumentError } from './errors.js'
import {
  byteLength,
  checkDelay,
  checkIdempotencyKey,
  checkInstant,
  checkInt4,
  checkOptionNames,
  MAX_METADATA_BYTES,
  MAX_PAYLOAD_BYTES,
  typeOf,
} from './limits.js'
import { tooLarge } from './json-value.js'
import { isThenable, validate, type Validation } from './standard-schema.js'
import { newTaskId, parseTaskId, type TaskId } from './task-id.js'

/** What can be said of one task beside its payload. */
export interface TaskOptions {
  /** A ULID, to push at most once under this id. Default: a new one per push. */
  id?: string | undefined
  /** At most one task per queue and key, in any state, until it is deleted. Up to 1,024 bytes; the empty string is a key. */
  idempotencyKey?: string | undefined
  /** Higher runs first, from 0 to 2^31-1. Default: the queue's. */
  priority?: number | undefined
  /** How often the task runs before it is given up, from 1. Default: the queue's. */
  maxAttempts?: number | undefined
  /** Not before this instant. Default: now, by the clock of the database. Not together with `delayMs`. */
  runAt?: Date | undefined
  /** Not before this many milliseconds from now, by the clock of the database. Default: 0. */
  delayMs?: number | undefined
  /** A JSON object for tracing and the like, up to 8,192 bytes. A type made with `type`, not `interface`, fits. */
  metadata?: Metadata | undefined
}

/** JSON values by name. */
export type Metadata = { readonly [key: string]: unknown }

/** One unit of work, described and not yet stored. Made by `queue.task`. */
export interface Task<out Input = unknown, out Result = unknown> {
  readonly queue: string
  readonly args: Input
  readonly options: Readonly<TaskOptions>
  readonly [brand]: Result
}
declare const brand: unique symbol

/** A task as it goes into the database: everything is checked. */
export interface EncodedTask {
  readonly id: TaskId
  /** Whether the caller chose the id, so that it may be stored already. */
  readonly idGiven: boolean
  readonly queue: string
  readonly job: Uint8Array
  readonly maxAttempts: number
  readonly priority: number
  /** Milliseconds of the epoch; `undefined` means now by the clock of the database, plus `delayMs`. */
  readonly runAtMs: number | undefined
  readonly delayMs: number
  /** Compact JSON of an object. */
  readonly metadata: string
  readonly idempotencyKey: string | null
  /** Whether its insert may be announced; not stored. */
  readonly notify: Notify
}

class DefinedTask<Input, Result> extends Defined implements Task<Input, Result> {
  readonly queue: string
  readonly args: Input
  readonly options: Readonly<TaskOptions>
  declare readonly [brand]: Result

  constructor(definition: QueueDefinition, args: Input, options: TaskOptions | undefined) {
    super(definition)
    this.queue = definition.name
    this.args = args
    this.options = options === undefined ? NO_OPTIONS : Object.freeze({ ...options })
    Object.freeze(this)
  }
}

const OPTION_NAMES = {
  id: true,
  idempotencyKey: true,
  priority: true,
  maxAttempts: true,
  runAt: true,
  delayMs: true,
  metadata: true,
} as const satisfies Record<keyof TaskOptions, true>

const NO_OPTIONS: Readonly<TaskOptions> = Object.freeze({})

export function createTask<Input, Result>(
  definition: QueueDefinition,
  args: Input,
  options: TaskOptions | undefined,
): Task<Input, Result> {
  return new DefinedTask(definition, args, options)
}

/**
 * Checks all of a task and encodes it; a new id is made each time. A promise only if the queue's schema is asynchronous.
 *
 * @throws {InvalidArgumentError}
 */
export function encodeTask(task: Task): EncodedTask | Promise<EncodedTask> {
  const definition = definitionOfTask(task)
  const { argsSchema } = definition
  if (argsSchema === undefined) return encode(definition, task)
  const validation = validate(argsSchema, task.args, 'args')
  if (!isThenable(validation)) {
    checkFit(validation)
    return encode(definition, task)
  }
  // Now, so that what the caller does to the payload in the meantime is not stored.
  const encoded = encode(definition, task)
  return validation.then((settled) => {
    checkFit(settled)
    return encoded
  })
}

function checkFit(validation: Validation<unknown>): void {
  if (!validation.ok) {
    throw new InvalidArgumentError(
      'args',
      `they do not fit the queue's schema ${validation.reason}.`,
      validation.issues,
    )
  }
}

function encode(definition: QueueDefinition, { args, options }: Task): EncodedTask {
  checkOptionNames(options, OPTION_NAMES)
  const { id, idempotencyKey, priority, maxAttempts, runAt, delayMs, metadata } = options
  if (runAt !== undefined && delayMs !== undefined) {
    throw new InvalidArgumentError('delayMs', 'give either runAt or delayMs, not both.')
  }
  return {
    id: id === undefined ? newTaskId() : parseTaskId(id, 'id', ' Leave id out, and one is made.'),
    idGiven: id !== undefined,
    queue: definition.name,
    job: encodeArgs(definition, args),
    maxAttempts: maxAttempts === undefined ? definition.maxAttempts : checkInt4('maxAttempts', maxAttempts, 1),
    priority: priority === undefined ? definition.priority : checkInt4('priority', priority, 0),
    runAtMs: runAt === undefined ? undefined : checkInstant('runAt', runAt),
    delayMs: delayMs === undefined ? 0 : checkDelay('delayMs', delayMs),
    metadata: metadata === undefined ? '{}' : encodeMetadata(metadata),
    idempotencyKey: idempotencyKey === undefined ? null : checkIdempotencyKey(idempotencyKey),
    notify: definition.notify,
  }
}

function encodeArgs({ codec }: QueueDefinition, args: unknown): Uint8Array {
  let bytes: unknown
  try {
    bytes = codec.encode(args)
  } catch (error) {
    throw refusal('args', error)
  }
  if (!(bytes instanceof Uint8Array)) {
    throw new InvalidArgumentError('codec', `encode has to return a Uint8Array, not ${typeOf(bytes)}.`)
  }
  if (bytes.length > MAX_PAYLOAD_BYTES) throw new InvalidArgumentError('args', `the payload ${tooLarge(bytes.length)}.`)
  // A copy, because a codec may write all its payloads into one buffer.
  return new Uint8Array(bytes)
}

function encodeMetadata(metadata: Metadata): string {
  if (typeof metadata !== 'object' || metadata === null || Array.isArray(metadata)) {
    throw new InvalidArgumentError('metadata', `a plain object is needed, not ${typeOf(metadata)}.`)
  }
  let json: string
  try {
    json = writeValue(metadata, { root: 'metadata', rich: false, text: 'jsonb' })
  } catch (error) {
    throw refusal('metadata', error)
  }
  const bytes = byteLength(json)
  if (bytes > MAX_METADATA_BYTES) {
    throw new InvalidArgumentError(
      'metadata',
      `it has ${bytes} bytes of JSON, and the limit is ${MAX_METADATA_BYTES}; put the data into the payload.`,
    )
  }
  return json
}
