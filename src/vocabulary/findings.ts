/** Compares a database's catalog with the contract: what differs, and for each difference whether and how `setup` mends it. */
import type { Catalog } from './catalog.js'
import {
  CONSTRAINTS,
  GET_JOBS_SIGNATURES,
  INDEXES,
  JOBS_SETTINGS,
  NOTIFY_SIGNATURE,
  PAUSED_QUEUES,
  SNAPSHOT_COLUMNS,
  SNAPSHOT_INDEX,
  TABLES,
  TRIGGER,
  type ConstraintContract,
  type IndexContract,
} from './contract.js'
import { migrations } from './migrations.generated.js'

export interface Finding {
  /** One line for a person. */
  readonly difference: string
  /** What mends it, in order. Empty: `setup` refuses the database, because it cannot know what the difference means. */
  readonly repairs: readonly Repair[]
}

export interface Repair {
  /** The migration or the object, as errors and the command line name it. */
  readonly name: string
  readonly statements: readonly string[]
  /** To be run outside a transaction, where building an index does not stop writers. */
  readonly concurrently?: true
}

export interface Expectations {
  /** Whether the indexes that only Rust crates ask for are wanted too. */
  readonly rustInterop: boolean
  /** Whether a newer version of the library was here: then the bodies of functions are its, not ours. */
  readonly migratedByNewer: boolean
}

const [, getJobs, notifyNewJobs, snapshot, , pausedQueues] = migrations

export function findings(catalog: Catalog, expectations: Expectations): Finding[] {
  const { jobs, workers } = catalog.relations
  if (jobs === undefined && workers === undefined) {
    const indexes = expectations.rustInterop ? INDEXES.filter(({ purpose }) => purpose === 'rust') : []
    return repair('tables apalis.jobs and apalis.workers are missing', [
      ...migrations,
      ...indexes.map(createdWithTable),
    ])
  }
  return [
    ...tableFindings(catalog),
    ...CONSTRAINTS.flatMap((constraint) => constraintFindings(catalog, constraint)),
    ...INDEXES.flatMap((index) => indexFindings(catalog, index, expectations)),
    ...functionFindings(catalog, expectations),
    ...triggerFindings(catalog),
    ...snapshotFindings(catalog, expectations),
    ...settingFindings(catalog),
    ...pausedQueuesFindings(catalog),
  ]
}

function tableFindings({ relations }: Catalog): Finding[] {
  return Object.entries(TABLES).flatMap(([name, expected]) => {
    const table = relations[name]
    if (table === undefined) return refuse(`table apalis.${name} is missing`)
    if (table.kind !== 'r') return refuse(`apalis.${name} is not an ordinary table`)
    // Further columns may follow, because inserts do not name them; one that must be filled in would fail them.
    const further = table.columns.slice(expected.length).filter((column) => / not null(?!.* default )/.test(column))
    return [
      ...columnFindings(`apalis.${name}`, expected, table.columns),
      ...further.flatMap((column) => refuse(`apalis.${name} has a column that pushes do not fill in: ${column}`)),
    ]
  })
}

function columnFindings(table: string, expected: readonly string[], columns: readonly string[]): Finding[] {
  return expected.flatMap((column, i) => {
    const found = columns[i]
    if (found === column) return []
    return refuse(`column ${i + 1} of ${table} is ${found ?? 'missing'}, expected ${column}`)
  })
}

/** Added as NOT VALID, which takes the table's lock for a moment only; what is not yet valid is validated at the next look. */
function constraintFindings(
  { constraints }: Catalog,
  { table, name, definitions, identifies }: ConstraintContract,
): Finding[] {
  const [wanted] = definitions
  const found = constraints[`${table}.${name}`]
  if (found === undefined) {
    const difference = `constraint ${name} of apalis.${table} is missing: ${wanted}`
    if (identifies) return refuse(difference)
    return repair(difference, [
      {
        name: `constraint ${name}`,
        statements: [`ALTER TABLE apalis.${table} ADD CONSTRAINT ${name} ${wanted} NOT VALID`],
      },
    ])
  }
  if (definitions.includes(found)) return []
  if (definitions.some((definition) => found === `${definition} NOT VALID`)) {
    return repair(`constraint ${name} of apalis.${table} is not validated`, [
      { name: `constraint ${name}`, statements: [`ALTER TABLE apalis.${table} VALIDATE CONSTRAINT ${name}`] },
    ])
  }
  return refuse(`constraint ${name} of apalis.${table} is ${found}, expected ${wanted}`)
}

function indexFindings(catalog: Catalog, index: IndexContract, { rustInterop }: Expectations): Finding[] {
  const { name, definitions, purpose } = index
  const found = catalog.indexes[name]
  const definition = definitionFor(catalog, index)
  const create = definition.replace(/ INDEX /, ' INDEX CONCURRENTLY ')
  const step = `index ${name}`

  if (found === undefined) {
    if (purpose === 'rust' && !rustInterop) return []
    const difference = `index ${name} is missing: ${definition}`
    if (purpose === 'correctness') return refuse(difference)
    return repair(difference, [{ name: step, statements: [create], concurrently: true }])
  }
  if (!definitions.includes(found.definition)) {
    return refuse(`index ${name} is ${found.definition}, expected ${definition}`)
  }
  if (found.valid) return []
  return repair(`index ${name} is invalid: its build is under way or was interrupted`, [
    { name: step, statements: [`DROP INDEX CONCURRENTLY apalis.${name}`, create], concurrently: true },
  ])
}

