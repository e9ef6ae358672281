/** What a call of the library costs the database: its statements, caught on the way and explained. */
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import type { ParameterOrJSON, Sql } from 'postgres'

export interface Cost {
  /** Pages read, from memory or disk. */
  readonly buffers: number
  /** Of planning and execution, by the server's clock. */
  readonly ms: number
  /** Every node of the plans. */
  readonly nodes: readonly PlanNode[]
}

export interface PlanNode {
  readonly type: string
  readonly index: string | undefined
  readonly table: string | undefined
}

/**
 * @param client - Given to Drizzle, which changes its options.
 * @param sql - Another client of the same database, for the explanations.
 */
export async function cost(client: Sql, sql: Sql, call: (db: PostgresJsDatabase) => Promise<unknown>): Promise<Cost> {
  const statements: { text: string; params: unknown[] }[] = []
  const logger = { logQuery: (text: string, params: unknown[]) => statements.push({ text, params }) }
  await call(drizzle({ client, logger }))
  const costs: Cost[] = []
  const session = await sql.reserve()
  for (const { text, params } of statements) {
    // What it changes has been changed already.
    await session`begin`
    const [row] = await session.unsafe<{ 'QUERY PLAN': [Explanation] }[]>(
      `explain (analyze, buffers, timing off, format json) ${text}`,
      params as ParameterOrJSON<never>[],
    )
    await session`rollback`
    costs.push(costOf(row!['QUERY PLAN'][0]))
  }
  session.release()
  return {
    buffers: sum(costs.map(({ buffers }) => buffers)),
    ms: sum(costs.map(({ ms }) => ms)),
    nodes: costs.flatMap(({ nodes }) => nodes),
  }
}

interface Explanation {
  readonly Plan: Plan
  readonly 'Planning Time': number
  readonly 'Execution Time': number
}

interface Plan {
  readonly 'Node Type': string
  readonly 'Index Name'?: string
  readonly 'Relation Name'?: string
  readonly 'Shared Hit Blocks': number
  readonly 'Shared Read Blocks': number
  readonly Plans?: readonly Plan[]
}

function costOf({ Plan: root, 'Planning Time': planning, 'Execution Time': execution }: Explanation): Cost {
  return {
    buffers: root['Shared Hit Blocks'] + root['Shared Read Blocks'],
    ms: planning + execution,
    nodes: nodesOf(root),
  }
}

function nodesOf(plan: Plan): PlanNode[] {
  const node = { type: plan['Node Type'], index: plan['Index Name'], table: plan['Relation Name'] }
  return [node, ...(plan.Plans ?? []).flatMap(nodesOf)]
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0)
}
