import { expect, inject, it } from 'vitest'
import { runModel } from './model/run-model.js'
import { useDatabase } from './support/database.js'

const database = useDatabase()
/** Most of the time of a long run goes to the tests of faults, so there may be more of these. */
const RUNS = inject('scale') > 1 ? 2_000 : 100

it(
  'whatever workers, sweeps and operators do in whatever order, the rows are as they should be',
  { timeout: 600_000 },
  async () => {
    const changes = await runModel(database, RUNS)
    const expected = RUNS > 100 ? [...CHANGES, ...RARE_CHANGES] : CHANGES
    for (const change of expected) expect(changes.get(change) ?? 0, change).toBeGreaterThan(0)
  },
)

/** Without these the steps would have shown nothing. */
const CHANGES = [
  'Pending to Running',
  'Pending to Queued',
  'Queued to Pending',
  'Running to Pending',
  'Running to Done',
  'Running to Failed',
  'Running to Killed',
  'Failed to Running',
  'Pending to Killed',
  'Queued to Killed',
  'Killed to Pending',
]

/** Of a short run there may be one without these. */
const RARE_CHANGES = ['Queued to Running', 'Failed to Killed']
