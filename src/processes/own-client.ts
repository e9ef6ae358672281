/** Further connections to the database of an application, made from the options of its own client. */
import type { Db } from '../vocabulary/db.js'
import {
  isNodePostgresPool,
  isPostgresJs,
  poolOptions,
  postgresJsOptions,
  withParameters,
  type NodePostgresPool,
  type PostgresJsClient,
} from './driver.js'

export interface OwnClient {
  readonly db: Db
  /** False where the driver has one connection by nature, as PGlite, or is not known: then `db` is the application's. */
  readonly isOwn: boolean
  end(): Promise<void>
}

/** @param session - Configuration parameters of its sessions, in force from the first statement. */
export async function openOwnClient(
  application: Db,
  connections: number,
  session: SessionSettings,
): Promise<OwnClient> {
  const client = (application as { $client?: unknown }).$client
  if (isPostgresJs(client)) return openPostgresJs(client, connections, session)
  if (isNodePostgresPool(application, client)) return openPool(client, connections, session)
  return { db: application, isOwn: false, end: () => Promise.resolve() }
}

type SessionSettings = Readonly<Record<string, string | number>>

/** Drivers are imported here and in `openPool` only, and only when used, so that none of them is needed to enqueue. */
async function openPostgresJs(
  application: PostgresJsClient,
  max: number,
  session: SessionSettings,
): Promise<OwnClient> {
  const { default: postgres } = await import('postgres')
  const { drizzle } = await import('drizzle-orm/postgres-js')
  const client = postgres({
    ...postgresJsOptions(application),
    max,
    onnotice: () => undefined,
    connection: { ...application.options.connection, ...session },
  })
  return { db: drizzle({ client }) as unknown as Db, isOwn: true, end: () => client.end({ timeout: 5 }) }
}

async function openPool(application: NodePostgresPool, max: number, session: SessionSettings): Promise<OwnClient> {
  const { drizzle } = await import('drizzle-orm/node-postgres')
  const options = poolOptions(application)
  const pool = new application.constructor({
    ...options,
    // Some parameters are options of node-postgres too, and those of the application would win over `options`.
    ...session,
    options: withParameters(options['options'], session),
    max,
    min: 0,
  })
  // Without a listener the loss of an idle connection would end the process; the next statement reports it.
  pool.on('error', () => undefined)
  return { db: drizzle({ client: pool as never }) as unknown as Db, isOwn: true, end: () => pool.end() }
}
