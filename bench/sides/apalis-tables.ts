/** The tables of this library, which the floor uses too. */
import { setup } from 'apalis-drizzle'
import type { Sql } from 'postgres'
import type { Counts } from '../side.ts'
import { openShop } from '../harness/orders.ts'

export const QUEUE = 'bench'

export async function setupTables(url: string): Promise<void> {
  const { client, db } = openShop(url, 1)
  await setup(db)
  await client.end()
}

export async function clearTables(sql: Sql): Promise<void> {
  await sql`truncate apalis.jobs, apalis.workers`
}

/** One look into the index of waiting tasks, one into that of owned ones. */
export async function hasUnfinished(sql: Sql): Promise<boolean> {
  const [row] = await sql<{ unfinished: boolean }[]>`
    select exists (select from apalis.jobs where job_type = ${QUEUE} and priority = 0
        and (status = 'Pending' or (status = 'Failed' and attempts < max_attempts)))
      or exists (select from apalis.jobs where job_type = ${QUEUE} and lock_by is not null and status in ('Running', 'Queued'))
      as unfinished`
  return row!.unfinished
}

export async function count(sql: Sql): Promise<Counts> {
  const [row] = await sql<[Counts]>`
    select count(*) filter (where status in ('Pending', 'Failed'))::int as waiting,
      count(*) filter (where status in ('Queued', 'Running'))::int as working,
      count(*) filter (where status = 'Done')::int as finished,
      coalesce(sum(attempts - 1) filter (where status = 'Done'), 0)::int as repeated
    from apalis.jobs where job_type = ${QUEUE} and priority = 0`
  return row
}

/** So many finished tasks, and as many of a higher priority that are due later, all of the same queue. */
export async function fillWithOthers(sql: Sql, each: number): Promise<void> {
  await sql`insert into apalis.workers (id, worker_type, storage_name) values ('others', ${QUEUE}, 'bench')`
  await sql`
    insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, done_at, lock_by, lock_at, last_result, metadata)
    select '01' || lpad(n::text, 24, '0'), ${QUEUE}, convert_to(json_build_object('n', n, 'to', 'customer-' || n || '@example.com')::text, 'UTF8'),
      'Done', 1, 5, ended, ended, 'others', date_trunc('second', ended), '{"Ok": null}', '{}'
    from generate_series(1, ${each}::int) n, lateral (select now() - (${each}::int - n) * interval '1 second' as ended) task`
  await sql`
    insert into apalis.jobs (id, job_type, job, max_attempts, priority, run_at, metadata)
    select '02' || lpad(n::text, 24, '0'), ${QUEUE}, convert_to(json_build_object('n', n, 'to', 'customer-' || n || '@example.com')::text, 'UTF8'),
      5, 5, now() + interval '1 day' + n * interval '1 second', '{}'
    from generate_series(1, ${each}::int) n`
}
