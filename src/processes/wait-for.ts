/**
 * Waiting until tasks have ended. The database is asked at once, after 100 ms, and then at intervals that double up to two
 * seconds and begin anew whenever a task has ended. A task that a worker of this process ends is looked up at once.
 *
 * Between two calls of `next` nothing is kept open, neither a timer nor a listener, so an iteration may be abandoned.
 */
import { ENDED_LIMIT, findEnded, type AbsentRow } from '../statements/find-ended.js'
import { databaseError } from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import type { QueueDefinition } from '../vocabulary/definition.js'
import { TaskNotFoundError, type TaskId } from '../vocabulary/errors.js'
import { checkWaitOptions, type WaitOptions } from '../vocabulary/settings.js'
import { parseTaskId, parseTaskIds } from '../vocabulary/task-id.js'
import { taskResult, type EndedRow, type TaskResult } from '../vocabulary/task-result.js'
import { unlessAborted } from './abort.js'
import { within } from './deadlines.js'
import { onEndedHere } from './ended-here.js'
import { Wakeup } from './wakeup.js'

const FIRST_PAUSE_MS = 100
const MAX_PAUSE_MS = 2_000
/** In a row. */
const MAX_FAILURES = 3
/** Drivers may wait without limit, for a free connection or for the answer of a dead one. */
const ANSWER_MS = 30_000

/** In the message of a timeout. */
const SHOWN_IDS = 3

const OPERATION = 'waiting for tasks'
const NOT_STORED =
  'It was deleted, or the transaction that pushes it has not committed: wait after the commit. Or the id is mistyped, or of another database.'
const DONE = { done: true, value: undefined } as const

type Ended<Result> = IteratorResult<TaskResult<Result>, undefined>
type Found<Result> = { readonly result: TaskResult<Result> } | { readonly error: Error }
type Answer = readonly (EndedRow | AbsentRow)[]

/** Each loop over it waits anew for all of the tasks. */
export function waitFor<Result>(
  db: Db,
  definition: QueueDefinition<unknown, Result>,
  ids: Iterable<string>,
  options: WaitOptions = {},
): AsyncIterable<TaskResult<Result>> {
  const wanted = parseTaskIds(ids)
  checkWaitOptions(options)
  return { [Symbol.asyncIterator]: () => new Wait('waitFor', db, definition, wanted, options) }
}

export async function waitForSingle<Result>(
  db: Db,
  definition: QueueDefinition<unknown, Result>,
  id: string,
  options: WaitOptions = {},
): Promise<TaskResult<Result>> {
  const wanted = new Set([parseTaskId(id)])
  checkWaitOptions(options)
  const ended = await new Wait('waitForSingle', db, definition, wanted, options).next()
  return ended.value!
}

/** Those of the tasks that have ended, in the order of their ids. */
export async function checkStatus<Result>(
  db: Db,
  definition: QueueDefinition<unknown, Result>,
  ids: Iterable<string>,
): Promise<TaskResult<Result>[]> {
  const wanted = parseTaskIds(ids)
  const rows = new Map<TaskId, EndedRow>()
  try {
    for await (const answer of answers(wanted, (asked) => findEnded(db, asked))) {
      for (const row of answer) if (row.queue !== null) rows.set(row.id, row)
    }
  } catch (error) {
    throw databaseError('checking the status of tasks', error)
  }
  const ended = [...wanted].flatMap((id) => rows.get(id) ?? [])
  return Promise.all(ended.map((row) => taskResult(definition, row)))
}

/** All that is to be said of the tasks now, in answers of bounded size. */
async function* answers(
  ids: Iterable<TaskId>,
  ask: (ids: ReadonlySet<TaskId>) => Promise<Answer>,
): AsyncGenerator<Answer, void> {
  const asked = new Set(ids)
  while (asked.size > 0) {
    const answer = await ask(asked)
    yield answer
    if (answer.length < ENDED_LIMIT) return
    for (const { id } of answer) asked.delete(id)
  }
}

class Wait<Result> implements AsyncIterator<TaskResult<Result>, undefined> {
  readonly #pending: Set<TaskId>
  readonly #series: AsyncGenerator<Found<Result>, undefined> = this.#outcomes()
  /** What a worker of this process has ended. */
  readonly #told = new Set<TaskId>()
  readonly #wakeup = new Wakeup()
  readonly #abort = new AbortController()
  /** Those that the last poll did not find. */
  #absent: ReadonlySet<TaskId> = new Set()
  #failures = 0
  #endsAt: number | undefined
  #turn: Promise<unknown> = Promise.resolve()
  #returned = false

  constructor(
    private readonly call: 'waitFor' | 'waitForSingle',
    private readonly db: Db,
    private readonly definition: QueueDefinition<unknown, Result>,
    ids: ReadonlySet<TaskId>,
    private readonly options: WaitOptions,
  ) {
    this.#pending = new Set(ids)
  }

  /** One at a time, in the order of the calls. An error of one task is thrown once, and the next call goes on with the others. */
  next(): Promise<Ended<Result>> {
    const turn = this.#turn.then(() => this.#next())
    this.#turn = turn.catch(() => undefined)
    return turn
  }

