/** The LISTEN connection: wakes the right queue, heals by itself, and says when it is up and down. */
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { afterEach, describe, expect, it } from 'vitest'
import { listenOpener } from '../src/processes/listen-connection.js'
import { Listener, type ListenerTimes } from '../src/processes/listener.js'
import type { Db, PgDb } from '../src/vocabulary/db.js'
import { isApalisError } from '../src/vocabulary/errors.js'
import { CANCEL_CHANNEL, CHANNEL } from '../src/vocabulary/notification.js'
import { useDatabase } from './support/database.js'
import { startProxy } from './support/proxy.js'
import { until } from './support/until.js'
import { gate } from './support/workers.js'

const database = useDatabase()
const FAST: ListenerTimes = {
  openTimeoutMs: 2_000,
  pingIntervalMs: 50,
  pingTimeoutMs: 300,
  firstRetryMs: 10,
  maxRetryMs: 50,
}
const endings: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end()
})

/** What a subscriber is told, in order, and a way to wait for the next of it. */
function subscriber(queue: string) {
  const told: string[] = []
  const causes: unknown[] = []
  let seen = 0
  let look: () => void = () => undefined
  const tell = (what: string) => {
    told.push(what)
    look()
  }
  return {
    told,
    causes,
    queue,
    onWake: () => tell('wake'),
    onCancel: (worker: string) => tell(`cancel ${worker}`),
    onUp: () => tell('up'),
    onDown: (cause: unknown) => {
      causes.push(cause)
      tell('down')
    },
    /** Passes over everything before. */
    next: (what: string) =>
      new Promise<void>((resolve) => {
        look = () => {
          const found = told.indexOf(what, seen)
          if (found === -1) return
          seen = found + 1
          look = () => undefined
          resolve()
        }
        look()
      }),
  }
}

function listenerOn(db: PgDb, times: ListenerTimes = FAST): Listener {
  const listener = new Listener(listenOpener(db as unknown as Db)!, times)
  endings.push(() => listener.close())
  return listener
}

/** Closed with the test. */
function connectWith(driver: string, url: string): PgDb {
  if (driver === 'postgres.js') {
    return database.connect({ host: '127.0.0.1', port: Number(new URL(url).port) }).db
  }
  const pool = new pg.Pool({ connectionString: url, max: 2 })
  endings.push(() => pool.end())
  return drizzle({ client: pool })
}

async function listeningSessions(): Promise<number[]> {
  const rows = await database.sql<{ pid: number }[]>`
    select pid from pg_stat_activity where application_name = 'apalis-drizzle listener' and datname = current_database()`
  return rows.map(({ pid }) => pid)
}

/** When the one that sent the first sign of life is gone. */
async function theListeningSession(): Promise<number> {
  await until(async () => (await listeningSessions()).length === 1, 'there is one listening session')
  return (await listeningSessions())[0]!
}

/** Passes connections on to a server. @returns Ends it. */
async function forward(port: number, target: URL): Promise<() => Promise<unknown>> {
  const server = createServer((client) => {
    const upstream = connect(Number(target.port || 5432), target.hostname)
    client.pipe(upstream).pipe(client)
    for (const socket of [client, upstream]) socket.on('error', () => undefined)
  }).listen(port, '127.0.0.1')
  await once(server, 'listening')
  return () => once(server.close(), 'close')
}

const announce = (payload: string) => database.sql.notify(CHANNEL, payload)

describe('wake-ups', () => {
  it('reach the subscribers of their queue and no others [NOTIFY-10] [NOTIFY-11] [SHARED-03]', async () => {
    const listener = listenerOn(database.db)
    const [first, second, other] = [subscriber('mail'), subscriber('mail'), subscriber('paint')]
    for (const one of [first, second, other]) listener.subscribe(one)
    await Promise.all([first, second, other].map((one) => one.next('wake')))
    await announce('{"job_type": "mail", "ids": []}')
    await Promise.all([first.next('wake'), second.next('wake')])
    expect(other.told).toEqual(['up', 'wake'])
  })

  it('come from an insert through the trigger, and from the older form of the payload [NOTIFY-08]', async () => {
    const mail = subscriber('mail')
    listenerOn(database.db).subscribe(mail)
    await mail.next('wake')
    await database.sql`insert into apalis.jobs (job, id, job_type) values ('1', '01ARZ3NDEKTSV4RRFFQ69G5FAV', 'mail')`
    await mail.next('wake')
    await announce('{"job_type": "mail", "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "run_at": 1}')
    await mail.next('wake')
    expect(mail.told).toEqual(['up', 'wake', 'wake', 'wake'])
  })

  it('do not come from payloads that are empty or no announcements', async () => {
    const mail = subscriber('mail')
    listenerOn(database.db).subscribe(mail)
    await mail.next('wake')
    for (const payload of ['', 'null', '[]', '{', '{"job_type": 1}', '"mail"']) await announce(payload)
    await announce('{"job_type": "mail"}')
    await mail.next('wake')
    expect(mail.told).toEqual(['up', 'wake', 'wake'])
  })
})

