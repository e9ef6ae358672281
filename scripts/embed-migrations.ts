/** The migrations of `drizzle/` as a TypeScript module, so that `setup` works in bundles and reads no files. */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { format, resolveConfig } from 'prettier'

export const MODULE = new URL('../src/vocabulary/migrations.generated.ts', import.meta.url)

/** @param folder - A folder of drizzle-kit, with `meta/_journal.json`. */
export async function embedMigrations(folder: URL): Promise<string> {
  const journal = JSON.parse(await readFile(new URL('meta/_journal.json', folder), 'utf8')) as Journal
  const migrations = await Promise.all(journal.entries.map((entry) => embed(folder, entry.tag)))
  const source = `/** The migrations of drizzle/, in order. Written by \`npm run generate\`; not to be edited. */
    export interface Migration {
      readonly name: string
      /** Of the file, so that the ledger tells one text of a migration from another. */
      readonly sha256: string
      readonly statements: readonly string[]
    }
    export const migrations = [${migrations.join(',\n')}] as const satisfies readonly Migration[]
    `
  return format(source, { ...(await resolveConfig(MODULE)), parser: 'typescript' })
}

interface Journal {
  readonly entries: readonly { readonly tag: string }[]
}

async function embed(folder: URL, name: string): Promise<string> {
  const file = await readFile(new URL(`${name}.sql`, folder), 'utf8')
  const sha256 = createHash('sha256').update(file).digest('hex')
  const statements = file.split('--> statement-breakpoint').map((statement) => template(statement.trim()))
  return `{ name: '${name}', sha256: '${sha256}', statements: [${statements.join(',\n')}] }`
}

function template(text: string): string {
  return `\`${text.replaceAll(/[\\`]|\$(?=\{)/g, '\\$&')}\``
}
