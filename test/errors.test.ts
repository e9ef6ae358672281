import { inspect } from 'node:util'
import { runInNewContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import {
  AbortTaskError,
  AlreadyRegisteredError,
  type AnyApalisError,
  ApalisError,
  BatchFailedError,
  DatabaseError,
  DecodeError,
  DeferTaskError,
  IdempotencyConflictError,
  InvalidArgumentError,
  isApalisError,
  MigrationError,
  MissingFieldError,
  NotifyListenerError,
  OutcomeUnknownError,
  PoolError,
  RetryAfterError,
  RowError,
  SchemaError,
  StaleAcknowledgementError,
  steeringOf,
  TaskAbortedError,
  type TaskId,
  TaskNotFoundError,
  WorkerNotRegisteredError,
} from '../src/vocabulary/errors.js'
import { defineQueue } from '../src/vocabulary/queue.js'

const emails = defineQueue<string>('emails')
const ID = '01JD8ZW5T3Q4M6A7B8C9D0EFGH' as TaskId
const cause = new Error('connection reset')
const issues = [{ path: ['to'], message: 'secret' }]

/** One of each, with its code and what its message has to say. */
const ERRORS: [AnyApalisError, AnyApalisError['code'], string[]][] = [
  [new DatabaseError('pushing a task', '40P01', cause), 'DATABASE', ['pushing a task', '40P01', 'connection reset']],
  [new PoolError('pushing a task', 5000), 'POOL', ['5000 ms', 'nothing was stored', 'pushWithTx']],
  [
    new OutcomeUnknownError('pushing', [ID], cause),
    'OUTCOME_UNKNOWN',
    [ID, 'may or may not be stored', 'Look the id up'],
  ],
  [
    new BatchFailedError([emails.task('secret'), emails.task('secret')], [ID, ID], 7, new PoolError('pushing', 5000)),
    'BATCH_FAILED',
    ['after 7 that were stored', 'with 2 tasks', 'raise the size of the pool', 'The field tasks has them'],
  ],
  [new SchemaError('Not an apalis schema.', ['a', 'b']), 'SCHEMA', ['Not an apalis schema.\n- a\n- b']],
  [new MigrationError('0001', '42501', cause), 'MIGRATION', ['0001', '42501', 'connection reset', 'continues']],
  [new InvalidArgumentError('args', 'no.', issues), 'INVALID_ARGUMENT', ['Invalid args: no.']],
  [new IdempotencyConflictError('q', ['k'], 1, 3), 'IDEMPOTENCY_CONFLICT', ['"q"', '1 of 3 tasks', '"k"', 'doNothing']],
  [
    new DecodeError(ID, 'q', 'it is not JSON', issues),
    'DECODE',
    [ID, '"q"', 'it is not JSON', 'same codec and schema'],
  ],
  [new RowError('id', 'is not a ULID'), 'ROW', ['column id is not a ULID', 'Find out which program wrote it']],
  [new MissingFieldError('worker'), 'MISSING_FIELD', ['lacks worker', 'poll, then lock, then ack', 'autoAck: false']],
  [new TaskNotFoundError('lockTask', ID, 'q'), 'TASK_NOT_FOUND', ['lockTask', ID, '"q"', 'look it up with fetchById']],
  [
    new StaleAcknowledgementError(ID, 'q', 'w'),
    'STALE_ACKNOWLEDGEMENT',
    [ID, '"q"', '"w"', 'status, owner, attempt or lock time changed', 'reenqueueOrphanedAfterMs'],
  ],
  [new AlreadyRegisteredError('q', 'w'), 'ALREADY_REGISTERED', ['"w"', '"q"', 'Give each process its own name']],
  [
    new WorkerNotRegisteredError('heartbeat', 'q', 'w'),
    'WORKER_NOT_REGISTERED',
    ['heartbeat', '"w"', '"q"', 'Claims stop until it has registered again'],
  ],
  [new NotifyListenerError('lost', { cause }), 'NOTIFY_LISTENER', ['lost', 'still found by polling']],
  [new TaskAbortedError('timeout', ID), 'TASK_ABORTED', [ID, 'timeoutMs', 'the attempt counts as failed']],
]

const message = (code: AnyApalisError['code']) => ERRORS.find(([error]) => error.code === code)?.[0].message

describe.each(ERRORS)('%o', (error, code, parts) => {
  it('has its code, its name and the next step', () => {
    expect(error.code).toBe(code)
    expect(error.name).toBe(error.constructor.name)
    expect(String(error)).toBe(`${error.name}: ${error.message}`)
    for (const part of parts) expect(error.message).toContain(part)
  })

  it('is recognised', () => {
    expect(error).toBeInstanceOf(ApalisError)
    expect(isApalisError(error)).toBe(true)
    expect(isApalisError(error, code)).toBe(true)
    expect(isApalisError(error, code === 'ROW' ? 'POOL' : 'ROW')).toBe(false)
  })

  it('prints code and fields, and no issues, which may quote a payload', () => {
    expect(inspect(error)).toContain(`code: '${code}'`)
    expect(inspect(error)).not.toContain('secret')
    expect(JSON.stringify(error)).not.toContain('secret')
  })
})

describe('messages', () => {
  it('of a database error show the operation and the cause, and the cause is there [ERR-01]', () => {
    expect(message('DATABASE')).toBe('Database error while pushing a task (40P01): connection reset.')
    expect(ERRORS[0]?.[0].cause).toBe(cause)
    expect(new DatabaseError('claiming', undefined, cause, 'Do this.').message).toBe(
      'Database error while claiming: connection reset. Do this.',
    )
  })

  it('of pool, migration, row and decode errors show what they were about, and the cause where there is one [ERR-02]', () => {
    expect(new MigrationError('0001', undefined, cause, 'Grant CREATE.').message).toBe(
      'Migration 0001 of the apalis schema failed: connection reset. Grant CREATE.',
    )
    expect(new MigrationError('0001', undefined, cause).cause).toBe(cause)
    expect(new OutcomeUnknownError('pushing', [ID], cause).cause).toBe(cause)
    expect(new NotifyListenerError('lost', { cause }).cause).toBe(cause)
    expect(message('ROW')).toContain('column id is not a ULID')
    expect(message('DECODE')).toContain('it is not JSON')
    expect(message('POOL')).toContain('pushing a task')
  })

  it('of a missing field name it and the way of a task; there is no cause [ERR-03]', () => {
    expect(message('MISSING_FIELD')).toContain('a task has to pass poll, then lock, then ack')
    expect(new MissingFieldError('worker')).toMatchObject({ field: 'worker' })
    expect(new MissingFieldError('worker').cause).toBeUndefined()
  })

  it('of a name taken by another process name worker and queue; there is no cause [ERR-04]', () => {
    expect(new AlreadyRegisteredError('q', 'w')).toMatchObject({ queue: 'q', worker: 'w' })
    expect(new AlreadyRegisteredError('q', 'w').cause).toBeUndefined()
  })

  it('of a task not found show operation, id, queue or its place, and the next step [ERR-05]', () => {
    expect(message('TASK_NOT_FOUND')).toContain('queue "q"')
    expect(new TaskNotFoundError('lockTask', 'x', undefined).message).toContain('queue (any)')
    expect(new TaskNotFoundError('lockTask', 'x', undefined)).toMatchObject({ taskId: 'x', queue: undefined })
  })

  it('of a stale acknowledgement show task, queue, worker and what changed [ERR-06]', () => {
    expect(new StaleAcknowledgementError(ID, 'q', 'w')).toMatchObject({ taskId: ID, queue: 'q', worker: 'w' })
    expect(message('STALE_ACKNOWLEDGEMENT')).toContain('its status, owner, attempt or lock time changed')
  })

  it('of a worker that is not registered show operation, worker, queue and a hint [ERR-07]', () => {
    expect(message('WORKER_NOT_REGISTERED')).toContain('its row was deleted, released or taken over')
  })

  it('of the listener say that polling goes on [ERR-08]', () => {
    expect(message('NOTIFY_LISTENER')).toBe(
      'Notifications are off: lost. Tasks are still found by polling; the listener reconnects by itself.',
    )
  })

  it('of a conflict list ten keys at most, as JSON', () => {
    const keys = Array.from({ length: 12 }, (_, index) => `k"${index}`)
    const error = new IdempotencyConflictError('q', keys, 12, 12)
    expect(error.message).toContain('"k\\"9" and 2 more')
    expect(error.message).not.toContain('k\\"10')
    expect(error).toMatchObject({ conflictingKeys: keys, total: 12 })
    expect(new IdempotencyConflictError('q', ['k'], 1, 1).message).toContain('1 of 1 task refused')
  })

  it('of an unknown outcome count the tasks', () => {
    const error = new OutcomeUnknownError('pushing', [ID, ID, ID])
    expect(error.message).toContain(`task ${ID} and 2 more may or may not be stored`)
    expect(error).toMatchObject({ taskId: ID, taskIds: [ID, ID, ID] })
  })
})

describe('isApalisError', () => {
  it('knows the errors of another copy of the library', () => {
    const copied = Object.assign(new Error('x'), { code: 'ROW', [Symbol.for('apalis-drizzle.error')]: true })
    expect(isApalisError(copied, 'ROW')).toBe(true)
  })

  it.each([
    ['undefined', undefined],
    ['null', null],
    ['an Error', new Error('x')],
    ['an error with such a code', Object.assign(new Error('x'), { code: 'ROW' })],
    ['text', 'ROW'],
    ['an error of another realm', runInNewContext('new Error()')],
  ])('does not know %s', (_, error) => {
    expect(isApalisError(error)).toBe(false)
    expect(isApalisError(error, 'ROW')).toBe(false)
  })

  it('keeps the issues for the caller', () => {
    expect(new InvalidArgumentError('args', 'no.', issues).issues).toBe(issues)
    expect(new DecodeError(ID, 'q', 'no', issues).issues).toBe(issues)
  })
})

describe('steering errors', () => {
  it('say what they ask for', () => {
    const at = new Date(0)
    expect(steeringOf(new AbortTaskError('no such user'))).toEqual({ steering: 'abort' })
    expect(steeringOf(new RetryAfterError(500))).toEqual({ steering: 'retry', delayMsOrAt: 500 })
    expect(steeringOf(new DeferTaskError(at))).toEqual({ steering: 'defer', delayMsOrAt: at })
    expect(steeringOf(new Error('x'))).toBeUndefined()
    expect(steeringOf('x')).toBeUndefined()
  })

  it('have messages for people', () => {
    expect(String(new AbortTaskError('no such user', { cause }))).toBe('AbortTaskError: no such user')
    expect(new AbortTaskError('no such user', { cause }).cause).toBe(cause)
    expect(new RetryAfterError(500).message).toBe('retry after 500 ms')
    expect(new DeferTaskError(new Date(0)).message).toBe('deferred at 1970-01-01T00:00:00.000Z')
  })

  it.each([-1, NaN, Infinity, new Date(NaN), new Date(-1)])('refuse %s', (delayMsOrAt) => {
    expect(() => new RetryAfterError(delayMsOrAt)).toThrow(InvalidArgumentError)
    expect(() => new DeferTaskError(delayMsOrAt)).toThrow(InvalidArgumentError)
  })
})
