/** The databases of other programs, in test/fixtures, and what a test compares before and after. */
import { readFile } from 'node:fs/promises'
import type { Sql } from 'postgres'

export type Fixture = 'rust-g8' | 'rust-g14' | 'rust-replay' | 'sqlx-s' | 'sqlx-h'

export async function load(sql: Sql, ...fixtures: Fixture[]): Promise<void> {
  for (const fixture of fixtures) {
    await sql.unsafe(await readFile(new URL(`../fixtures/${fixture}.sql`, import.meta.url), 'utf8'))
  }
}

/** A database as it was before anybody set up anything in it. */
export async function clear(sql: Sql): Promise<void> {
  await sql.unsafe(`
    drop schema if exists apalis, apalis_drizzle, apalis_diesel_postgres cascade;
    drop table if exists public.__diesel_schema_migrations, public._sqlx_migrations;
    drop type if exists public.hstore;`)
}

/**
 * Every object of the database that is not PostgreSQL's own, with the transaction that last wrote its catalog row: equal
 * only if nothing was created, dropped, replaced or altered in between, not even into what it was.
 */
export async function fingerprint(sql: Sql): Promise<string[]> {
  const rows = await sql<{ object: string }[]>`
    with own as (select oid from pg_namespace where nspname not like 'pg\_%' and nspname <> 'information_schema')
    select format('schema %s %s', nspname, xmin) as object from pg_namespace where oid in (select oid from own)
    union all select format('class %s %s %s', relname, relkind, xmin) from pg_class where relnamespace in (select oid from own)
    union all select format('column %s %s %s', attrelid::regclass, attname, a.xmin)
      from pg_attribute a join pg_class c on c.oid = attrelid where relnamespace in (select oid from own) and attnum > 0
    union all select format('constraint %s %s', conname, xmin) from pg_constraint where connamespace in (select oid from own)
    union all select format('index %s %s', indexrelid::regclass, i.xmin)
      from pg_index i join pg_class c on c.oid = indexrelid where relnamespace in (select oid from own)
    union all select format('function %s %s', oid::regprocedure, xmin) from pg_proc where pronamespace in (select oid from own)
    union all select format('trigger %s %s', tgname, t.xmin)
      from pg_trigger t join pg_class c on c.oid = tgrelid where relnamespace in (select oid from own)
    order by 1`
  return rows.map(({ object }) => object)
}
