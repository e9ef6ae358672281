/**
 * Shows who gets a worker name, what the heartbeat needs and tells, and how a name becomes free again.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import { namesToTry, newLeaseToken, registerWorker, releaseWorker } from '../src/processes/registration.js'
import { heartbeat } from '../src/statements/heartbeat.js'
import { namesInUse, register, release } from '../src/statements/register.js'
import type { Db } from '../src/vocabulary/db.js'
import { isApalisError } from '../src/vocabulary/errors.js'
import { useDatabase } from './support/database.js'
import { hold } from './support/held.js'
import { clearTasks, rowOf, storeTask, storeTasks, storeWorker, taskId, workerRow } from './support/rows.js'
import { serverHasRunForASecond, uptimeMs } from './support/uptime.js'

const database = useDatabase()
const { queue, worker } = { queue: 'emails', worker: 'mailer#1' }
/** So long that no test outlasts it. */
const thresholdMs = 300_000
/** The longest that a setting may be. */
const LONGEST_MS = 2 ** 31 - 1
/** So short that the server has run for longer, and its start protects nobody. */
const SHORT_MS = 1_000

beforeEach(async () => {
  await clearTasks(database.sql)
  await serverHasRunForASecond(database.sql)
})

const db = () => database.db as unknown as Db

/** The ids of the tasks taken back with the name. */
async function take(name = worker, leaseToken = 'mine', threshold = thresholdMs, within: unknown = database.db) {
  const registration = { queue, worker: name, leaseToken, storageName: 'DrizzleStorage', layers: 'layers' }
  const orphans = await register(within as Db, { ...registration, thresholdMs: threshold })
  return orphans?.map(({ id }) => id)
}

async function start(name: string): Promise<string> {
  const request = { queue, name, leaseToken: newLeaseToken(), layers: '', thresholdMs }
  return (await registerWorker(db(), request)).worker
}

describe('register: who gets the name', () => {
  it('anybody, when nobody had it [REG-01]', async () => {
    expect(await take()).toEqual([])
    const row = await workerRow(database.sql, worker, queue)
    expect(row).toEqual({
      id: worker,
      worker_type: queue,
      storage_name: 'DrizzleStorage',
      layers: 'layers',
      last_seen: expect.any(Date) as Date,
      started_at: row?.['last_seen'] as Date,
      lease_token: 'mine',
    })
  })

  it('the process that has it already [REG-03]', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: 'mine', silentFor: '500 milliseconds' })
    const before = await workerRow(database.sql, worker, queue)
    expect(await take()).toEqual([])
    const after = await workerRow(database.sql, worker, queue)
    expect(after).toMatchObject({ lease_token: 'mine', layers: 'layers', started_at: null })
    expect(Number(after?.['last_seen'])).toBeGreaterThan(Number(before?.['last_seen']))
  })

  it('nobody else while its process lives [REG-04]', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: 'theirs' })
    const before = await workerRow(database.sql, worker, queue)
    expect(await take()).toBeUndefined()
    expect(await workerRow(database.sql, worker, queue)).toEqual(before)
  })

  it('anybody, once its process was silent for the threshold [REG-05]', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: 'theirs', silentFor: '1 hour' })
    expect(await take(worker, 'mine', 7_200_000)).toBeUndefined()
    expect(await take(worker, 'mine', SHORT_MS)).toEqual([])
    expect(await workerRow(database.sql, worker, queue)).toMatchObject({ lease_token: 'mine' })
  })

  it('anybody, to the millisecond, with the shortest threshold that a worker may have [NEXT-06]', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: 'theirs' })
    // Within a transaction now() stands still.
    await database.db.transaction(async (tx) => {
      await tx.execute(`update apalis.workers set last_seen = now() - interval '999 milliseconds'`)
      expect(await take(worker, 'mine', 1_000, tx)).toBeUndefined()
      await tx.execute(`update apalis.workers set last_seen = now() - interval '1000 milliseconds'`)
      expect(await take(worker, 'mine', 1_000, tx)).toEqual([])
    })
  })

  it('nobody, while the server runs for less than the threshold: all heartbeats are from before its start', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: 'theirs', silentFor: '1 year' })
    await database.sql`update apalis.workers set last_seen = pg_postmaster_start_time() - interval '1 day'`
    const uptime = await uptimeMs(database.sql)
    expect(await take(worker, 'mine', uptime + 3_600_000)).toBeUndefined()
    expect(await take(worker, 'mine', uptime)).toEqual([])
  })

  it('anybody, when an administrator registered it long ago [REG-02]', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: null, silentFor: '1 hour' })
    expect(await take()).toEqual([])
    expect(await workerRow(database.sql, worker, queue)).toMatchObject({ lease_token: 'mine' })
  })

  it('nobody, when an administrator registered it just now; his consumer keeps its task [NEXT-15]', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: null })
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: worker })
    const before = await rowOf(database.sql, taskId(1))
    expect(await take()).toBeUndefined()
    expect(await workerRow(database.sql, worker, queue)).toMatchObject({ lease_token: null })
    expect(await rowOf(database.sql, taskId(1))).toEqual(before)

    await database.sql`update apalis.workers set last_seen = now() - interval '1 hour'`
    expect(await take()).toEqual([taskId(1)])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Pending', attempts: 1, lock_by: null })
  })

  it('nobody, while another process is taking it this very moment', async () => {
    const held = await hold(database.sql, `select pg_advisory_xact_lock(hashtext('${worker}'), hashtext('${queue}'))`)
    expect(await take()).toBeUndefined()
    await held.release()
    expect(await take()).toEqual([])
  })

  it('one process in each queue', async () => {
    await storeWorker(database.sql, { id: worker, queue: 'other', leaseToken: 'theirs' })
    expect(await take()).toEqual([])
  })
})

