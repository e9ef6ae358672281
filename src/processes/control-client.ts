/**
 * The connections of the worker loops: claims, acks and heartbeats. They are apart from the application's pool, so that
 * handlers that fill the pool cannot starve the heartbeat, and they carry deadlines that the server enforces: a statement
 * through Drizzle cannot be cancelled by its caller.
 *
 * One small client per database, made from the options of the application's own, shared by all its workers.
 */
import { primary, type Db, type PgDb } from '../vocabulary/db.js'
import { openOwnClient, type OwnClient } from './own-client.js'

/** One connection each for a claim, an ack and a heartbeat under way. */
const CONNECTIONS = 3

/** Milliseconds. A claim waits for no lock; the ack of a task that a user's transaction holds gives up and is tried again. */
const SESSION = {
  application_name: 'apalis-drizzle worker',
  statement_timeout: 15_000,
  lock_timeout: 5_000,
  idle_in_transaction_session_timeout: 30_000,
  // Under stricter levels concurrent claims fail with serialization errors instead of skipping each other's rows.
  default_transaction_isolation: 'read committed',
} as const

export interface ControlClient {
  readonly db: Db
  /** Gives the client back; the last user's call closes its connections. */
  close(): Promise<void>
}

const clients = new WeakMap<object, { readonly opening: Promise<OwnClient>; users: number }>()

export async function openControlClient(applicationDb: PgDb): Promise<ControlClient> {
  const application = primary(applicationDb)
  const client = clients.get(application) ?? { opening: openOwnClient(application, CONNECTIONS, SESSION), users: 0 }
  clients.set(application, client)
  client.users += 1
  let closed = false
  const close = async () => {
    if (closed) return
    closed = true
    client.users -= 1
    if (client.users > 0) return
    clients.delete(application)
    await (await client.opening).end()
  }
  try {
    return { db: (await client.opening).db, close }
  } catch (error) {
    clients.delete(application)
    throw error
  }
}
