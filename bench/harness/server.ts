/** The server, and a database on it for each side. */
import { randomBytes } from 'node:crypto'
import postgres, { type Sql } from 'postgres'
import { startPostgres } from '../../scripts/postgres-server.ts'
import type { Side, SideName } from '../side.ts'
import { loadSide } from '../sides/index.ts'
import { CREATE_ORDERS } from './orders.ts'

/**
 * Of a temporary server. Durable as PostgreSQL is by default; with enough memory, and so much room between checkpoints that
 * none falls into a measurement: one is made before each.
 */
const SETTINGS = {
  fsync: 'on',
  full_page_writes: 'on',
  synchronous_commit: 'on',
  shared_buffers: '1GB',
  max_wal_size: '8GB',
  checkpoint_timeout: '1h',
}

export interface Database {
  readonly side: Side
  readonly url: string
  /** A connection for counting and cleaning. */
  readonly sql: Sql
}

export class Server {
  readonly #stop: () => Promise<void>
  readonly #root: Sql
  readonly #url: string
  readonly #prefix = `apalis_bench_${randomBytes(4).toString('hex')}`
  readonly #databases = new Map<string, { name: string; database: Database }>()

  private constructor(url: string, stop: () => Promise<void>) {
    this.#url = url
    this.#stop = stop
    this.#root = connect(url)
  }

  static async start(): Promise<Server> {
    const server = await startPostgres(SETTINGS)
    return new Server(server.url, () => server.stop())
  }

  /** @param variant - For a second database of the same side. */
  async database(side: SideName, variant = 'main'): Promise<Database> {
    const key = `${side} ${variant}`
    const known = this.#databases.get(key)
    if (known !== undefined) return known.database
    const name = `${this.#prefix}_${this.#databases.size}`
    await this.#root`create database ${this.#root(name)} template template0`
    const url = new URL(this.#url)
    url.pathname = `/${name}`
    const database = { side: await loadSide(side), url: url.href, sql: connect(url.href) }
    this.#databases.set(key, { name, database })
    await database.sql.unsafe(CREATE_ORDERS)
    await database.side.setup(url.href)
    return database
  }

  /** What the figures depend on. */
  async describe(): Promise<string> {
    const names = [...Object.keys(SETTINGS), 'wal_level', 'autovacuum', 'jit']
    const rows = await this.#root<{ name: string; setting: string }[]>`
      select name, current_setting(name) as setting from pg_settings where name in ${this.#root(names)} order by name`
    const [version] = await this.#root<[{ version: string }]>`select current_setting('server_version') as version`
    return `PostgreSQL ${version.version} (${rows.map(({ name, setting }) => `${name} ${setting}`).join(', ')})`
  }

  async stop(): Promise<void> {
    for (const { name, database } of this.#databases.values()) {
      await database.sql.end()
      await this.#root`drop database if exists ${this.#root(name)} with (force)`
    }
    await this.#root.end()
    await this.#stop()
  }
}

/** Before a measurement: statistics as autovacuum keeps them, and no writes left over from the preparations. */
export async function settle({ side, sql }: Database): Promise<void> {
  await sql`vacuum (analyze) ${sql(side.table)}`
  await sql`checkpoint`
}

function connect(url: string): Sql {
  return postgres(url, { max: 1, onnotice: () => undefined })
}
