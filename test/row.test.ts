/**
 * Shows what is made of a stored row, and of rows that other programs have left in no good shape.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import { claim } from '../src/statements/claim.js'
import type { Db } from '../src/vocabulary/db.js'
import { isApalisError } from '../src/vocabulary/errors.js'
import { taskFields, type TaskRow } from '../src/vocabulary/row.js'
import { useDatabase } from './support/database.js'
import { clearTasks, rowOf, storeTask, storeWorker, taskId } from './support/rows.js'

const row: TaskRow = {
  id: taskId(1),
  status: 'Running',
  attempts: 2,
  maxAttempts: 5,
  priority: 3,
  runAt: new Date('2031-02-03T04:05:06.789Z'),
  metadata: '{"snake_case": {"camelCase": [1, null]}}',
  idempotencyKey: 'key',
}

describe('taskFields', () => {
  it('carries the columns over [READ-24] [READ-29]', () => {
    expect(taskFields('emails', row)).toEqual({
      id: taskId(1),
      queue: 'emails',
      status: 'Running',
      attempts: 2,
      maxAttempts: 5,
      priority: 3,
      runAt: new Date('2031-02-03T04:05:06.789Z'),
      metadata: { snake_case: { camelCase: [1, null] } },
      idempotencyKey: 'key',
    })
  })

  it('makes an object of absent metadata and leaves an absent key absent [READ-29]', () => {
    const fields = taskFields('emails', { ...row, metadata: null, idempotencyKey: null })
    expect(fields).toMatchObject({ metadata: {}, idempotencyKey: null })
  })

  it.each(['[1, 2]', '"text"', '7', 'null', 'true'])('takes metadata that is no object for none: %s', (metadata) => {
    expect(taskFields('emails', { ...row, metadata }).metadata).toEqual({})
  })

  it('keeps a key of metadata that is a word of JavaScript', () => {
    const { metadata } = taskFields('emails', { ...row, metadata: '{"__proto__": {"a": 1}}' })
    expect(Object.getPrototypeOf(metadata)).toBe(Object.prototype)
    expect(Object.keys(metadata)).toEqual(['__proto__'])
  })

  it.each([
    [-1, 0],
    [0, 0],
    [7, 7],
    [2_147_483_647, 2_147_483_647],
  ])('reads numbers of %i as %i [READ-28]', (stored, read) => {
    const fields = taskFields('emails', { ...row, attempts: stored, maxAttempts: stored, priority: stored })
    expect(fields).toMatchObject({ attempts: read, maxAttempts: read, priority: read })
  })

  it('reads an absent priority as the default, 0 [READ-28]', () => {
    expect(taskFields('emails', { ...row, priority: null }).priority).toBe(0)
  })

  it.each<[string, Partial<TaskRow>, string]>([
    ['no due time [READ-25]', { runAt: null }, 'run_at'],
    ['a due time that is no time [READ-25]', { runAt: new Date(Number.NaN) }, 'run_at'],
    ['an unknown status [READ-26]', { status: 'Paused' }, 'status'],
    ['a status in other letters [READ-26]', { status: 'pending' }, 'status'],
    ['an id that is no ULID [READ-27]', { id: '4e2f1a3c-0000-4000-8000-000000000000' }, 'id'],
    ['an empty id [READ-27]', { id: '' }, 'id'],
    ['an id in small letters [READ-27]', { id: taskId(1).toLowerCase() }, 'id'],
  ])('refuses a row with %s, and names the column but nothing of the row', (_, change, column) => {
    const error = thrownBy(() => taskFields('emails', { ...row, ...change }))
    expect(isApalisError(error, 'ROW') && error.column).toBe(column)
    expect((error as Error).message).toContain(column)
    for (const value of ['Paused', '4e2f1a3c', 'camelCase']) expect((error as Error).message).not.toContain(value)
  })
})

describe('a claimed row', () => {
  const database = useDatabase()
  const { queue, worker } = { queue: 'emails', worker: 'mailer#1' }

  beforeEach(async () => {
    await clearTasks(database.sql)
    await storeWorker(database.sql, { id: worker, queue })
  })

  async function claimAll() {
    const request = { queue, worker, leaseToken: `token of ${worker}`, thresholdMs: 60_000, limit: 10, running: 10 }
    return claim(database.db as unknown as Db, request)
  }

  it('becomes a task of its owner, with its payload [READ-24]', async () => {
    const task = { id: taskId(1), queue, job: '{"to":"a"}', attempts: 1, priority: 2, idempotencyKey: 'key' }
    await storeTask(database.sql, { ...task, metadata: { trace: 'abc' } })
    const [claimed] = await claimAll()
    if (claimed === undefined) throw new Error('The task was not claimed.')
    expect(new TextDecoder().decode(claimed.job)).toBe('{"to":"a"}')
    const stored = await rowOf(database.sql, taskId(1))
    expect(stored).toMatchObject({ lock_by: worker })
    expect(taskFields(queue, claimed)).toEqual({
      id: taskId(1),
      queue,
      status: 'Running',
      attempts: 1,
      maxAttempts: 5,
      priority: 2,
      runAt: stored?.['run_at'] as Date,
      metadata: { trace: 'abc' },
      idempotencyKey: 'key',
    })
  })

  it('due at -infinity is claimed with its siblings and refused alone, for its run_at [READ-25]', async () => {
    await storeTask(database.sql, { id: taskId(1), queue })
    await storeTask(database.sql, { id: taskId(2), queue })
    await database.sql`update apalis.jobs set run_at = '-infinity' where id = ${taskId(1)}`
    const [odd, sibling] = await claimAll()
    expect([odd?.id, sibling?.id]).toEqual([taskId(1), taskId(2)])
    const error = thrownBy(() => odd && taskFields(queue, odd))
    expect(isApalisError(error, 'ROW') && error.column).toBe('run_at')
    expect(sibling && taskFields(queue, sibling)).toMatchObject({ id: taskId(2) })
  })

  it('due at the first time that PostgreSQL knows is read as such', async () => {
    await storeTask(database.sql, { id: taskId(1), queue })
    await database.sql`update apalis.jobs set run_at = '4713-01-01 BC'::timestamptz`
    const [ancient] = await claimAll()
    const [row] = await database.sql<[{ ms: number }]>`
      select (extract(epoch from run_at) * 1000)::float8 as ms from apalis.jobs`
    expect(ancient && taskFields(queue, ancient).runAt).toEqual(new Date(row.ms))
  })

  it('due at infinity is never claimed', async () => {
    await storeTask(database.sql, { id: taskId(1), queue })
    await database.sql`update apalis.jobs set run_at = 'infinity'`
    expect(await claimAll()).toEqual([])
  })

  it('whose id another program made up is refused alone [READ-27]', async () => {
    await storeTask(database.sql, { id: 'made up by hand', queue })
    await storeTask(database.sql, { id: taskId(2), queue })
    const claimed = await claimAll()
    expect(claimed.map(({ id }) => id).toSorted()).toEqual([taskId(2), 'made up by hand'])
    for (const one of claimed) {
      if (one.id === taskId(2)) expect(taskFields(queue, one)).toMatchObject({ id: taskId(2) })
      else
        expect(
          isApalisError(
            thrownBy(() => taskFields(queue, one)),
            'ROW',
          ),
        ).toBe(true)
    }
  })
})

function thrownBy(run: () => unknown): unknown {
  try {
    run()
  } catch (error) {
    return error
  }
  throw new Error('Nothing was thrown.')
}
