/** The migrations of `drizzle/` as a TypeScript module, so that `setup` works in bundles and reads no files. */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { isDeepStrictEqual } from 'node:util'
import { format, resolveConfig } from 'prettier'

export const MODULE = new URL('../src/vocabulary/migrations.generated.ts', import.meta.url)

/** @param folder - A folder of drizzle-kit, with `meta/_journal.json`. */
export async function embedMigrations(folder: URL): Promise<string> {
  const journal = JSON.parse(await readFile(new URL('meta/_journal.json', folder), 'utf8')) as Journal
  const tables = await Promise.all(journal.entries.map(({ idx }) => describedTables(folder, idx)))
  const migrations = await Promise.all(
    journal.entries.map(({ tag, idx }) => embed(folder, tag, isDeepStrictEqual(tables[idx], tables[idx - 1]))),
  )
  const source = `/** The migrations of drizzle/, in order. Written by \`npm run generate\`; not to be edited. */
    export interface Migration {
      readonly name: string
      /** Written by hand, because drizzle-kit does not know such objects; the others it generates from src/schema.ts. */
      readonly custom: boolean
      /** Of the file, so that the ledger tells one text of a migration from another. */
      readonly sha256: string
      readonly statements: readonly string[]
    }
    export const migrations = [${migrations.join(',\n')}] as const satisfies readonly Migration[]
    `
  return format(source, { ...(await resolveConfig(MODULE)), parser: 'typescript' })
}

interface Journal {
  readonly entries: readonly { readonly idx: number; readonly tag: string }[]
}

/** As drizzle-kit sees them after a migration. */
async function describedTables(folder: URL, idx: number): Promise<unknown> {
  const file = new URL(`meta/${String(idx).padStart(4, '0')}_snapshot.json`, folder)
  const snapshot = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>
  return { ...snapshot, id: undefined, prevId: undefined }
}

async function embed(folder: URL, name: string, custom: boolean): Promise<string> {
  const file = await readFile(new URL(`${name}.sql`, folder), 'utf8')
  const sha256 = createHash('sha256').update(file).digest('hex')
  const statements = file.split('--> statement-breakpoint').map((statement) => template(statement.trim()))
  return `{ name: '${name}', custom: ${String(custom)}, sha256: '${sha256}', statements: [${statements.join(',\n')}] }`
}

function template(text: string): string {
  return `\`${text.replaceAll(/[\\`]|\$(?=\{)/g, '\\$&')}\``
}
