/**
 * A worker's place in its queue: a name that no other live process holds, and a secret token that proves it.
 *
 * A name without a number means a family, `base#1`, `base#2` and so on. A starting worker takes the lowest number whose
 * holder is gone, so that restarts never wait for a dead predecessor and rows of workers do not pile up. One that registers
 * again after an outage keeps the name it had, if nobody has taken it, and with it the tasks it holds.
 */
import { ulid } from 'ulid'
import { namesInUse, register, release, type NameInUse } from '../statements/register.js'
import { databaseError } from '../vocabulary/database-error.js'
import type { Db } from '../vocabulary/db.js'
import { AlreadyRegisteredError } from '../vocabulary/errors.js'
import type { OwnedOrphan } from '../vocabulary/orphan.js'

export interface Registration {
  readonly queue: string
  readonly worker: string
  readonly leaseToken: string
  /** Tasks of a dead process of the same name, which are back in the queue now. */
  readonly takenBack: readonly OwnedOrphan[]
}

export interface RegistrationRequest {
  readonly queue: string
  /** A full name, or a base without number. */
  readonly name: string
  /** The same for every attempt of one process: so one whose answer was lost does not stand in its own way. */
  readonly leaseToken: string
  readonly layers: string
  readonly thresholdMs: number
}

/** Names to try beyond those in use, for the case that as many workers start at the same time. */
const SPARE_NAMES = 100

/** Not from the factory of the task ids, which counts up from the last one: a token must not be guessable. */
export function newLeaseToken(): string {
  return ulid()
}

/**
 * @throws {AlreadyRegisteredError} `ALREADY_REGISTERED` when a full name is held by a live process.
 * @throws {DatabaseError} `DATABASE`
 */
export async function registerWorker(db: Db, request: RegistrationRequest): Promise<Registration> {
  const { queue, name, leaseToken } = request
  try {
    for (const worker of await candidates(db, request)) {
      const takenBack = await register(db, { ...request, worker, storageName: 'DrizzleStorage' })
      if (takenBack === undefined) continue
      return { queue, worker, leaseToken, takenBack: takenBack.map((orphan) => ({ ...orphan, from: worker })) }
    }
  } catch (error) {
    throw databaseError(`registering as ${name} in queue ${queue}`, error)
  }
  throw new AlreadyRegisteredError(queue, name)
}

/** Gives the name back. The tasks must have been handed back before. */
export async function releaseWorker(db: Db, registration: Registration): Promise<void> {
  try {
    await release(db, registration)
  } catch (error) {
    throw databaseError(`releasing worker ${registration.worker}`, error)
  }
}

async function candidates(db: Db, { queue, name, leaseToken, thresholdMs }: RegistrationRequest): Promise<string[]> {
  if (/#\d+$/.test(name)) return [name]
  return namesToTry(name, await namesInUse(db, queue, name, leaseToken, thresholdMs))
}

/** The own name, those whose holder is gone, lowest first, then new ones in the gaps and beyond. */
export function namesToTry(base: string, inUse: readonly NameInUse[]): string[] {
  const own = inUse.filter((name) => name.own).map(({ name }) => name)
  const taken = new Set(inUse.filter((name) => !name.stale || name.own).map(({ name }) => name))
  const known = new Set(inUse.map(({ name }) => name))
  const names = Array.from({ length: inUse.length + SPARE_NAMES }, (_, index) => `${base}#${index + 1}`)
  const free = names.filter((name) => !taken.has(name))
  return [...own, ...free.filter((name) => known.has(name)), ...free.filter((name) => !known.has(name))]
}
