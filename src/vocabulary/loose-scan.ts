import { sql, type SQL, type SQLWrapper } from 'drizzle-orm'
import { jobs } from '../schema.js'

/** The names of the queues that have an entry in an index, as a table `queue(name)`. @param condition - That of the index. */
export function queuesIn(condition: SQL): SQL {
  return sql`pg_catalog.unnest(${distinct(jobs.jobType, condition)}) as queue(name)`
}

/** One queue in the same form. */
export function theQueue(name: string): SQL {
  return sql`(select ${name}::text as name) as queue`
}

/**
 * The distinct values of a column as an array: one step through an index for each value, however many entries it has.
 * The builders have no WITH RECURSIVE. An array, because the planner expects ten elements in it, but a hundred rows of a
 * recursion, and so ten thousand of one inside another: it would prepare for work that never comes.
 *
 * @param column - The first of the index, or the first that the condition leaves open; not null.
 */
export function distinct(column: SQLWrapper, condition: SQL): SQL {
  const next = (further: SQL) =>
    sql`(select ${column} from ${jobs} where ${condition} ${further} order by ${column} desc limit 1)`
  return sql`array(
    with recursive step(value) as (
      ${next(sql``)}
      union all
      select ${next(sql`and ${column} < step.value`)} from step where step.value is not null
    )
    select value from step where value is not null)`
}
