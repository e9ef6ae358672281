/** Shows that the three forms of the schema agree: src/schema.ts, the migrations in drizzle/, and the module that setup runs. */
import { execFile } from 'node:child_process'
import { cp, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { embedMigrations, MODULE } from '../scripts/embed-migrations.js'

const root = fileURLToPath(new URL('..', import.meta.url))
let copy: string

beforeEach(async () => {
  copy = await mkdtemp(join(tmpdir(), 'apalis-drift-'))
  await cp(join(root, 'drizzle'), join(copy, 'drizzle'), { recursive: true })
})
afterEach(() => rm(copy, { recursive: true }))

/** What the real drizzle-kit adds to a copy of drizzle/ for this schema file. */
async function generated(schema: string): Promise<string[]> {
  const before = await readdir(join(copy, 'drizzle'), { recursive: true })
  // drizzle-kit takes paths from its working directory only.
  const paths = ['--schema', relative(root, schema), '--out', relative(root, join(copy, 'drizzle'))]
  const kit = join(root, 'node_modules/drizzle-kit/bin.cjs')
  const args = [kit, 'generate', '--dialect', 'postgresql', '--name', 'drift', ...paths]
  await promisify(execFile)(process.execPath, args, { cwd: root, timeout: 60_000 })
  const after = await readdir(join(copy, 'drizzle'), { recursive: true })
  return after.filter((file) => !before.includes(file))
}

describe('src/schema.ts and drizzle/', () => {
  it('drizzle-kit finds nothing to generate', async () => {
    expect(await generated(join(root, 'src/schema.ts'))).toEqual([])
  })

  it('drizzle-kit would find a new column', async () => {
    const schema = join(copy, 'schema.ts')
    const source = await readFile(join(root, 'src/schema.ts'), 'utf8')
    await writeFile(schema, source.replace("text('lease_token')", "text('lease_token'), more: text('more')"))
    await symlink(join(root, 'node_modules'), join(copy, 'node_modules'))
    const [file] = (await generated(schema)).filter((name) => name.endsWith('.sql'))
    expect(await readFile(join(copy, 'drizzle', file ?? ''), 'utf8')).toContain('ADD COLUMN "more" text')
  })
})

describe('drizzle/ and src/vocabulary/migrations.generated.ts', () => {
  it('the module is what `npm run generate` writes', async () => {
    expect(await readFile(MODULE, 'utf8')).toBe(await embedMigrations(new URL('../drizzle/', import.meta.url)))
  })

  it('a changed migration would change the module', async () => {
    const file = join(copy, 'drizzle/0004_autovacuum.sql')
    await writeFile(file, (await readFile(file, 'utf8')).replace('1000', '`${2000}\\'))
    const module = await embedMigrations(pathToFileURL(join(copy, 'drizzle/')))
    expect(module).not.toBe(await readFile(MODULE, 'utf8'))
    expect(module).toContain('\\`\\${2000}\\\\')
  })
})
