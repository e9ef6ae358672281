/**
 * The connections of the worker loops: claims, acks and heartbeats. They are apart from the application's pool, so that
 * handlers that fill the pool cannot starve the heartbeat, and they carry deadlines that the server enforces.
 *
 * One small client per database, made from the options of the application's own, shared by all its workers and closed by
 * the last of them. It is replaced when a statement gets no answer at all: then a connection is dead although nobody has
 * said so (a pulled cable, a firewall that forgot it), and no driver gives up such a statement by itself.
 */
import { primary, type Db, type PgDb } from '../vocabulary/db.js'
import { DEADLINES, within } from './deadlines.js'
import {
  isNodePostgresPool,
  isPostgresJs,
  poolOptions,
  postgresJsOptions,
  withParameters,
  type NodePostgresPool,
  type PostgresJsClient,
} from './driver.js'

/** One connection each for a claim, an ack and a heartbeat under way. */
const CONNECTIONS = 3
const CONNECT_TIMEOUT_MS = 10_000
/** How long closing waits for what is still under way. */
const CLOSE_MS = 500

const NAME = 'apalis-drizzle worker'
/**
 * Milliseconds. Neither claim nor ack waits for the lock of a row; what waits for that of a table gives up and tries again.
 * Read committed, because under stricter levels concurrent claims fail instead of skipping each other's rows.
 */
const SESSION = {
  application_name: NAME,
  statement_timeout: 15_000,
  lock_timeout: 2_000,
  idle_in_transaction_session_timeout: 30_000,
} as const
const ISOLATION = 'read committed' as const

export interface ControlClient {
  /** Runs one statement. Without an answer in time it rejects as for a lost connection: it may or may not be executed. */
  run<T>(statement: (db: Db) => Promise<T>): Promise<T>
  /** Gives the client back; the last user's call closes its connections. */
  close(): Promise<void>
}

/** Connects with the first statement, so opening never fails for the database's sake. */
export async function openControlClient(
  applicationDb: PgDb,
  answerMs: number = DEADLINES.answerMs,
): Promise<ControlClient> {
  const application = primary(applicationDb)
  const shared = clients.get(application) ?? new SharedClient(await clientMaker(application))
  // Another worker may have opened one meanwhile.
  const client = clients.get(application) ?? shared
  clients.set(application, client)
  client.users += 1
  let closed = false
  return {
    run: (statement) => client.run(statement, answerMs),
    close: async () => {
      if (closed) return
      closed = true
      client.users -= 1
      if (client.users > 0) return
      clients.delete(application)
      await client.end()
    },
  }
}

const clients = new WeakMap<object, SharedClient>()

interface OpenClient {
  readonly db: Db
  /** Closes it; statements under way have until `ms` to end. */
  end(ms: number): Promise<void>
}

type MakeClient = (session: 'our-settings' | 'no-settings') => OpenClient

class SharedClient {
  users = 0
  #session: Parameters<MakeClient>[0] = 'our-settings'
  #open: OpenClient
  #ended = false

  constructor(private readonly make: MakeClient) {
    this.#open = make(this.#session)
  }

  /** Behind a pooler that refuses our settings it goes without: then only `answerMs` bounds how long a statement takes. */
  async run<T>(statement: (db: Db) => Promise<T>, answerMs: number): Promise<T> {
    const open = this.#open
    try {
      return await this.#run(open, statement, answerMs)
    } catch (error) {
      // Refused while connecting, so nothing was executed.
      if (!isRefusedByPooler(error)) throw error
      if (open === this.#open) {
        if (this.#session === 'no-settings') throw error
        this.#session = 'no-settings'
        this.#replace(open)
      }
      return this.#run(this.#open, statement, answerMs)
    }
  }

  #run<T>(open: OpenClient, statement: (db: Db) => Promise<T>, answerMs: number): Promise<T> {
    return within(answerMs, statement(open.db), () => {
      this.#replace(open)
      throw new Error(`no answer within ${answerMs} ms; the connection is given up`)
    })
  }

  end(): Promise<void> {
    this.#ended = true
    return this.#open.end(CLOSE_MS)
  }

  /** Not after the end: a statement that passes its deadline then would leave a client that nobody closes. */
  #replace(dead: OpenClient): void {
    if (this.#ended || dead !== this.#open) return
    this.#open = this.make(this.#session)
    void dead.end(0)
  }
}

const PROTOCOL_VIOLATION = '08P01'

/** By PgBouncer, which takes no startup parameters that it does not know. */
function isRefusedByPooler(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return (error as { code?: unknown }).code === PROTOCOL_VIOLATION || isRefusedByPooler(error.cause)
}

/** Drivers are imported only here and only when used, so that none of them is needed to enqueue. */
async function clientMaker(application: Db): Promise<MakeClient> {
  const client = (application as { $client?: unknown }).$client
  if (isPostgresJs(client)) return postgresJsMaker(client)
  if (isNodePostgresPool(application, client)) return poolMaker(client)
  // PGlite has one connection by nature, and of a driver we do not know we cannot make a second client.
  return () => ({ db: application, end: () => Promise.resolve() })
}

async function postgresJsMaker(application: PostgresJsClient): Promise<MakeClient> {
  const { default: postgres } = await import('postgres')
  const { drizzle } = await import('drizzle-orm/postgres-js')
  const own = {
    ...postgresJsOptions(application),
    max: CONNECTIONS,
    connect_timeout: CONNECT_TIMEOUT_MS / 1_000,
    // The loops wait between attempts themselves; the driver's own pause grows to 20 s.
    backoff: () => 0.1,
    // A round trip per connection, for array types that the statements do not use.
    fetch_types: false,
    onnotice: () => undefined,
  }
  return (session) => {
    const settings =
      session === 'our-settings' ? { ...SESSION, default_transaction_isolation: ISOLATION } : { application_name: NAME }
    const client = postgres({ ...own, connection: { ...application.options.connection, ...settings } })
    return { db: drizzle({ client }) as unknown as Db, end: (ms) => client.end({ timeout: ms / 1_000 }) }
  }
}

async function poolMaker(application: NodePostgresPool): Promise<MakeClient> {
  const { drizzle } = await import('drizzle-orm/node-postgres')
  const options = poolOptions(application)
  const own = {
    ...options,
    application_name: NAME,
    max: CONNECTIONS,
    min: 0,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    // Without it a pool that is ended waits for the answers of dead connections.
    query_timeout: DEADLINES.answerMs,
  }
  const settings = {
    ...SESSION,
    options: withParameters(options['options'], { default_transaction_isolation: ISOLATION }),
  }
  return (session) => {
    const pool = new application.constructor({ ...own, ...(session === 'our-settings' ? settings : {}) })
    // Without a listener the loss of an idle connection would end the process; the next statement reports it.
    pool.on('error', () => undefined)
    const end = (ms: number) => within(ms, pool.end(), () => undefined)
    return { db: drizzle({ client: pool as never }) as unknown as Db, end }
  }
}
