/** The plan of a statement, as the library really sends it. */
import { drizzle } from 'drizzle-orm/postgres-js'
import type { Db } from '../../src/vocabulary/db.js'
import type { TestDatabase } from './database.js'

interface PlanNode {
  readonly 'Node Type': string
  readonly 'Relation Name'?: string
  readonly 'Index Name'?: string
  readonly 'Actual Rows': number
  readonly 'Actual Loops': number
  readonly 'Shared Hit Blocks': number
  readonly 'Shared Read Blocks': number
  readonly Plans?: readonly PlanNode[]
}

export interface Plan {
  /** Pages that the statement touched, without those of its foreign-key checks. */
  readonly buffers: number
  /** The nodes that were executed, such as `Index Scan jobs_pkey`, `Seq Scan jobs`, `Limit`. */
  readonly nodes: readonly string[]
  /** The most rows that one node has passed on. */
  readonly widest: number
  readonly text: string
}

/**
 * Runs what `call` sends in a transaction that is rolled back, once to learn its text and once to explain it.
 *
 * @param before - Statements of the transaction, such as settings of the planner.
 */
export async function explain(
  database: TestDatabase,
  call: (db: Db) => Promise<unknown>,
  ...before: string[]
): Promise<Plan> {
  const { client } = database.connect({ max: 1 })
  const queries: { text: string; parameters: unknown[] }[] = []
  const db = drizzle({ client, logger: { logQuery: (text, parameters) => queries.push({ text, parameters }) } })

  await client.unsafe('begin')
  await call(db as unknown as Db)
  await client.unsafe('rollback; deallocate all')
  const [query] = queries
  if (query === undefined || queries.length > 1) throw new Error(`${queries.length} statements, not one`)

  await client.unsafe('begin')
  for (const statement of before) await client.unsafe(statement)
  await client.unsafe(`prepare explained as ${query.text}`)
  const parameters = query.parameters.map((value) => literal(value as string | number | null)).join(', ')
  const [row] = await client.unsafe(`explain (analyze, buffers, format json) execute explained(${parameters})`)
  await client.unsafe('rollback')
  const [{ Plan: root }] = row?.['QUERY PLAN'] as [{ Plan: PlanNode }]
  const executed = nodesOf(root).filter((node) => node['Actual Loops'] > 0)
  return {
    buffers: root['Shared Hit Blocks'] + root['Shared Read Blocks'],
    nodes: executed.map(describe),
    widest: Math.max(...executed.filter(returnsRows).map((node) => node['Actual Rows'] * node['Actual Loops'])),
    text: JSON.stringify(root, null, 1),
  }
}

function literal(value: string | number | null): string {
  return value === null ? 'null' : `'${String(value).replaceAll("'", "''")}'`
}

function nodesOf(node: PlanNode): PlanNode[] {
  return [node, ...(node.Plans ?? []).flatMap(nodesOf)]
}

/** What a bitmap collects are entries, also those of dead rows. */
function returnsRows(node: PlanNode): boolean {
  return node['Node Type'] !== 'Bitmap Index Scan'
}

function describe(node: PlanNode): string {
  return [node['Node Type'], node['Index Name'] ?? node['Relation Name']].filter(Boolean).join(' ')
}
