/** What `defineQueue` was told, for the rest of the library. Users hold it only inside queues and tasks. */
import type { Codec } from './codec.js'
import { InvalidArgumentError } from './errors.js'
import type { Queue } from './queue.js'
import type { RetryDelay } from './retry.js'
import type { StandardSchema } from './standard-schema.js'
import type { Task } from './task.js'

/** Which committed pushes of a queue are announced to waiting workers. */
export type Notify = 'always' | 'never' | { readonly maxPerSecond: number }

export interface QueueDefinition<Args = unknown, Result = unknown> {
  readonly name: string
  readonly codec: Codec
  readonly argsSchema: StandardSchema<unknown, Args> | undefined
  readonly resultSchema: StandardSchema<unknown, Result> | undefined
  readonly maxAttempts: number
  readonly priority: number
  readonly timeoutMs: number | undefined
  /** The wait after a failed attempt. Never throws. */
  readonly retryDelay: (attempt: number, error: unknown) => RetryDelay
  readonly notify: Notify
}

/** Holds a definition where only this module finds it, so that no other object passes for a queue or a task. */
export abstract class Defined {
  readonly #definition: QueueDefinition

  constructor(definition: QueueDefinition) {
    this.#definition = definition
  }

  static definitionOf(value: unknown): QueueDefinition | undefined {
    return typeof value === 'object' && value !== null && #definition in value ? value.#definition : undefined
  }
}

/** @throws {InvalidArgumentError} for an object that `defineQueue` of this copy of the library did not make. */
export function definitionOf<Args, Result, Input>(queue: Queue<Args, Result, Input>): QueueDefinition<Args, Result>
export function definitionOf(queue: Queue<unknown>): QueueDefinition {
  return Defined.definitionOf(queue) ?? refuse('queue', 'defineQueue(name)')
}

/** @throws {InvalidArgumentError} for an object that `queue.task` of this copy of the library did not make. */
export function definitionOfTask(task: Task): QueueDefinition {
  const definition = Defined.definitionOf(task)
  return definition !== undefined && 'args' in task ? definition : refuse('task', 'queue.task(args)')
}

function refuse(argument: string, maker: string): never {
  throw new InvalidArgumentError(
    argument,
    `pass what ${maker} returned, as it is; a copy is not recognised, nor one made by another installed copy of apalis-drizzle.`,
  )
}
