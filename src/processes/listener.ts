/**
 * One LISTEN connection for all queues and workers of a database. Notifications are hints: a worker polls all the same,
 * so whatever goes wrong here costs time and never a task.
 *
 * - closed: nobody subscribes. The last subscriber to leave ends the run of that time, in whatever state it is; the next
 *   one begins a new run.
 * - connecting: opening, or waiting before the next attempt, for as long as somebody subscribes. Also when the very first
 *   attempt fails.
 * - up: listening. Asked for a sign of life from time to time: a notification that it sends to itself has to come back.
 *   Entering this state wakes every subscriber, because notifications of the meantime are lost.
 */
import { InvalidArgumentError, NotifyListenerError } from '../vocabulary/errors.js'
import { CANCEL_CHANNEL, CHANNEL, parseCancellation, parseNotification } from '../vocabulary/notification.js'
import { databaseError } from '../vocabulary/database-error.js'
import { database, primary, type PgDb } from '../vocabulary/db.js'
import { newNotifyListener, type NotifyListener } from '../vocabulary/notify-listener.js'
import { pause, unlessAborted } from './abort.js'
import { listenOpener, type ListenConnection, type OpenListenConnection } from './listen-connection.js'

export interface Subscriber {
  readonly queue: string
  /** There may be new tasks. */
  onWake(): void
  /** Tasks that this worker of the queue holds were cancelled. */
  onCancel(worker: string): void
  onUp(): void
  onDown(cause: unknown): void
}

export interface ListenerTimes {
  /** Milliseconds for connecting, up to the first sign of life. */
  readonly openTimeoutMs: number
  /** Milliseconds between signs of life. */
  readonly pingIntervalMs: number
  /** Milliseconds after which one that has not come back is missed. */
  readonly pingTimeoutMs: number
  readonly firstRetryMs: number
  readonly maxRetryMs: number
}

const TIMES: ListenerTimes = {
  openTimeoutMs: 15_000,
  pingIntervalMs: 30_000,
  pingTimeoutMs: 5_000,
  firstRetryMs: 100,
  maxRetryMs: 30_000,
}

interface Run {
  readonly abort: AbortController
  readonly ended: Promise<void>
}

export class Listener {
  readonly #subscribers = new Set<Subscriber>()
  readonly #pingChannel = `apalis_drizzle::alive::${crypto.randomUUID()}`
  #run: Run | undefined
  #state: 'connecting' | 'up' = 'connecting'
  #lastFailure: NotifyListenerError | undefined
  #onPong: () => void = () => undefined

  constructor(
    private readonly open: OpenListenConnection,
    private readonly times: ListenerTimes = TIMES,
  ) {}

  /** @returns Ends the subscription; the last one to end closes the connection. */
  subscribe(subscriber: Subscriber): () => Promise<void> {
    this.#subscribers.add(subscriber)
    if (this.#run === undefined) this.#begin()
    else if (this.#state === 'up') tellUp(subscriber)
    else if (this.#lastFailure !== undefined) subscriber.onDown(this.#lastFailure)
    return async () => {
      this.#subscribers.delete(subscriber)
      if (this.#subscribers.size === 0) await this.#end()
    }
  }

  /** Ends every subscription, and tells it. */
  async close(): Promise<void> {
    const subscribers = [...this.#subscribers]
    this.#subscribers.clear()
    const ended = this.#end()
    for (const subscriber of subscribers) subscriber.onDown(new NotifyListenerError('the listener was disposed'))
    await ended
  }

  #begin(): void {
    const abort = new AbortController()
    this.#run = { abort, ended: this.#listenAgainAndAgain(abort.signal) }
  }

  /** Whoever subscribes meanwhile gets a run of its own, and keeps nobody waiting for the end of this one. */
  async #end(): Promise<void> {
    const run = this.#run
    this.#run = undefined
    this.#state = 'connecting'
    this.#lastFailure = undefined
    run?.abort.abort()
    await run?.ended
  }

  async #listenAgainAndAgain(stopped: AbortSignal): Promise<void> {
    let retryMs = this.times.firstRetryMs
    while (!stopped.aborted) {
      const cause = await this.#listen(stopped, () => (retryMs = this.times.firstRetryMs))
      if (stopped.aborted) return
      this.#down(cause)
      await pause(retryMs * (0.5 + Math.random()), stopped)
      retryMs = Math.min(retryMs * 2, this.times.maxRetryMs)
    }
  }

  /** Listens on one connection, until it fails or the run ends. Never rejects. @returns What ended it. */
  async #listen(stopped: AbortSignal, onUp: () => void): Promise<unknown> {
    const over = new AbortController()
    const stop = () => over.abort()
    stopped.addEventListener('abort', stop)
    const late = setTimeout(() => over.abort(new Error(TOO_LATE)), this.times.openTimeoutMs)
    let connection: ListenConnection | undefined
    try {
      connection = await this.open([CHANNEL, CANCEL_CHANNEL, this.#pingChannel], over.signal, {
        onNotification: (channel, payload) => {
          if (!over.signal.aborted) this.#notified(channel, payload)
        },
        onClosed: (cause) => over.abort(cause),
      })
      await this.#hearOthers(over)
      // Closing that other session takes a moment, in which the run may have ended.
      over.signal.throwIfAborted()
      clearTimeout(late)
      onUp()
      this.#up()
      for (;;) {
        await pause(this.times.pingIntervalMs, over.signal)
        await this.#ping(connection, over, MISSED)
      }
    } catch (error) {
      return over.signal.aborted ? over.signal.reason : error
    } finally {
      stopped.removeEventListener('abort', stop)
      clearTimeout(late)
      over.abort()
      await connection?.close()
    }
  }

  /**
   * The first sign of life comes from another session. Through a pooler in transaction mode a session hears itself, because
   * its statements meet on one connection of the pooler, and it hears nobody else.
   */
  async #hearOthers(over: AbortController): Promise<void> {
    const other = await this.open([], over.signal, { onNotification: () => undefined, onClosed: () => undefined })
    try {
      await this.#ping(other, over, UNHEARD)
    } finally {
      await other.close()
    }
  }