describe('register: the tasks of the predecessor', () => {
  it('return with the name: charged if Running, uncharged if Queued', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: null, silentFor: '1 hour' })
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: worker })
    await storeTask(database.sql, { id: taskId(2), queue, status: 'Queued', lockBy: worker })
    await storeTask(database.sql, { id: taskId(3), queue, status: 'Done', attempts: 1, lockBy: worker })
    expect((await take())?.toSorted()).toEqual([taskId(1), taskId(2)])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Pending', attempts: 1, lock_by: null })
    expect(await rowOf(database.sql, taskId(2))).toMatchObject({ status: 'Pending', attempts: 0, lock_by: null })
    expect(await rowOf(database.sql, taskId(3))).toMatchObject({ status: 'Done', attempts: 1, lock_by: worker })
  })

  it('stay with a process that registers again, even after it was silent', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: 'mine', silentFor: '1 hour' })
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: worker })
    expect(await take(worker, 'mine', SHORT_MS)).toEqual([])
    expect(await rowOf(database.sql, taskId(1))).toMatchObject({ status: 'Running', lock_by: worker, attempts: 0 })
  })

  it('return also to a process that has another name, or this one in another queue', async () => {
    await storeWorker(database.sql, { id: 'mailer#2', queue, leaseToken: 'mine' })
    await storeWorker(database.sql, { id: worker, queue: 'other', leaseToken: 'mine' })
    await storeWorker(database.sql, { id: worker, queue, leaseToken: 'theirs', silentFor: '1 hour' })
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: worker })
    expect(await take(worker, 'mine', SHORT_MS)).toEqual([taskId(1)])
  })

  it('stay when the name is refused, and so do those of others', async () => {
    await storeWorker(database.sql, { id: worker, queue })
    await storeWorker(database.sql, { id: worker, queue: 'other', silentFor: '1 hour' })
    await storeWorker(database.sql, { id: 'mailer#2', queue, leaseToken: null, silentFor: '1 hour' })
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', lockBy: worker })
    await storeTask(database.sql, { id: taskId(2), queue: 'other', status: 'Running', lockBy: worker })
    await storeTask(database.sql, { id: taskId(3), queue, status: 'Running', lockBy: 'mailer#2' })
    expect(await take()).toBeUndefined()
    await database.sql`update apalis.workers set last_seen = now() - interval '1 hour'`
    expect(await take(worker, 'mine', SHORT_MS)).toEqual([taskId(1)])
    expect(await rowOf(database.sql, taskId(2))).toMatchObject({ status: 'Running', lock_by: worker })
    expect(await rowOf(database.sql, taskId(3))).toMatchObject({ status: 'Running', lock_by: 'mailer#2' })
  })
})

