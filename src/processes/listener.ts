/**
 * One LISTEN connection for all queues and workers of a database. Notifications are hints: a worker polls all the same,
 * so whatever goes wrong here costs time and never a task.
 *
 * - closed: nobody subscribes; there is no connection.
 * - connecting: opening, or waiting before the next attempt, for as long as somebody subscribes. Also when the very first
 *   attempt fails.
 * - up: listening. Asked for a sign of life from time to time: a notification that it sends to itself has to come back.
 *   Entering this state wakes every subscriber, because notifications of the meantime are lost.
 */
import { InvalidArgumentError, NotifyListenerError } from '../vocabulary/errors.js'
import { CHANNEL, parseNotification } from '../vocabulary/notification.js'
import { database, primary, type PgDb } from '../vocabulary/db.js'
import { newNotifyListener, type NotifyListener } from '../vocabulary/notify-listener.js'
import { listenOpener, type ListenConnection, type OpenListenConnection } from './listen-connection.js'
import { Wakeup } from './wakeup.js'

export interface Subscriber {
  readonly queue: string
  /** There may be new tasks. */
  onWake(): void
  onUp(): void
  onDown(cause: unknown): void
}

export interface ListenerTimes {
  /** Milliseconds between signs of life. */
  readonly pingIntervalMs: number
  /** Milliseconds after which one that has not come back is missed. */
  readonly pingTimeoutMs: number
  readonly firstRetryMs: number
  readonly maxRetryMs: number
}

const TIMES: ListenerTimes = { pingIntervalMs: 30_000, pingTimeoutMs: 5_000, firstRetryMs: 100, maxRetryMs: 30_000 }

export class Listener {
  readonly #subscribers = new Set<Subscriber>()
  readonly #pingChannel = `apalis_drizzle::alive::${crypto.randomUUID()}`
  readonly #wakeup = new Wakeup()
  #running: Promise<void> | undefined
  #state: 'connecting' | 'up' = 'connecting'
  #lastFailure: unknown
  #onPong: () => void = () => undefined

  constructor(
    private readonly open: OpenListenConnection,
    private readonly times: ListenerTimes = TIMES,
  ) {}

  /** @returns Ends the subscription; the last one to end closes the connection. */
  subscribe(subscriber: Subscriber): () => Promise<void> {
    this.#subscribers.add(subscriber)
    if (this.#running === undefined) this.#running = this.#run()
    else if (this.#state === 'up') subscriber.onUp()
    else if (this.#lastFailure !== undefined) subscriber.onDown(this.#lastFailure)
    return async () => {
      this.#subscribers.delete(subscriber)
      if (this.#subscribers.size > 0) return
      this.#wakeup.wake()
      await this.#running
    }
  }

  /** Ends every subscription. */
  async close(): Promise<void> {
    this.#subscribers.clear()
    this.#wakeup.wake()
    await this.#running
  }

  async #run(): Promise<void> {
    let retryMs = this.times.firstRetryMs
    while (this.#subscribers.size > 0) {
      const cause = await this.#listen(() => (retryMs = this.times.firstRetryMs))
      if (this.#subscribers.size === 0) break
      this.#down(cause)
      await this.#wakeup.wait(retryMs * (0.5 + Math.random()))
      retryMs = Math.min(retryMs * 2, this.times.maxRetryMs)
    }
    this.#running = undefined
    this.#lastFailure = undefined
    this.#state = 'connecting'
  }

  /** Listens until the connection fails or the last subscriber leaves. @returns What ended it. */
  async #listen(onUp: () => void): Promise<unknown> {
    let connection: ListenConnection | undefined
    let closed: { readonly cause: unknown } | undefined
    try {
      connection = await this.open([CHANNEL, this.#pingChannel], {
        onNotification: (channel, payload) => this.#notified(channel, payload),
        onClosed: (cause) => {
          closed = { cause }
          this.#wakeup.wake()
        },
      })
      while (this.#subscribers.size > 0 && closed === undefined) {
        await this.#ping(connection)
        if (this.#state !== 'up') {
          onUp()
          this.#up()
        }
        await this.#wakeup.wait(this.times.pingIntervalMs)
      }
      return closed?.cause
    } catch (error) {
      return closed?.cause ?? error
    } finally {
      await connection?.close().catch(() => undefined)
    }
  }

  async #ping(connection: ListenConnection): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined
    const pong = new Promise<void>((resolve) => (this.#onPong = resolve))
    const missed = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(MISSED)), this.times.pingTimeoutMs)
    })
    try {
      await Promise.race([Promise.all([pong, connection.execute(`notify "${this.#pingChannel}"`)]), missed])
    } finally {
      clearTimeout(timer)
    }
  }

  #notified(channel: string, payload: string): void {
    if (channel === this.#pingChannel) return this.#onPong()
    const notification = parseNotification(payload)
    if (notification === undefined) return
    for (const subscriber of this.#subscribers) if (subscriber.queue === notification.queue) subscriber.onWake()
  }

  #up(): void {
    this.#state = 'up'
    this.#lastFailure = undefined
    for (const subscriber of this.#subscribers) {
      subscriber.onUp()
      subscriber.onWake()
    }
  }

  /** Told once per outage, not once per attempt. */
  #down(reason: unknown): void {
    const wasKnown = this.#state === 'connecting' && this.#lastFailure !== undefined
    this.#state = 'connecting'
    const message = reason instanceof Error ? reason.message : 'the connection failed'
    this.#lastFailure = new NotifyListenerError(message, { cause: reason })
    if (wasKnown) return
    for (const subscriber of this.#subscribers) subscriber.onDown(this.#lastFailure)
  }
}

const MISSED =
  'a notification that the listener sent to itself did not come back; the connection is dead, or goes through a pooler in transaction mode (then pass createNotifyListener(directDb) as listen)'

const shared = new WeakMap<object, Listener>()

/** The listener that all workers of a database share; `undefined` when its driver cannot listen. */
function sharedListener(applicationDb: PgDb): Listener | undefined {
  const db = primary(applicationDb)
  const open = listenOpener(db)
  if (open === undefined) return undefined
  const listener = shared.get(db) ?? new Listener(open)
  shared.set(db, listener)
  return listener
}

/**
 * A listener over a connection of its own to `directDb`, for applications whose pool goes through PgBouncer in
 * transaction mode, where LISTEN does not work. Pass it as `listen` to storages or workers. It connects with the first
 * worker and disconnects with the last; disposing it ends it for all of them.
 *
 * @param directDb - A Drizzle database that connects to PostgreSQL itself.
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a driver that has no LISTEN.
 */
export function createNotifyListener(directDb: PgDb): NotifyListener {
  const open = listenOpener(database(directDb, 'createNotifyListener'))
  if (open === undefined) {
    throw new InvalidArgumentError(
      'directDb',
      'its driver cannot listen; use postgres.js, a pool of node-postgres, or PGlite.',
    )
  }
  const listener = new Listener(open)
  const created = newNotifyListener(() => listener.close())
  listeners.set(created, listener)
  return created
}

const listeners = new WeakMap<NotifyListener, Listener>()

/** The listener behind the `listen` setting, if there is one. */
export function chosenListener(db: PgDb, listen: boolean | NotifyListener): Listener | undefined {
  if (typeof listen !== 'boolean') return listeners.get(listen)
  return listen ? sharedListener(db) : undefined
}
