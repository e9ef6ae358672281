import { describe, expectTypeOf, it } from 'vitest'
import {
  type AnyApalisError,
  type DecodeError,
  type IdempotencyConflictError,
  isApalisError,
  type TaskId,
} from '../../src/vocabulary/errors.js'
import { parseTaskId } from '../../src/vocabulary/task-id.js'

declare const error: unknown

describe('isApalisError', () => {
  it('narrows to the union, and its code to the class', () => {
    if (!isApalisError(error)) return
    expectTypeOf(error).toEqualTypeOf<AnyApalisError>()
    if (error.code === 'IDEMPOTENCY_CONFLICT') {
      expectTypeOf(error).toEqualTypeOf<IdempotencyConflictError>()
      expectTypeOf(error.conflictingKeys).toEqualTypeOf<readonly string[]>()
    } else if (error.code === 'DECODE') {
      expectTypeOf(error).toEqualTypeOf<DecodeError>()
      expectTypeOf(error.taskId).toEqualTypeOf<TaskId>()
    } else if (error.code === 'DATABASE') {
      expectTypeOf(error.sqlState).toEqualTypeOf<string | undefined>()
      expectTypeOf(error).not.toHaveProperty('conflictingKeys')
      // @ts-expect-error there is no such code
    } else if (error.code === 'NONE') {
      expectTypeOf(error).toBeNever()
    }
  })

  it('narrows to one class by its code', () => {
    if (isApalisError(error, 'IDEMPOTENCY_CONFLICT')) expectTypeOf(error).toEqualTypeOf<IdempotencyConflictError>()
    // @ts-expect-error no such code
    isApalisError(error, 'NONE')
  })

  it('has a literal code in each class', () => {
    expectTypeOf<string>().not.toExtend<AnyApalisError['code']>()
  })
})

describe('TaskId', () => {
  it('is a string, but not every string is one', () => {
    expectTypeOf<TaskId>().toExtend<string>()
    expectTypeOf<string>().not.toExtend<TaskId>()
    expectTypeOf(parseTaskId).returns.toEqualTypeOf<TaskId>()
  })
})