describe('release', () => {
  it('frees the name at once, for whoever comes and whatever its threshold; without it the name stays taken [NEXT-28]', async () => {
    // Longer than the server has run for.
    const threshold = (await uptimeMs(database.sql)) + 3_600_000
    const request = { queue, name: worker, leaseToken: newLeaseToken(), layers: '', thresholdMs: threshold }
    const registration = await registerWorker(db(), request)
    const another = { ...request, leaseToken: newLeaseToken(), thresholdMs: LONGEST_MS }
    const refused: unknown = await registerWorker(db(), another).catch((error: unknown) => error)
    expect(isApalisError(refused, 'ALREADY_REGISTERED') && [refused.queue, refused.worker]).toEqual([queue, worker])

    await releaseWorker(db(), registration)
    expect(await workerRow(database.sql, worker, queue)).toMatchObject({ lease_token: null })
    expect((await registerWorker(db(), another)).worker).toBe(worker)
  })

  it('frees no other name of the process', async () => {
    for (const id of [worker, 'mailer#2']) await storeWorker(database.sql, { id, queue, leaseToken: 'mine' })
    expect(await release(db(), { queue, worker, leaseToken: 'mine' })).toBe(true)
    expect(await workerRow(database.sql, 'mailer#2', queue)).toMatchObject({ lease_token: 'mine' })
  })

  it('leaves the name to its present holder', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: 'theirs' })
    const before = await workerRow(database.sql, worker, queue)
    expect(await release(db(), { queue, worker, leaseToken: 'mine' })).toBe(false)
    expect(await release(db(), { queue: 'other', worker, leaseToken: 'theirs' })).toBe(false)
    expect(await workerRow(database.sql, worker, queue)).toEqual(before)
    expect(await release(db(), { queue, worker, leaseToken: 'theirs' })).toBe(true)
  })
})

describe('heartbeat', () => {
  it('renews the registration [BEAT-01]', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: 'mine', silentFor: '1 hour' })
    expect(await heartbeat(db(), queue, worker, 'mine')).toEqual({ registered: true, owned: [] })
    const [row] = await database.sql`select now() - last_seen < interval '10 seconds' as recent from apalis.workers`
    expect(row).toEqual({ recent: true })
  })

  it.each([
    ['there is no row [BEAT-02]', undefined],
    ['the row has no token [BEAT-03]', { id: worker, queue, leaseToken: null }],
    ['the row has another token [BEAT-04]', { id: worker, queue, leaseToken: 'theirs' }],
    ['the row is of another queue [BEAT-05]', { id: worker, queue: 'other', leaseToken: 'mine' }],
    ['the row is of another worker [BEAT-06]', { id: 'mailer#2', queue, leaseToken: 'mine' }],
  ])('says that the registration is gone when %s', async (_, stored) => {
    if (stored !== undefined) await storeWorker(database.sql, { ...stored, silentFor: '1 hour' })
    const before = await database.sql`select * from apalis.workers`
    expect(await heartbeat(db(), queue, worker, 'mine')).toEqual({ registered: false, owned: [] })
    expect(await database.sql`select * from apalis.workers`).toEqual(before)
  })

  it('tells which claims the database counts as its own', async () => {
    await storeWorker(database.sql, { id: worker, queue, leaseToken: 'mine' })
    await storeWorker(database.sql, { id: 'mailer#2', queue })
    await storeWorker(database.sql, { id: worker, queue: 'other' })
    await storeTask(database.sql, { id: taskId(1), queue, status: 'Running', attempts: 2, lockBy: worker })
    await storeTask(database.sql, { id: taskId(2), queue, status: 'Queued', lockBy: worker })
    await storeTask(database.sql, { id: taskId(3), queue, status: 'Done', attempts: 1, lockBy: worker })
    await storeTask(database.sql, { id: taskId(4), queue, status: 'Running', lockBy: 'mailer#2' })
    await storeTask(database.sql, { id: taskId(5), queue: 'other', status: 'Running', lockBy: worker })
    const { owned } = await heartbeat(db(), queue, worker, 'mine')
    const lockTimes = await database.sql<{ id: string; lockAt: number }[]>`
      select id, extract(epoch from lock_at)::float8 as "lockAt" from apalis.jobs where id in ${database.sql([taskId(1), taskId(2)])}`
    expect(owned.toSorted((a, b) => (a.id < b.id ? -1 : 1))).toEqual(
      lockTimes.map(({ id, lockAt }) => ({ id, attempts: id === taskId(1) ? 2 : 0, lockAt })),
    )
  })
})