describe('cancellations', () => {
  const cancelled = (payload: string) => database.sql.notify(CANCEL_CHANNEL, payload)

  it('are told to the subscribers of their queue, with the name of the worker', async () => {
    const listener = listenerOn(database.db)
    const [mail, paint] = [subscriber('mail'), subscriber('paint')]
    for (const one of [mail, paint]) listener.subscribe(one)
    await Promise.all([mail, paint].map((one) => one.next('wake')))
    for (const payload of ['', 'null', '{', '{"job_type": "mail"}', '{"job_type": "mail", "worker": 1}']) {
      await cancelled(payload)
    }
    await cancelled('{"job_type": "mail", "worker": "mailer#1"}')
    await mail.next('cancel mailer#1')
    expect(mail.told).toEqual(['up', 'wake', 'cancel mailer#1'])
    expect(paint.told).toEqual(['up', 'wake'])
  })
})

describe('one connection', () => {
  it('serves all subscribers, and closes with the last [NOTIFY-12] [SHARED-01] [SHARED-02] [SHARED-09] [SHARED-10]', async () => {
    const listener = listenerOn(database.db)
    const [first, second] = [subscriber('mail'), subscriber('mail')]
    const leave = [listener.subscribe(first), listener.subscribe(second)]
    await Promise.all([first.next('wake'), second.next('wake')])
    await theListeningSession()
    await leave[0]!()
    await announce('{"job_type": "mail"}')
    await second.next('wake')
    expect(first.told).toEqual(['up', 'wake'])
    await leave[1]!()
    await expect.poll(listeningSessions).toEqual([])
  })

  it('can be opened again after it was closed [SHARED-08]', async () => {
    const listener = listenerOn(database.db)
    for (const one of [subscriber('mail'), subscriber('mail')]) {
      const leave = listener.subscribe(one)
      await one.next('wake')
      await leave()
    }
    await expect.poll(listeningSessions).toEqual([])
  })
})

describe('who comes and goes', () => {
  it('a subscriber that comes later is woken, for what was announced before it came', async () => {
    const listener = listenerOn(database.db)
    const [first, second] = [subscriber('mail'), subscriber('mail')]
    listener.subscribe(first)
    await first.next('wake')
    listener.subscribe(second)
    expect(second.told).toEqual(['up', 'wake'])
  })

  it('one that comes while the connection closes gets a new one, and does not keep the last from leaving', async () => {
    const listener = listenerOn(database.db)
    const [first, second] = [subscriber('mail'), subscriber('mail')]
    const leave = listener.subscribe(first)
    await first.next('wake')
    const left = leave()
    listener.subscribe(second)
    await left
    await second.next('wake')
    await announce('{"job_type": "mail"}')
    await second.next('wake')
    expect(second.told).toEqual(['up', 'wake', 'wake'])
    expect(first.told).toEqual(['up', 'wake'])
    await theListeningSession()
  })

  it('closing tells everybody that notifications are off', async () => {
    const listener = listenerOn(database.db)
    const mail = subscriber('mail')
    listener.subscribe(mail)
    await mail.next('wake')
    await listener.close()
    expect(mail.told).toEqual(['up', 'wake', 'down'])
    await expect.poll(listeningSessions).toEqual([])
  })

  it('one that comes while a run ends is not told that the next is up', async () => {
    const closing = gate()
    const closed = gate()
    let pong: () => void = () => undefined
    const runs: unknown[] = []
    const listener = new Listener(([channel, , pingChannel], _signal, { onNotification }) => {
      if (channel === undefined) {
        const execute = async () => pong()
        return Promise.resolve({ execute, close: () => (closing.open(), closed.opened) })
      }
      runs.push(channel)
      // The second run stays connecting.
      if (runs.length > 1) return new Promise(() => undefined)
      pong = () => onNotification(pingChannel!, '')
      return Promise.resolve({ execute: () => Promise.resolve(), close: () => Promise.resolve() })
    }, FAST)
    const [first, second] = [subscriber('mail'), subscriber('mail')]
    const leave = listener.subscribe(first)
    await closing.opened
    const left = leave()
    listener.subscribe(second)
    closed.open()
    await left
    expect(runs).toHaveLength(2)
    expect(second.told).toEqual([])
  })

  it.each(['postgres.js', 'node-postgres'])(
    'leaving does not wait for a %s connection that is dead',
    async (driver) => {
      const proxy = await startProxy(database.url)
      endings.push(() => proxy.stop())
      const listener = listenerOn(connectWith(driver, proxy.url), {
        ...FAST,
        openTimeoutMs: 60_000,
        pingTimeoutMs: 60_000,
      })
      const mail = subscriber('mail')
      const leaveUp = listener.subscribe(mail)
      await mail.next('wake')
      proxy.swallow()
      // Time for a sign of life to be on its way.
      await new Promise((resolve) => setTimeout(resolve, 2 * FAST.pingIntervalMs))
      const leftAt = performance.now()
      await leaveUp()
      // While it connects.
      await listener.subscribe(mail)()
      expect(performance.now() - leftAt).toBeLessThan(1_500)
      expect(mail.told).toEqual(['up', 'wake'])
    },
  )
})

