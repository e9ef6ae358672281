/** What a scenario works with. */
import type { SideName } from '../side.ts'
import type { Metric } from './metric.ts'
import { Remote } from './remote.ts'
import type { Database, Server } from './server.ts'

export interface Scenario {
  /** Of its metrics. */
  readonly ids: readonly string[]
  run(bench: Bench): Promise<readonly Metric[]>
}

export interface Options {
  readonly rounds: number
  /** Of the numbers of tasks and of the times, for development. */
  readonly scale: number
  /** Whether a round that does not count comes first. */
  readonly warmUp: boolean
}

export interface Running {
  readonly database: Database
  readonly processes: readonly Remote[]
}

type Measured = Readonly<Record<string, number>>

export class Bench {
  readonly server: Server
  readonly #options: Options
  readonly #log: (line: string) => void
  readonly #processes: Remote[] = []

  constructor(server: Server, options: Options, log: (line: string) => void) {
    this.server = server
    this.#options = options
    this.#log = log
  }

  /** A number of tasks or milliseconds under the scale of this run, a whole multiple of `step`. */
  scaled(full: number, step = 1): number {
    return Math.max(Math.round((full * this.#options.scale) / step), 1) * step
  }

  /** Starts a process, which ends with the scenario. */
  process(side: SideName, url: string): Remote {
    const remote = new Remote(side, url)
    this.#processes.push(remote)
    return remote
  }

  /** A database for each side, and processes that end with the scenario. */
  async processes<S extends SideName>(sides: readonly S[], each = 1): Promise<Record<S, Running>> {
    const entries: [S, Running][] = []
    for (const side of sides) {
      const database = await this.server.database(side)
      const processes = Array.from({ length: each }, () => this.process(side, database.url))
      entries.push([side, { database, processes }])
    }
    return Object.fromEntries(entries) as Record<S, Running>
  }

  /**
   * Measures the sides in turns, each round beginning with another one, so that what else the machine does meets all of
   * them.
   *
   * @param options - Of this scenario, instead of those of the run.
   * @returns By name of what was measured, and by side, a value for each round.
   */
  async inRounds<S extends SideName>(
    sides: readonly S[],
    measure: (side: S, round: number) => Promise<Measured>,
    options: Partial<Options> = {},
  ): Promise<(name: string) => Map<SideName, number[]>> {
    const measured: { side: SideName; values: Measured }[] = []
    const { rounds, warmUp } = { ...this.#options, ...options }
    for (let round = warmUp ? 0 : 1; round <= rounds; round++) {
      for (const index of sides.keys()) {
        const side = sides[(index + round) % sides.length]!
        const values = await measure(side, round)
        this.#log(`  ${round === 0 ? 'warm-up' : `round ${round}`}  ${side.padEnd(16)} ${inWords(values)}`)
        if (round > 0) measured.push({ side, values })
      }
    }
    return (name) =>
      new Map(
        sides.map((side) => [side, measured.filter((one) => one.side === side).map(({ values }) => values[name]!)]),
      )
  }

  async end(): Promise<void> {
    await Promise.all(this.#processes.splice(0).map((remote) => remote.end()))
  }
}

function inWords(values: Measured): string {
  return Object.entries(values)
    .map(([name, value]) => `${name} ${value < 100 ? value.toFixed(2) : value.toFixed(0)}`)
    .join(', ')
}