  async return(): Promise<Ended<Result>> {
    this.#returned = true
    this.#abort.abort()
    this.#wakeup.wake()
    await this.#turn
    await this.#series.return(undefined)
    return DONE
  }

  async #next(): Promise<Ended<Result>> {
    const release = this.#hold()
    try {
      const { done, value: found } = await this.#series.next()
      if (done) return DONE
      if ('error' in found) throw found.error
      return { done: false, value: found.result }
    } catch (error) {
      if (this.#returned) return DONE
      throw error
    } finally {
      release()
    }
  }

  /** Listens to all that may end a pause. */
  #hold(): () => void {
    const { signal, timeoutMs } = this.options
    const abort = (reason: unknown) => {
      this.#abort.abort(reason)
      this.#wakeup.wake()
    }
    const onAbort = () => abort(signal?.reason)
    if (signal?.aborted) onAbort()
    else signal?.addEventListener('abort', onAbort)
    const stopListening = onEndedHere(this.db, (id) => {
      if (!this.#pending.has(id)) return
      this.#told.add(id)
      this.#wakeup.wake()
    })
    let timer: ReturnType<typeof setTimeout> | undefined
    if (timeoutMs !== undefined) {
      this.#endsAt ??= performance.now() + timeoutMs
      timer = setTimeout(() => abort(timeoutError(this.#pending, timeoutMs)), this.#endsAt - performance.now())
    }
    return () => {
      signal?.removeEventListener('abort', onAbort)
      stopListening()
      clearTimeout(timer)
    }
  }

  async *#outcomes(): AsyncGenerator<Found<Result>, undefined> {
    let pauseMs = FIRST_PAUSE_MS
    let nextPollAt = 0
    while (this.#pending.size > 0) {
      const before = this.#pending.size
      const polls = performance.now() >= nextPollAt
      yield* polls ? this.#poll() : this.#lookUpTold()
      const progress = this.#pending.size < before
      if (progress) pauseMs = FIRST_PAUSE_MS
      const now = performance.now()
      // What ends in this process again and again does not put off the tasks that end elsewhere.
      if (polls) nextPollAt = now + pauseMs
      else if (progress) nextPollAt = Math.min(nextPollAt, now + pauseMs)
      if (polls) pauseMs = Math.min(2 * pauseMs, MAX_PAUSE_MS)
      if (this.#pending.size === 0) return
      await this.#wakeup.wait(nextPollAt - now)
      this.#abort.signal.throwIfAborted()
    }
  }

  async *#poll(): AsyncGenerator<Found<Result>, void> {
    const failures = this.#failures
    const absent = yield* this.#lookUp(this.#pending)
    if (this.#failures > failures) return
    const absentTwice = [...absent].filter((id) => this.#absent.has(id))
    this.#absent = absent
    for (const id of absentTwice) {
      this.#pending.delete(id)
      yield { error: new TaskNotFoundError(this.call, id, undefined, NOT_STORED) }
    }
  }

  async *#lookUpTold(): AsyncGenerator<Found<Result>, void> {
    const told = [...this.#told].filter((id) => this.#pending.has(id))
    this.#told.clear()
    yield* this.#lookUp(told)
  }

  /** @returns those that are not stored. */
  async *#lookUp(ids: Iterable<TaskId>): AsyncGenerator<Found<Result>, ReadonlySet<TaskId>> {
    const absent = new Set<TaskId>()
    for await (const answer of answers(ids, (asked) => this.#ask(asked))) {
      for (const row of answer) {
        if (row.queue === null) {
          absent.add(row.id)
          continue
        }
        this.#pending.delete(row.id)
        yield await found(this.definition, row)
      }
    }
    return absent
  }

  /** Says nothing where the database fails, unless that has become too much. */
  async #ask(ids: ReadonlySet<TaskId>): Promise<Answer> {
    const { signal } = this.#abort
    signal.throwIfAborted()
    const late = () => {
      throw new Error(`no answer within ${ANSWER_MS} ms`)
    }
    try {
      const answer = await unlessAborted(signal, within<Answer>(ANSWER_MS, findEnded(this.db, ids), late))
      this.#failures = 0
      return answer
    } catch (error) {
      signal.throwIfAborted()
      this.#failures += 1
      if (this.#failures === MAX_FAILURES) throw databaseError(OPERATION, error)
      return []
    }
  }
}

async function found<Result>(definition: QueueDefinition<unknown, Result>, row: EndedRow): Promise<Found<Result>> {
  try {
    return { result: await taskResult(definition, row) }
  } catch (error) {
    return { error: error as Error }
  }
}

/** As `AbortSignal.timeout` has it. */
function timeoutError(pending: ReadonlySet<TaskId>, timeoutMs: number): DOMException {
  const tasks = pending.size === 1 ? '1 task has' : `${pending.size} tasks have`
  const more = pending.size > SHOWN_IDS ? ` and ${pending.size - SHOWN_IDS} more` : ''
  const ids = [...pending].slice(0, SHOWN_IDS).join(', ')
  return new DOMException(`${tasks} not ended within ${timeoutMs} ms: ${ids}${more}.`, 'TimeoutError')
}