describe('healing', () => {
  it('reconnects when the server ends the session, tells it, and wakes once [SHARED-12]', async () => {
    const mail = subscriber('mail')
    listenerOn(database.db).subscribe(mail)
    await mail.next('wake')
    await database.sql`select pg_terminate_backend(${await theListeningSession()})`
    await mail.next('up')
    await mail.next('wake')
    expect(mail.told).toEqual(['up', 'wake', 'down', 'up', 'wake'])
    expect(isApalisError(mail.causes[0], 'NOTIFY_LISTENER')).toBe(true)
  })

  it.each(['postgres.js', 'node-postgres'])('finds a %s connection that swallows everything', async (driver) => {
    const proxy = await startProxy(database.url)
    endings.push(() => proxy.stop())
    const mail = subscriber('mail')
    listenerOn(connectWith(driver, proxy.url), { ...FAST, openTimeoutMs: 500 }).subscribe(mail)
    await mail.next('wake')
    proxy.swallow()
    await mail.next('down')
    expect(String(mail.causes[0])).toMatch(/did not come back/)
    proxy.restore()
    await mail.next('wake')
    await announce('{"job_type": "mail"}')
    await mail.next('wake')
  })

  it('gives up an attempt that gets no answer, and goes on', async () => {
    const proxy = await startProxy(database.url)
    endings.push(() => proxy.stop())
    proxy.swallow()
    const mail = subscriber('mail')
    listenerOn(connectWith('postgres.js', proxy.url), { ...FAST, openTimeoutMs: 200 }).subscribe(mail)
    await mail.next('down')
    expect(String(mail.causes[0])).toMatch(/did not answer in time/)
    proxy.restore()
    await mail.next('wake')
    expect(mail.told).toEqual(['down', 'up', 'wake'])
  })

  it('waits longer and longer between attempts, also when each one gets as far as listening', async () => {
    const attempts: number[] = []
    let lose: () => void = () => undefined
    const listener = new Listener(
      (channels, _signal, { onClosed }) => {
        if (channels.length > 0) {
          attempts.push(performance.now())
          lose = () => onClosed(new Error('closed'))
        }
        const execute = () => {
          lose()
          return new Promise(() => undefined)
        }
        return Promise.resolve({ execute, close: () => Promise.resolve() })
      },
      { ...FAST, firstRetryMs: 20, maxRetryMs: 10_000 },
    )
    endings.push(() => listener.close())
    listener.subscribe(subscriber('mail'))
    await expect.poll(() => attempts.length, { interval: 5 }).toBeGreaterThanOrEqual(4)
    // 20, 40 and 80 ms, less half for the jitter.
    expect(attempts[3]! - attempts[0]!).toBeGreaterThanOrEqual(70)
  })

  it('says of each address of a host why it did not answer', async () => {
    const refused = ['::1', '127.0.0.1'].map((address) => new Error(`connect ECONNREFUSED ${address}:5432`))
    const listener = new Listener(() => Promise.reject(new AggregateError(refused)), FAST)
    endings.push(() => listener.close())
    const mail = subscriber('mail')
    listener.subscribe(mail)
    await mail.next('down')
    expect(String(mail.causes[0])).toContain(
      'off: connect ECONNREFUSED ::1:5432; connect ECONNREFUSED 127.0.0.1:5432. Tasks',
    )
  })

  it('goes on trying when the very first attempt fails, and says so once', async () => {
    const proxy = await startProxy(database.url)
    const port = Number(new URL(proxy.url).port)
    await proxy.stop()
    const mail = subscriber('mail')
    const { db } = database.connect({ host: '127.0.0.1', port })
    listenerOn(db).subscribe(mail)
    await mail.next('down')
    endings.unshift(await forward(port, new URL(database.url)))
    await mail.next('wake')
    expect(mail.told).toEqual(['down', 'up', 'wake'])
  })
})

describe('drivers', () => {
  it('node-postgres listens and reconnects too', async () => {
    const pool = new pg.Pool({ connectionString: database.url, max: 2 })
    endings.push(() => pool.end())
    const mail = subscriber('mail')
    listenerOn(drizzle({ client: pool })).subscribe(mail)
    await mail.next('wake')
    await database.sql`select pg_terminate_backend(${await theListeningSession()})`
    await mail.next('up')
    await mail.next('wake')
    await announce('{"job_type": "mail"}')
    await mail.next('wake')
    expect(mail.told).toEqual(['up', 'wake', 'down', 'up', 'wake', 'wake'])
  })

  it('one without LISTEN has no listener', () => {
    expect(listenOpener({ $client: { query: () => undefined } } as unknown as Db)).toBeUndefined()
  })
})
