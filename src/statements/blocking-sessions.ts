/** Who holds what a setup waits for: locks on the tables or of another setup, or a snapshot that an index build has to outlive. */
import { sql } from 'drizzle-orm'
import type { Db } from '../vocabulary/db.js'

/** At most three, the oldest first, as `session 4711 ("shop", idle in transaction for 34 s)`. No query texts: they hold payloads. */
export async function blockingSessions(db: Db): Promise<string[]> {
  const rows = await db
    .select({ description: sql<string>`blocker.description` })
    .from(sql`(${blockers}) as blocker (description)`)
    .$withCache(false)
  return rows.map(({ description }) => description)
}

/** What a role may not see of other roles' sessions is null and left out. */
const blockers = sql`
  select pg_catalog.format('session %s (%s)', a.pid, pg_catalog.concat_ws(', ',
    nullif(pg_catalog.to_json(coalesce(nullif(a.application_name, ''), a.backend_type))::text, 'null'),
    a.state || ' for ' || round(extract(epoch from clock_timestamp() - a.xact_start))::text || ' s'))
  from pg_stat_activity a
  where a.datid = (select oid from pg_database where datname = current_database())
    and a.pid <> pg_backend_pid()
    and (
      a.backend_xmin is not null
      or exists (
        select 1 from pg_locks l
        where l.pid = a.pid and l.granted and l.database = a.datid and (
          l.relation in (select oid from pg_class where relnamespace = to_regnamespace('apalis') and relkind = 'r')
          or (l.locktype = 'advisory' and l.objsubid = 2 and (l.classid, l.objid) in (
            (hashtext('apalis_diesel_postgres')::oid, hashtext('migrations')::oid),
            (hashtext('apalis_drizzle')::oid, hashtext('indexes')::oid)))
        )
      )
    )
  order by a.xact_start nulls last
  limit 3`
