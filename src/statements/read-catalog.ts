/** Reads the catalog of the library's schemas, in one statement and thereby in one snapshot. */
import { sql, type SQL } from 'drizzle-orm'
import type { Catalog } from '../vocabulary/catalog.js'
import type { Db } from '../vocabulary/db.js'

export async function readCatalog(db: Db): Promise<Catalog> {
  const [row] = await db
    .select({ catalog: sql<string>`${catalog}::text` })
    .from(sql`(values (1)) as one (row)`)
    .where(surroundings)
    .$withCache(false)
  // The cast to text keeps options such as postgres.camel from renaming the keys.
  return JSON.parse(row?.catalog ?? '{}') as Catalog
}

/**
 * Local to the statement, or to the transaction around it. With `apalis` on the search_path PostgreSQL leaves the schema
 * out of definitions. Describing a table takes its weakest lock, which a migration under way may hold for long.
 * Scalar subqueries, because those run exactly once and first.
 */
const surroundings = sql`(select set_config('search_path', 'pg_catalog', true)) is not null
  and (select set_config('lock_timeout', '2s', true)) is not null`

const relations = (schema: SQL) => sql`
  select pg_catalog.json_object_agg(c.relname, pg_catalog.json_build_object(
    'kind', c.relkind,
    'settings', coalesce(pg_catalog.to_json(c.reloptions), '[]'),
    'columns', (
      select coalesce(pg_catalog.json_agg(
        pg_catalog.concat_ws(' ',
          a.attname,
          format_type(a.atttypid, a.atttypmod),
          case when a.attnotnull then 'not null' end,
          'default ' || pg_get_expr(d.adbin, d.adrelid)
        ) order by a.attnum
      ), '[]')
      from pg_attribute a
      left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    )
  ))
  from pg_class c
  where c.relnamespace = ${schema} and c.relkind in ('r', 'p', 'f', 'v', 'm')`

/** Since PostgreSQL 18 NOT NULL is a constraint as well; here it is part of the column. */
const constraints = (schema: SQL) => sql`
  select pg_catalog.json_object_agg(t.relname::text || '.' || c.conname::text, pg_get_constraintdef(c.oid))
  from pg_constraint c join pg_class t on t.oid = c.conrelid
  where t.relnamespace = ${schema} and c.contype <> 'n'`

const indexes = sql`
  select pg_catalog.json_object_agg(c.relname, pg_catalog.json_build_object(
    'definition', pg_get_indexdef(c.oid),
    'valid', i.indisvalid and i.indisready
  ))
  from pg_index i join pg_class c on c.oid = i.indexrelid
  where c.relnamespace = schemas.apalis`

const functions = sql`
  select pg_catalog.json_object_agg(p.proname::text || '(' || oidvectortypes(p.proargtypes) || ')', pg_catalog.json_build_object(
    'signature', pg_catalog.concat_ws(' ',
      '(' || pg_get_function_arguments(p.oid) || ')',
      'returns ' || pg_get_function_result(p.oid),
      'language ' || l.lanname::text,
      case p.provolatile when 'v' then 'volatile' when 's' then 'stable' else 'immutable' end,
      case when p.prosecdef then 'security definer' else 'security invoker' end,
      'set ' || pg_catalog.array_to_string(p.proconfig, ', ')
    ),
    'body', p.prosrc
  ))
  from pg_proc p join pg_language l on l.oid = p.prolang
  where p.pronamespace = schemas.apalis`

const triggers = sql`
  select pg_catalog.json_object_agg(t.relname::text || '.' || g.tgname::text,
    pg_get_triggerdef(g.oid) || case g.tgenabled when 'O' then '' else ' (disabled)' end)
  from pg_trigger g join pg_class t on t.oid = g.tgrelid
  where t.relnamespace = schemas.apalis and not g.tgisinternal`

/** Not by to_regclass, which is an error to a role that may not use the schema. */
const ledger = sql`
  select pg_catalog.json_build_object(
    'exists', t.oid is not null,
    'readable', coalesce(has_schema_privilege(n.oid, 'usage') and has_table_privilege(t.oid, 'select'), false),
    'writable', case
      when t.oid is not null then has_schema_privilege(n.oid, 'usage') and has_table_privilege(t.oid, 'insert')
      when n.oid is not null then has_schema_privilege(n.oid, 'create')
      else has_database_privilege(current_database()::text, 'create')
    end)
  from (values ('apalis_drizzle')) as name (schema)
  left join pg_namespace n on n.nspname = name.schema
  left join pg_class t on t.relnamespace = n.oid and t.relname = 'migrations'`

const catalog = sql`(
  select pg_catalog.json_build_object(
    'relations', coalesce((${relations(sql`schemas.apalis`)}), '{}'),
    'constraints', coalesce((${constraints(sql`schemas.apalis`)}), '{}'),
    'indexes', coalesce((${indexes}), '{}'),
    'functions', coalesce((${functions}), '{}'),
    'triggers', coalesce((${triggers}), '{}'),
    'own', pg_catalog.json_build_object(
      'relations', coalesce((${relations(sql`schemas.own`)}), '{}'),
      'constraints', coalesce((${constraints(sql`schemas.own`)}), '{}')
    ),
    'ledger', (${ledger})
  )
  from (select to_regnamespace('apalis')::oid, to_regnamespace('apalis_drizzle')::oid) as schemas (apalis, own)
)`
