/** The `last_result` column: `{"Ok": value}` or `{"Err": "text"}`, jsonb, in the form that Rust waiters read. */
import { jsonCodec, parseJson, refusal, unreadableReason, writeValue } from './codec.js'
import type { QueueDefinition } from './definition.js'
import { DecodeError, InvalidArgumentError, type TaskId } from './errors.js'
import { RefusedValue, tooLarge } from './json-value.js'
import { byteLength, MAX_ERROR_BYTES, MAX_RESULT_BYTES, typeOf } from './limits.js'
import { isThenable, type StandardSchema, validate, type Validation } from './standard-schema.js'
import { readAnnotated, UnreadableValue } from './superjson-envelope.js'

/**
 * `{"Ok": value}` for what a handler returned. Always JSON, whatever the codec: by the rule of `superjsonCodec`, or of
 * `jsonCodec` if that is the queue's. A promise only if the result schema is asynchronous.
 *
 * @throws {InvalidArgumentError} for the argument `result`, if it cannot be stored or does not fit the schema.
 */
export function okResult<Result>(
  definition: QueueDefinition<unknown, Result>,
  result: Result,
): string | Promise<string> {
  const { resultSchema } = definition
  if (resultSchema === undefined) return writeOk(definition, result)
  const validation = validate(resultSchema, result, 'result')
  return isThenable(validation) ? validation.then(checked) : checked(validation)

  function checked(settled: Validation<Result>): string {
    if (settled.ok) return writeOk(definition, result)
    throw new InvalidArgumentError('result', `it does not fit the queue's schema ${settled.reason}.`, settled.issues)
  }
}

function writeOk(definition: QueueDefinition, result: unknown): string {
  // An envelope for undefined would make every handler without a result unreadable for Rust.
  if (result === undefined) return '{"Ok":null}'
  try {
    const json = writeValue(result, { root: 'result', rich: definition.codec !== jsonCodec, text: 'jsonb' })
    const bytes = byteLength(json)
    if (bytes > MAX_RESULT_BYTES) throw new RefusedValue('result', [], tooLarge(bytes))
    return `{"Ok":${json}}`
  } catch (error) {
    throw refusal('result', error)
  }
}

/** `{"Err": "text"}` for what a handler threw. */
export function errResult(error: unknown): string {
  return JSON.stringify({ Err: storedText(errorText(error)) })
}

/**
 * `{"Err": "text"}` for a handler that succeeded although its result cannot be stored. Its work is done, so the task must
 * not run again, and a waiter has to learn the truth.
 *
 * @param error - What `okResult` threw.
 */
export function unstorableResult(error: unknown): string {
  return errResult(`The handler finished and is not run again, but its result could not be stored. ${errorText(error)}`)
}

/** What a finished task left behind. */
export type StoredResult<Result> =
  { readonly ok: true; readonly result: Result } | { readonly ok: false; readonly error: string }

/**
 * Reads a stored result, parsed by the queue's result schema. A promise only if the schema is asynchronous.
 *
 * @param json - The text of the column (`last_result::text`): parsed by a driver, large integers would be rounded already.
 * @throws {DecodeError} if it is no result, or does not fit the schema; a promise rejects with it.
 */
export function readResult<Result>(
  definition: QueueDefinition<unknown, Result>,
  id: TaskId,
  json: string,
): StoredResult<Result> | Promise<StoredResult<Result>> {
  const { name, codec, resultSchema } = definition
  let stored: StoredResult<unknown>
  try {
    stored = readStored(json, codec === jsonCodec ? 'json' : 'superjson')
  } catch (error) {
    throw new DecodeError(id, name, `of its result, ${unreadableReason(error)}`)
  }
  if (!stored.ok) return stored
  if (resultSchema === undefined) return stored as StoredResult<Result>
  const validation = validateStored(resultSchema, stored.result)
  return isThenable(validation) ? validation.then(parsed) : parsed(validation)

  function parsed(settled: Validation<Result>): StoredResult<Result> {
    if (settled.ok) return { ok: true, result: settled.value }
    throw new DecodeError(id, name, `its result does not fit the queue's schema ${settled.reason}`, settled.issues)
  }
}

/** `null` was written for undefined too, which a schema of nothing or of something optional insists on. */
function validateStored<Result>(
  schema: StandardSchema<unknown, Result>,
  result: unknown,
): Validation<Result> | Promise<Validation<Result>> {
  const validation = validate(schema, result, 'result')
  if (result !== null) return validation
  const orUndefined = (settled: Validation<Result>) => (settled.ok ? settled : validate(schema, undefined, 'result'))
  return isThenable(validation) ? validation.then(orUndefined) : orUndefined(validation)
}

/** @throws {UnreadableValue} unless it is an object of exactly one member, `Ok` or, with a string, `Err`. */
function readStored(json: string, form: 'superjson' | 'json'): StoredResult<unknown> {
  const stored = parseJson(json)
  const [[name, value] = [], ...others] = Object.entries(typeof stored === 'object' && stored !== null ? stored : {})
  if (others.length === 0 && name === 'Ok') return { ok: true, result: form === 'json' ? value : readAnnotated(value) }
  if (others.length === 0 && name === 'Err' && typeof value === 'string') return { ok: false, error: value }
  throw new UnreadableValue('it is neither {"Ok": value} nor {"Err": "text"}')
}

/** Text as the column can hold it, cut to 8,192 bytes between two characters. */
function storedText(text: string): string {
  // Cut before it is searched: a message may hold megabytes. Each UTF-16 unit is at least one byte.
  const head = text
    .slice(0, MAX_ERROR_BYTES + 1)
    .replaceAll('\0', '\uFFFD')
    .toWellFormed()
  const { read } = new TextEncoder().encodeInto(head, new Uint8Array(MAX_ERROR_BYTES))
  return read === head.length ? head : `${head.slice(0, read)}…[truncated]`
}

/** The message, after the name where that says more than `Error`. */
function errorText(error: unknown): string {
  try {
    if (typeof error === 'string') return error
    if (!(error instanceof Error)) return `The handler threw ${typeOf(error)} instead of an Error.`
    // Subclasses may put anything into these two.
    const message: unknown = withoutParameters(error) ?? error.message
    return error.name === 'Error' ? String(message) : `${error.name}: ${String(message)}`
  } catch {
    return 'The handler threw an error whose message cannot be read.'
  }
}

/** Drizzle's message lists the parameters of the failed query, which belong to nobody who reads the column. */
function withoutParameters(error: Error): string | undefined {
  const { query, params, cause } = error as {
    readonly query?: unknown
    readonly params?: unknown
    readonly cause?: unknown
  }
  if (typeof query !== 'string' || params === undefined) return undefined
  return `Failed query: ${query}: ${cause instanceof Error ? cause.message : 'unknown cause'}`
}