  async #ping(sender: ListenConnection, over: AbortController, missed: string): Promise<void> {
    over.signal.throwIfAborted()
    const pong = new Promise<void>((resolve) => (this.#onPong = resolve))
    const timer = setTimeout(() => over.abort(new Error(missed)), this.times.pingTimeoutMs)
    try {
      await unlessAborted(over.signal, Promise.all([pong, sender.execute(`notify "${this.#pingChannel}"`)]))
    } finally {
      clearTimeout(timer)
    }
  }

  #notified(channel: string, payload: string): void {
    if (channel === this.#pingChannel) return this.#onPong()
    if (channel === CANCEL_CHANNEL) return this.#cancelled(payload)
    const notification = parseNotification(payload)
    if (notification === undefined) return
    for (const subscriber of this.#subscribers) if (subscriber.queue === notification.queue) subscriber.onWake()
  }

  #cancelled(payload: string): void {
    const cancellation = parseCancellation(payload)
    if (cancellation === undefined) return
    const { queue, worker } = cancellation
    for (const subscriber of this.#subscribers) if (subscriber.queue === queue) subscriber.onCancel(worker)
  }

  #up(): void {
    this.#state = 'up'
    this.#lastFailure = undefined
    for (const subscriber of this.#subscribers) tellUp(subscriber)
  }

  /** Told once per outage, not once per attempt. */
  #down(cause: unknown): void {
    const wasKnown = this.#lastFailure !== undefined
    this.#state = 'connecting'
    const failure = databaseError('listening for notifications', cause)
    const { message } = failure.cause instanceof Error ? failure.cause : failure
    this.#lastFailure = new NotifyListenerError(message, { cause: failure })
    if (wasKnown) return
    for (const subscriber of this.#subscribers) subscriber.onDown(this.#lastFailure)
  }
}

/** Awake, because what was announced before nobody has heard. */
function tellUp(subscriber: Subscriber): void {
  subscriber.onUp()
  subscriber.onWake()
}

const TOO_LATE = 'the database did not answer in time'
const MISSED = 'a notification that the listener sent to itself did not come back, so the connection is dead'
const UNHEARD =
  'a notification of another session did not arrive; if the connection goes through a pooler in transaction mode, pass createNotifyListener(directDb) as listen'

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
 * worker and disconnects with the last; disposing it ends it for all of them, and they go on by polling.
 *
 * @param directDb - A Drizzle database that connects to PostgreSQL itself.
 * @throws {InvalidArgumentError} `INVALID_ARGUMENT` for a driver that has no LISTEN.
 */
export function createNotifyListener(directDb: PgDb): NotifyListener {
  return notifyListener(directDb, TIMES)
}

export function notifyListener(directDb: PgDb, times: ListenerTimes): NotifyListener {
  const open = listenOpener(database(directDb, 'createNotifyListener'))
  if (open === undefined) {
    throw new InvalidArgumentError(
      'directDb',
      'its driver cannot listen; use postgres.js, a pool of node-postgres, or PGlite.',
    )
  }
  const listener = new Listener(open, times)
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
