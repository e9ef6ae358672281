import { monotonicFactory } from 'ulid'
import { InvalidArgumentError, type TaskId } from './errors.js'
import { checkSeries, quoted, typeOf } from './limits.js'

export type { TaskId } from './errors.js'

const ULID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/

export function isTaskId(id: unknown): id is TaskId {
  return typeof id === 'string' && ULID.test(id)
}

/**
 * Checks a task id: a ULID as 26 upper-case Crockford characters, the first at most 7.
 *
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for anything else. Lower case is refused, not converted: ids are
 * compared as text, in the database too.
 */
export function parseTaskId(id: string, argument = 'id', advice = ''): TaskId {
  if (isTaskId(id)) return id
  throw new InvalidArgumentError(argument, problem(id) + advice)
}

/**
 * Checks a series of task ids, and leaves out those that stand in it before.
 *
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT`
 */
export function parseTaskIds(ids: Iterable<string>, argument = 'ids'): ReadonlySet<TaskId> {
  const parsed = Array.from(checkSeries(argument, ids, '[id]'), (id, n) => {
    if (isTaskId(id)) return id
    throw new InvalidArgumentError(argument, `at [${n}]: ${problem(id)}`)
  })
  return new Set(parsed)
}

function problem(id: unknown): string {
  const need = 'a task id is a ULID, 26 characters of 0-9 and A-Z without I, L, O and U, the first at most 7'
  if (typeof id !== 'string') return `${need}, and this is ${typeOf(id)}.`
  if (ULID.test(id.toUpperCase())) return `${need}; convert ${quoted(id)} with toUpperCase().`
  return `${need}; ${quoted(id)} has ${id.length} characters.`
}

// Many at once, because a call for random bytes takes longer than all else about an id, and an id takes sixteen.
const random = new Uint8Array(1024)
let used = random.length

/** One byte is one of the 32 characters with equal chance. */
function randomByte(): number {
  if (used === random.length) {
    globalThis.crypto.getRandomValues(random)
    used = 0
  }
  return random[used++]!
}

// The source is given explicitly, because what `ulid` looks for by itself is missing where a DOM is emulated.
const makeId = monotonicFactory(() => randomByte() / 256)

/** A new id. Within one process later ids sort after earlier ones, which keeps the index on ids dense. */
export function newTaskId(): TaskId {
  return makeId() as TaskId
}
