/** Shows that workers live through restarts of their server, short ones and such as last longer than they may be silent. */
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { setup } from 'apalis-drizzle'
import { expect, inject, it, onTestFinished } from 'vitest'
import { startOwnServer, type OwnServer } from '../support/own-server.js'
import { createRuns, crew, LONG_MS, tell, type Member, type Site } from './crew.js'

async function ownSite(): Promise<{ server: OwnServer; site: Site }> {
  const server = await startOwnServer()
  const sql = postgres(server.url, { max: 2, onnotice: () => undefined })
  onTestFinished(() => sql.end({ timeout: 1 }))
  const db = drizzle({ client: sql })
  await setup(db)
  await createRuns({ sql })
  return { server, site: { url: server.url, db, sql } }
}

const swept = (members: readonly Member[]) =>
  members.flatMap(({ lines }) => lines.filter((line) => line.includes('"orphan.swept"')))

const RESTARTS = 5 * inject('scale')
const TASKS = 150 * (RESTARTS + 1)

it(
  `${TASKS} tasks finish in their first attempt although the server is restarted ${RESTARTS} times`,
  { timeout: LONG_MS },
  async () => {
    const { server, site } = await ownSite()
    const mailers = crew(site, 'restarted')
    await mailers.push(TASKS, 5)
    // Long enough for a server to come back, also on a busy machine.
    const options = { reenqueueOrphanedAfterMs: 20_000 }
    const members = [await mailers.start(options), await mailers.start(options)]
    for (let restart = 1; restart <= RESTARTS; restart++) {
      await mailers.untilFinished(restart * 150)
      await server.stop()
      await server.start()
    }
    await mailers.untilFinished(TASKS)
    for (const member of members) await member.stop()

    const tasks = await mailers.tasks()
    expect(tasks.filter(({ status, attempts, runs }) => status !== 'Done' || attempts !== 1 || runs !== 1)).toEqual([])
    expect(swept(members)).toEqual([])
    tell(`${TASKS} tasks, ${RESTARTS} restarts of the server: one execution each`)
  },
)

it(
  'an outage longer than the threshold takes no task from its worker and charges none',
  { timeout: 120_000 },
  async () => {
    const { server, site } = await ownSite()
    const mailers = crew(site, 'away')
    await mailers.push(60, 4_000)
    const options = { concurrency: 10, bufferSize: 10, reenqueueOrphanedAfterMs: 1_000 }
    const members = [await mailers.start(options), await mailers.start(options), await mailers.start(options)]
    for (const member of members) await member.next('task.claimed')
    await server.stop()
    // Each of them knows that the others may take over by now.
    for (const member of members) await member.next('heartbeat.lost')
    await server.start()
    await mailers.untilFinished(60)
    for (const member of members) await member.stop()

    expect(swept(members)).toEqual([])
    const tasks = await mailers.tasks()
    expect(tasks.filter(({ status, attempts }) => status !== 'Done' || attempts !== 1)).toEqual([])
  },
)