function createdWithTable({ name, definitions: [definition] }: IndexContract): Repair {
  return { name: `index ${name}`, statements: [definition] }
}

/** In a database of a newer Rust crate what is missing is created in that crate's form, so that the crate goes on accepting it. */
function definitionFor({ indexes }: Catalog, { definitions }: IndexContract): string {
  const later = INDEXES.some(
    ({ name, definitions: [, second] }) => second !== undefined && indexes[name]?.definition === second,
  )
  return (later ? definitions[1] : undefined) ?? definitions[0]
}

function functionFindings({ functions }: Catalog, { migratedByNewer }: Expectations): Finding[] {
  return [
    ...getJobsFindings(functions['get_jobs(text, text, integer)']),
    ...notifyFindings(functions['notify_new_jobs()'], migratedByNewer),
  ]
}

/** Its body is not compared: it is an entry point for others, and each generation of the Rust crates brings its own. */
function getJobsFindings(found: Catalog['functions'][string] | undefined): Finding[] {
  const name = 'function apalis.get_jobs(text, text, integer)'
  if (found === undefined) return repair(`${name} is missing`, [getJobs])
  if ((GET_JOBS_SIGNATURES as readonly string[]).includes(found.signature)) return []
  return refuse(`${name} is ${found.signature}, expected ${GET_JOBS_SIGNATURES[0]}`)
}

/** Replaced wherever it is not ours: a Rust crate's body knows no switch, and its migrations bring it back. */
function notifyFindings(found: Catalog['functions'][string] | undefined, migratedByNewer: boolean): Finding[] {
  const name = 'function apalis.notify_new_jobs()'
  const [replace] = notifyNewJobs.statements
  const mend = [{ name: notifyNewJobs.name, statements: [replace] }]
  if (found === undefined) return repair(`${name} is missing`, mend)
  if (!found.signature.startsWith('() returns trigger ')) {
    return refuse(`${name} is ${found.signature}, expected ${NOTIFY_SIGNATURE}`)
  }
  const ours = found.signature === NOTIFY_SIGNATURE && sameText(found.body, replace.split('$function$')[1] ?? '')
  if (ours || migratedByNewer) return []
  return repair(`${name} was replaced, as the migrations of a Rust crate do`, mend)
}

function triggerFindings({ triggers }: Catalog): Finding[] {
  const found = triggers['jobs.notify_workers']
  if (found === TRIGGER) return []
  if (found !== undefined) return refuse(`trigger notify_workers is ${found}, expected ${TRIGGER}`)
  const [, create] = notifyNewJobs.statements
  return repair('trigger notify_workers of apalis.jobs is missing', [
    { name: notifyNewJobs.name, statements: [create] },
  ])
}

function snapshotFindings(catalog: Catalog, expectations: Expectations): Finding[] {
  const name = 'materialized view apalis.queue_stats_snapshot'
  const found = catalog.relations['queue_stats_snapshot']
  // Without its last statement, the refresh: here it would scan a table of any size inside the transaction.
  const [create, index] = snapshot.statements
  if (found === undefined) return repair(`${name} is missing`, [{ name: snapshot.name, statements: [create, index] }])
  if (found.kind !== 'm') return refuse('apalis.queue_stats_snapshot is not a materialized view')
  return [
    ...columnFindings('apalis.queue_stats_snapshot', SNAPSHOT_COLUMNS, found.columns),
    ...indexFindings(catalog, SNAPSHOT_INDEX, expectations),
  ]
}

/** A value that somebody chose is left alone. */
function settingFindings({ relations }: Catalog): Finding[] {
  const set = relations['jobs']?.settings.map((setting) => setting.split('=')[0]) ?? []
  const missing = Object.entries(JOBS_SETTINGS).filter(([name]) => !set.includes(name))
  if (missing.length === 0) return []
  const values = missing.map(([name, value]) => `${name} = ${value}`).join(', ')
  return repair(`autovacuum settings of apalis.jobs are missing: ${values}`, [
    { name: '0004_autovacuum', statements: [`ALTER TABLE apalis.jobs SET (${values})`] },
  ])
}

function pausedQueuesFindings({ own }: Catalog): Finding[] {
  const name = 'apalis_drizzle.paused_queues'
  const found = own.relations['paused_queues']
  if (found === undefined) return repair(`table ${name} is missing`, [pausedQueues])
  if (found.kind !== 'r') return refuse(`${name} is not an ordinary table`)
  const { columns, primaryKey } = PAUSED_QUEUES
  const key = own.constraints['paused_queues.paused_queues_pkey']
  return [
    ...columnFindings(name, columns, found.columns),
    ...(key === primaryKey ? [] : refuse(`${name} has no ${primaryKey} named paused_queues_pkey`)),
  ]
}

function refuse(difference: string): Finding[] {
  return [{ difference, repairs: [] }]
}

function repair(difference: string, repairs: readonly Repair[]): Finding[] {
  return [{ difference, repairs }]
}

/** Line ends may have been converted on the way, as git does on Windows. */
function sameText(left: string, right: string): boolean {
  return left.replaceAll('\r\n', '\n') === right.replaceAll('\r\n', '\n')
}
