/**
 * `npm run generate [-- --name add_something] [-- --custom]`: lets drizzle-kit write what is new in src/schema.ts to
 * drizzle/, then embeds that folder. Functions, triggers, views and settings are custom migrations, written by hand.
 */
import { spawnSync } from 'node:child_process'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { embedMigrations, MODULE } from './embed-migrations.js'

const FOLDER = new URL('../drizzle/', import.meta.url)

const kit = fileURLToPath(new URL('../node_modules/drizzle-kit/bin.cjs', import.meta.url))
const generated = spawnSync(process.execPath, [kit, 'generate', ...process.argv.slice(2)], { stdio: 'inherit' })
if (generated.status !== 0) process.exit(generated.status ?? 1)

for (const name of await readdir(FOLDER)) {
  if (!name.endsWith('.sql')) continue
  const file = new URL(name, FOLDER)
  const text = await readFile(file, 'utf8')
  // drizzle-kit takes for granted that the schema is new; an application may have made it for tables of its own.
  await writeFile(file, text.replace(/^CREATE SCHEMA (?!IF NOT EXISTS)/gm, 'CREATE SCHEMA IF NOT EXISTS '))
}

await writeFile(MODULE, await embedMigrations(FOLDER))
