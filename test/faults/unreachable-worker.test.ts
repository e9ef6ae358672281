/** Shows what becomes of the tasks of a worker that lives and reaches nobody: others take over, and what it says later counts for nothing. */
import { beforeAll, expect, it, onTestFinished } from 'vitest'
import { useDatabase } from '../support/database.js'
import { startProxy } from '../support/proxy.js'
import { createRuns, crew } from './crew.js'

const database = useDatabase()
beforeAll(() => createRuns(database))

it(
  'a worker whose connections swallow every byte loses its tasks to another, and takes part again afterwards',
  { timeout: 60_000 },
  async () => {
    const proxy = await startProxy(database.url)
    onTestFinished(() => proxy.stop())
    const behindProxy = crew(database, 'black hole', { url: proxy.url })
    const direct = crew(database, 'black hole')
    await direct.push(10, 3_000)
    const cutOff = await behindProxy.start({ concurrency: 10 })
    await direct.untilStarted(10)
    proxy.swallow()
    await cutOff.next('heartbeat.lost')
    const other = await direct.start({ concurrency: 10 })
    await other.next('orphan.swept')
    await direct.untilFinished(10)
    proxy.restore()
    await cutOff.next('heartbeat.regained')

    const tasks = await direct.tasks()
    expect(tasks.filter(({ status, attempts, runs }) => status !== 'Done' || attempts !== 2 || runs !== 2)).toEqual([])
    await other.stop()
    await direct.push(1, 0)
    await cutOff.next('task.done')
    await cutOff.stop()
  },
)

it(
  'a worker that was frozen for longer than the threshold changes nothing when it wakes up',
  { timeout: 60_000 },
  async () => {
    const mailers = crew(database, 'frozen', { effects: true })
    await mailers.push(10, 1_000)
    const frozen = await mailers.start({ concurrency: 10 })
    await mailers.untilStarted(10)
    frozen.child.kill('SIGSTOP')
    const other = await mailers.start({ concurrency: 10 })
    await mailers.untilFinished(10)
    const before = await mailers.tasks()
    frozen.child.kill('SIGCONT')
    // Whether its heartbeat comes in time after all is chance; what it held is gone in either case.
    for (let n = 0; n < 10; n++) await frozen.next('task.stale')

    const wrong = before.filter(({ status, attempts, effects }) => status !== 'Done' || attempts !== 2 || effects !== 1)
    expect(wrong).toEqual([])
    expect(await mailers.tasks()).toEqual(before)
    await other.stop()
    await frozen.stop()
    expect(frozen.lines.filter((line) => line.includes('"task.done"'))).toEqual([])
  },
)

it('a name that two processes want belongs to one of them at a time', { timeout: 60_000 }, async () => {
  const mailers = crew(database, 'one name')
  const options = { name: 'mailer#7', concurrency: 5 }
  const first = await mailers.start(options)
  await expect(mailers.start(options)).rejects.toThrow('mailer#7')
  await mailers.push(5, 500)
  await first.next('task.claimed')
  first.child.kill('SIGSTOP')
  const second = await startWhenFree()
  await mailers.untilFinished(5)
  first.child.kill('SIGCONT')
  await first.next('heartbeat.lost')
  await mailers.push(200, 5)
  await mailers.untilFinished(205)
  await second.stop()
  await first.next('heartbeat.regained')
  await first.stop()

  const tasks = await mailers.tasks()
  expect(tasks.filter(({ status }) => status !== 'Done')).toEqual([])
  expect(tasks.filter(({ attempts }) => attempts > 2)).toEqual([])

  /** A full name is refused until its holder has been silent for the threshold. */
  async function startWhenFree() {
    for (;;) {
      const member = await mailers.start(options).catch(() => undefined)
      if (member !== undefined) return member
    }
  }
})
