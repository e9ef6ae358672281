import { expect, it } from 'vitest'
import { runModel } from './model/run-model.js'
import { useDatabase } from './support/database.js'

const database = useDatabase()

it(
  'whatever workers, sweeps and operators do in whatever order, the rows are as they should be',
  { timeout: 120_000 },
  async () => {
    const changes = await runModel(database, 100)
    for (const change of CHANGES) expect(changes.get(change) ?? 0, change).toBeGreaterThan(0)
  },
)

/** Without these the steps would have shown nothing. */
const CHANGES = [
  'Pending to Running',
  'Pending to Queued',
  'Queued to Running',
  'Queued to Pending',
  'Running to Pending',
  'Running to Done',
  'Running to Failed',
  'Running to Killed',
  'Failed to Running',
]
