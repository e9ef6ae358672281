/**
 * Standard Schema v1 (https://standardschema.dev): the interface that zod, valibot, arktype and others share. Copied as
 * types, so that the library depends on none of them.
 */
import type { Issue } from './errors.js'
import { formatPath } from './path.js'

/** A schema: `Input` is what it accepts, `Output` what it makes of it. */
export interface StandardSchema<Input, Output> {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly types?: { readonly input: Input; readonly output: Output } | undefined
    readonly validate: (value: unknown, options?: never) => StandardResult<Output> | Promise<StandardResult<Output>>
  }
}

export type StandardResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | {
      readonly issues: readonly {
        readonly message: string
        readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined
      }[]
    }

/** A schema that only carries a type and accepts every value. */
export function typed<T>(): StandardSchema<T, T> {
  return { '~standard': { version: 1, vendor: 'apalis-drizzle', validate: (value) => ({ value: value as T }) } }
}

/** What a schema says of a value: its output, or why not. */
export type Validation<Output> =
  | { readonly ok: true; readonly value: Output }
  /** `reason` goes on after "does not fit the schema"; unlike the messages of the issues it never quotes the value. */
  | { readonly ok: false; readonly reason: string; readonly issues: readonly Issue[] }

/** Validates. A promise only where the schema itself is asynchronous; it never rejects, and nothing is thrown. */
export function validate<Output>(
  schema: StandardSchema<unknown, Output>,
  value: unknown,
  root: string,
): Validation<Output> | Promise<Validation<Output>> {
  try {
    const result = schema['~standard'].validate(value)
    return isThenable(result)
      ? Promise.resolve(result).then((settled) => validation(settled, root), threw)
      : validation(result, root)
  } catch (error) {
    return threw(error)
  }
}

export function isThenable<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return (
    (typeof value === 'object' || typeof value === 'function') &&
    value !== null &&
    typeof (value as Partial<PromiseLike<T>>).then === 'function'
  )
}

function validation<Output>(result: StandardResult<Output>, root: string): Validation<Output> {
  if (result.issues === undefined) return { ok: true, value: result.value }
  const issues = result.issues.map(({ message, path = [] }) => ({
    message,
    // A copy as an ordinary array: arktype's paths are not.
    path: Array.from(path, (segment) => (typeof segment === 'object' ? segment.key : segment)),
  }))
  const places = [...new Set(issues.map(({ path }) => formatPath(root, path)))]
  const shown = places.slice(0, 5).join(', ')
  return {
    ok: false,
    issues,
    reason: `at ${places.length > 5 ? `${shown} and ${places.length - 5} more places` : shown}`,
  }
}

function threw(error: unknown): Validation<never> {
  return { ok: false, issues: [], reason: `because the schema itself threw ${errorName(error)}` }
}

/** The name of an error's class. Not its message, which may quote the payload. */
export function errorName(error: unknown): string {
  if (!(error instanceof Error)) return 'something that is no Error'
  const name = (error.constructor as { readonly name?: unknown } | undefined)?.name
  return typeof name === 'string' && /^\w{1,60}$/.test(name) ? name : 'an Error'
}