describe('names of a base', () => {
  it('are counted up by those who live', async () => {
    expect([await start('mailer'), await start('mailer'), await start('mailer')]).toEqual([
      'mailer#1',
      'mailer#2',
      'mailer#3',
    ])
  })

  it('are all different when eight start at once', async () => {
    const names = await Promise.all(Array.from({ length: 8 }, () => start('mailer')))
    expect(new Set(names).size).toBe(8)
    expect(await database.sql`select id from apalis.workers`).toHaveLength(8)
  })

  it('are adopted by eight that start at once, each by one', async () => {
    for (let n = 1; n <= 8; n++)
      await storeWorker(database.sql, { id: `mailer#${n}`, queue, leaseToken: null, silentFor: '1 hour' })
    const names = await Promise.all(Array.from({ length: 8 }, () => start('mailer')))
    expect(new Set(names).size).toBe(8)
    // One that came too late for a name may have taken a new one, but no name has two holders.
    const rows = await database.sql`select id from apalis.workers where last_seen > now() - interval '1 minute'`
    expect(rows.map(({ id }) => id as string).toSorted()).toEqual(names.toSorted())
  })

  it('are adopted, the lowest of a dead process first', async () => {
    await storeWorker(database.sql, { id: 'mailer#1', queue })
    await storeWorker(database.sql, { id: 'mailer#2', queue, leaseToken: null, silentFor: '1 hour' })
    await storeWorker(database.sql, { id: 'mailer#10', queue, leaseToken: null, silentFor: '1 hour' })
    await storeWorker(database.sql, { id: 'mailer#4', queue, leaseToken: null, silentFor: '1 hour' })
    await storeTasks(database.sql, 2, { queue, status: 'Running', lockBy: 'mailer#2' })
    expect([await start('mailer'), await start('mailer'), await start('mailer'), await start('mailer')]).toEqual([
      'mailer#2',
      'mailer#4',
      'mailer#10',
      'mailer#3',
    ])
    expect(await database.sql`select id from apalis.jobs where status = 'Pending'`).toHaveLength(2)
  })

  it('are adopted at once when they were released', async () => {
    const leaseToken = newLeaseToken()
    const request = { queue, name: 'mailer', leaseToken, layers: '', thresholdMs }
    await releaseWorker(db(), await registerWorker(db(), request))
    expect(await start('mailer')).toBe('mailer#1')
    expect(await start('mailer')).toBe('mailer#2')
  })

  it('are of one queue', async () => {
    await storeWorker(database.sql, { id: 'mailer#1', queue: 'other' })
    expect(await start('mailer')).toBe('mailer#1')
  })

  it.each(['100%', 'a_b', 'back\\slash', 'with#hash', 'quote\'"', '%', '_', '🚀'])(
    'are told apart from those of bases that look like the pattern %s',
    async (base) => {
      for (const other of ['100x#1', 'axb#1', 'backslash#1', 'with#1', 'x#1', '#1', `${base}x#1`, `x${base}#1`]) {
        await storeWorker(database.sql, { id: other, queue })
      }
      expect(await namesInUse(db(), queue, base, 'mine', thresholdMs)).toEqual([])
      expect([await start(base), await start(base)]).toEqual([`${base}#1`, `${base}#2`])
      const names = (await namesInUse(db(), queue, base, 'mine', thresholdMs)).map(({ name }) => name)
      expect(names.toSorted()).toEqual([`${base}#1`, `${base}#2`])
    },
  )

  it('are tried in order: those of dead processes, gaps, new ones', () => {
    const inUse = [
      { name: 'w#5', stale: true, own: false },
      { name: 'w#2', stale: false, own: false },
      { name: 'w#1', stale: true, own: false },
      { name: 'w#x#1', stale: true, own: false },
      { name: 'w#03', stale: true, own: false },
    ]
    expect(namesToTry('w', inUse).slice(0, 5)).toEqual(['w#1', 'w#5', 'w#3', 'w#4', 'w#6'])
  })

  it.each([true, false])('begin with the one that the process has, stale (%s) or not', (stale) => {
    const inUse = [
      { name: 'w#1', stale: true, own: false },
      { name: 'w#2', stale, own: true },
    ]
    expect(namesToTry('w', inUse).slice(0, 3)).toEqual(['w#2', 'w#1', 'w#3'])
  })

  it('are kept by a process that registers again', async () => {
    await storeWorker(database.sql, { id: 'mailer#1', queue, leaseToken: null, silentFor: '1 hour' })
    await storeWorker(database.sql, { id: 'mailer#2', queue, leaseToken: 'mine', silentFor: '1 hour' })
    const registration = await registerWorker(db(), {
      queue,
      name: 'mailer',
      leaseToken: 'mine',
      layers: '',
      thresholdMs,
    })
    expect(registration).toMatchObject({ worker: 'mailer#2', takenBack: [] })
  })

  it('are refused as such: a full name stands for itself', async () => {
    await storeWorker(database.sql, { id: 'mailer#7', queue })
    const error: unknown = await start('mailer#7').catch((thrown: unknown) => thrown)
    expect(isApalisError(error, 'ALREADY_REGISTERED')).toBe(true)
    expect(await start('mailer#8')).toBe('mailer#8')
  })
})
