/**
 * What the roles of an application need on the library's tables, as an SQL script: grants, for three roles that the
 * application's logins become members of. Each right is one that a statement of the library needs.
 */
import { InvalidArgumentError } from './errors.js'
import { byteLength } from './limits.js'
import { quotedIdentifier } from './quoted-identifier.js'

export interface RoleNames {
  /** Enqueues. */
  readonly producer: string
  /** Runs tasks. */
  readonly worker: string
  /** Looks, steers and cleans up. */
  readonly admin: string
}

const ROLES = ['producer', 'worker', 'admin'] as const satisfies readonly (keyof RoleNames)[]

export const DEFAULT_ROLES: RoleNames = {
  producer: 'apalis_producer',
  worker: 'apalis_worker',
  admin: 'apalis_admin',
}

/** What a claim, its acknowledgement and the sweep write. Not payload, queue, key or owner of the budget. */
const STATE = 'status, attempts, run_at, last_result, lock_at, lock_by, done_at'

/**
 * The script first takes back what the roles have, so that it may be run again after an update, and so that a right which
 * somebody granted beside it does not stay unnoticed. It is one transaction: no statement of a running application fails.
 *
 * @throws {InvalidArgumentError} for what cannot be the name of a role.
 */
export function grantsScript(names: RoleNames): string {
  for (const option of ROLES) checkRoleName(option, names[option])
  const [producer, worker, admin] = ROLES.map((role) => quotedIdentifier(names[role])) as [string, string, string]
  const everybody = [producer, worker, admin].join(', ')
  return `\
-- What three roles may do with the tables of apalis-drizzle. Run it as their owner: after setup, and again after each update.
begin;

${createRoles(ROLES.map((role) => names[role]))}

revoke all on all tables in schema apalis, apalis_drizzle from ${everybody};
revoke all on schema apalis, apalis_drizzle from ${everybody};
grant usage on schema apalis to ${everybody};
grant usage on schema apalis_drizzle to ${worker}, ${admin};

-- Enqueues. It sees ids, queues and keys, no payload and no result, and writes new tasks only.
grant insert (job, id, job_type, max_attempts, run_at, priority, metadata, idempotency_key),
  select (id, job_type, idempotency_key)
  on apalis.jobs to ${producer};

-- Runs tasks. It cannot enqueue or delete one, nor change what was enqueued.
grant select, update (${STATE}) on apalis.jobs to ${worker};
grant select, insert, update (storage_name, layers, last_seen, lease_token) on apalis.workers to ${worker};
grant select on apalis_drizzle.paused_queues to ${worker};

-- Looks, steers, pauses and cleans up. It cannot enqueue a task, nor change its payload.
grant select, delete, update (${STATE}, max_attempts, priority) on apalis.jobs to ${admin};
grant select, insert, delete, update (storage_name, last_seen) on apalis.workers to ${admin};
grant insert, delete on apalis_drizzle.paused_queues to ${admin};
grant select on all tables in schema apalis_drizzle to ${admin};
grant select on apalis.queue_stats_snapshot to ${admin};
${grantMaintain(admin)}

commit;
`
}

/** Without LOGIN: they are what logins are members of. To create one needs CREATEROLE, to find one there does not. */
function createRoles(names: readonly string[]): string {
  const create = (name: string) =>
    `  if not exists (select from pg_roles where rolname = ${literal(name)}) then
    create role ${quotedIdentifier(name)} nologin;
  end if;`
  return block([...new Set(names)].map(create).join('\n'))
}

/** Before version 17 nobody but the owner can refresh a materialized view. */
function grantMaintain(admin: string): string {
  const grant = `grant maintain on apalis.queue_stats_snapshot to ${admin}`
  return block(`  if current_setting('server_version_num')::int >= 170000 then
    execute ${literal(grant)};
  end if;`)
}

function block(statements: string): string {
  let quote = '$do$'
  for (let n = 1; statements.includes(quote); n++) quote = `$do${n}$`
  return `do ${quote}\nbegin\n${statements}\nend\n${quote};`
}

/** With E where a backslash would mean something else in sessions without standard_conforming_strings. */
function literal(text: string): string {
  const quoted = `'${text.replaceAll("'", "''").replaceAll('\\', '\\\\')}'`
  return text.includes('\\') ? `E${quoted}` : quoted
}

const MAX_BYTES = 63

function checkRoleName(option: string, name: string): void {
  const refuse = (why: string) => {
    throw new InvalidArgumentError(option, why)
  }
  if (name === '') refuse('a role needs a name.')
  if (byteLength(name) > MAX_BYTES) refuse(`a name has at most ${MAX_BYTES} bytes, or PostgreSQL would cut it.`)
  if (/\p{C}/u.test(name)) refuse('the name of a role has no control characters.')
  // To GRANT these two are not roles, even in quotes: the first is everybody.
  if (name === 'public' || name === 'none') refuse(`${name} is not a role.`)
}
