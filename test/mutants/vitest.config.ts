/** The tests with one guard removed, which MUTANT names. */
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { defineConfig, type Plugin } from 'vitest/config'
import type { Mutant } from './mutants.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const mutant = JSON.parse(process.env['MUTANT']!) as Mutant
const source = (file: string) => path.join(root, 'src', file)

const removeGuard: Plugin = {
  name: 'remove-guard',
  enforce: 'pre',
  transform: (code, id) =>
    id === path.join(root, mutant.file)
      ? mutant.cuts.reduce((rest, [from, to]) => rest.replace(from, () => to), code)
      : undefined,
}

export default defineConfig({
  root,
  plugins: [removeGuard],
  resolve: {
    alias: [
      { find: /^apalis-drizzle$/, replacement: source('index.ts') },
      { find: /^apalis-drizzle\/schema$/, replacement: source('schema.ts') },
      { find: /^apalis-drizzle\/testing$/, replacement: source('testing.ts') },
    ],
  },
  test: {
    globalSetup: 'test/support/global-setup.ts',
    pool: 'forks',
    maxWorkers: 1,
    testTimeout: 20_000,
    hookTimeout: 60_000,
    provide: { drizzle: '0.45', scale: 1 },
  },
})
