/**
 * A connection that does nothing but LISTEN, per driver. Statements run on the listening session itself, so that it can be
 * asked for a sign of life: a connection whose other end vanished without a word delivers nothing and reports nothing.
 */
import type { Db } from '../vocabulary/db.js'
import { quotedIdentifier } from '../vocabulary/quoted-identifier.js'
import { unlessAborted } from './abort.js'
import { within } from './deadlines.js'
import {
  isNodePostgresPool,
  isPglite,
  isPostgresJs,
  poolOptions,
  postgresJsOptions,
  type NodePostgresPool,
  type Pglite,
  type PostgresJsClient,
} from './driver.js'

export interface ListenConnection {
  /** Runs a statement on the listening session. */
  execute(statement: string): Promise<unknown>
  /** Never rejects, and waits for no answer. */
  close(): Promise<void>
}

export interface ListenHandlers {
  onNotification(channel: string, payload: string): void
  /** The connection ended by itself; not called after `close`. */
  onClosed(cause: unknown): void
}

/**
 * Opens a connection that listens on the channels. Rejects when it cannot, and as soon as the signal aborts; then nothing
 * is left open. The signal has no effect afterwards.
 */
export type OpenListenConnection = (
  channels: readonly string[],
  signal: AbortSignal,
  handlers: ListenHandlers,
) => Promise<ListenConnection>

/** `undefined` for a driver that has no LISTEN, such as one over HTTP. */
export function listenOpener(db: Db): OpenListenConnection | undefined {
  const { $client: client } = db as { $client?: unknown }
  if (isPostgresJs(client)) return (...request) => listenWithPostgresJs(client, ...request)
  if (isNodePostgresPool(db, client)) return (...request) => listenWithNodePostgres(client, ...request)
  if (isPglite(db, client)) return (...request) => listenWithPglite(client, ...request)
  return undefined
}

const APPLICATION_NAME = 'apalis-drizzle listener'
/** Seconds. */
const CONNECT_TIMEOUT = 10
const KEEP_ALIVE = 30
/** Milliseconds. */
const CLOSE_MS = 200

/**
 * A client of one connection with the options that postgres.js gives to the client behind its `listen`. That function
 * itself keeps its session to itself and does not say when it ends.
 */
async function listenWithPostgresJs(
  application: PostgresJsClient,
  channels: readonly string[],
  signal: AbortSignal,
  handlers: ListenHandlers,
): Promise<ListenConnection> {
  const { default: postgres } = await import('postgres')
  let open = true
  const close = async () => {
    open = false
    await client.end({ timeout: 0 }).catch(() => undefined)
  }
  const options = {
    ...postgresJsOptions(application),
    max: 1,
    idle_timeout: null,
    max_lifetime: null,
    fetch_types: false,
    connect_timeout: CONNECT_TIMEOUT,
    keep_alive: KEEP_ALIVE,
    connection: { ...application.options.connection, application_name: APPLICATION_NAME },
    onnotice: () => undefined,
    onnotify: (channel: string, payload: string) => handlers.onNotification(channel, payload),
    onclose: () => {
      if (!open) return
      void close()
      handlers.onClosed(new Error('the connection was closed by the server or the network'))
    },
  }
  const client = postgres(options as object)
  try {
    await unlessAborted(signal, client.unsafe(listenStatement(channels)))
  } catch (error) {
    await close()
    throw error
  }
  return { execute: (statement) => client.unsafe(statement), close }
}

async function listenWithNodePostgres(
  application: NodePostgresPool,
  channels: readonly string[],
  signal: AbortSignal,
  handlers: ListenHandlers,
): Promise<ListenConnection> {
  const { default: pg } = await import('pg')
  const client = new pg.Client({
    ...poolOptions(application),
    application_name: APPLICATION_NAME,
    connectionTimeoutMillis: CONNECT_TIMEOUT * 1_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEP_ALIVE * 1_000,
  })
  let open = true
  const closed = (cause: unknown) => {
    if (!open) return
    void close()
    handlers.onClosed(cause)
  }
  const close = async () => {
    open = false
    // It would wait for the other end to hang up, which a dead one never does.
    await within(CLOSE_MS, client.end(), () => client.connection.stream.destroy()).catch(() => undefined)
  }
  client.on('notification', ({ channel, payload }) => handlers.onNotification(channel, payload ?? ''))
  client.on('error', closed)
  client.on('end', () => closed(new Error('the connection was closed by the server or the network')))
  try {
    await unlessAborted(
      signal,
      client.connect().then(() => client.query(listenStatement(channels))),
    )
  } catch (error) {
    await close()
    throw error
  }
  return { execute: (statement) => client.query(statement), close }
}

/** In process: there is no connection to lose. */
async function listenWithPglite(
  client: Pglite,
  channels: readonly string[],
  signal: AbortSignal,
  handlers: ListenHandlers,
): Promise<ListenConnection> {
  signal.throwIfAborted()
  const unlisten = await Promise.all(
    // PGlite does not quote the name.
    channels.map((channel) =>
      client.listen(quotedIdentifier(channel), (payload) => handlers.onNotification(channel, payload)),
    ),
  )
  return {
    execute: (statement) => client.exec(statement),
    close: async () => {
      await Promise.all(unlisten.map((stop) => stop())).catch(() => undefined)
    },
  }
}

function listenStatement(channels: readonly string[]): string {
  return channels.map((channel) => `listen ${quotedIdentifier(channel)}`).join('; ')
}
