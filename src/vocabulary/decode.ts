import { superjsonCodec, unreadableReason } from './codec.js'
import type { QueueDefinition } from './definition.js'
import { DecodeError, type TaskId } from './errors.js'
import { isThenable, validate, type Validation } from './standard-schema.js'

/**
 * What the handler gets: the stored value as the queue's schema parses it. A promise only if the schema is asynchronous.
 *
 * @throws {DecodeError} with a reason that does not quote the payload; a promise rejects with it.
 */
export function decodeArgs<Args>(
  definition: QueueDefinition<Args>,
  id: TaskId,
  bytes: Uint8Array,
): Args | Promise<Args> {
  const { name, codec, argsSchema } = definition
  let value: unknown
  try {
    value = codec.decode(bytes)
  } catch (error) {
    throw new DecodeError(id, name, unreadableReason(error))
  }
  if (argsSchema === undefined) return value as Args
  const validation = validate(argsSchema, value, 'args')
  return isThenable(validation) ? validation.then(parsed) : parsed(validation)

  function parsed(settled: Validation<Args>): Args {
    if (settled.ok) return settled.value
    throw new DecodeError(id, name, `the payload does not fit the queue's schema ${settled.reason}`, settled.issues)
  }
}

/**
 * A payload of a queue that is known by name only, as the default codec writes it.
 *
 * @throws {DecodeError} with a reason that does not quote the payload.
 */
export function decodeByDefault(queue: string, id: TaskId, bytes: Uint8Array): unknown {
  try {
    return superjsonCodec.decode(bytes)
  } catch (error) {
    const reason = `${unreadableReason(error)}; a payload of a codec of its own is read by the PostgresStorage of its queue`
    throw new DecodeError(id, queue, reason)
  }
}
