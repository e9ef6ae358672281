import { fileURLToPath } from 'node:url'
import { configDefaults, defineConfig } from 'vitest/config'

const source = (file: string) => fileURLToPath(new URL(`src/${file}`, import.meta.url))

const aliases = [
  { find: /^apalis-drizzle$/, replacement: source('index.ts') },
  { find: /^apalis-drizzle\/schema$/, replacement: source('schema.ts') },
  { find: /^apalis-drizzle\/testing$/, replacement: source('testing.ts') },
]
const options = { pool: 'forks', testTimeout: 20_000, hookTimeout: 60_000 } as const

// PgBouncer is a package of the system that not everybody has: `npm run test:pgbouncer` is for those who do.
const needsPgBouncer = 'test/pgbouncer.test.ts'
// What takes minutes by nature: `npm run test:long`, which also runs the tests of faults and of the model at a larger scale.
const long = 'test/long/**'
const excluded: Record<string, string[]> = { pgbouncer: [long], long: [needsPgBouncer] }

export default defineConfig(({ mode }) => ({
  test: {
    reporters: ['default', './test/support/closing-line.ts'],
    // Once for all projects.
    globalSetup: 'test/support/global-setup.ts',
    maxWorkers: 2,
    projects: [
      {
        resolve: { alias: aliases },
        test: {
          ...options,
          ...(mode === 'long' ? { testTimeout: 300_000 } : {}),
          name: 'drizzle 0.45',
          provide: { drizzle: '0.45', scale: mode === 'long' ? 4 : 1 },
          include: ['test/**/*.test.ts'],
          exclude: [...configDefaults.exclude, ...(excluded[mode] ?? [needsPgBouncer, long])],
          typecheck: { enabled: true, include: ['test/types/**/*.test-d.ts'], tsconfig: 'test/types/tsconfig.json' },
        },
      },
      {
        resolve: { alias: [...aliases, { find: /^drizzle-orm(?=\/|$)/, replacement: 'drizzle-orm-rc' }] },
        test: {
          ...options,
          name: 'drizzle 1.0',
          provide: { drizzle: '1.0' },
          include: ['test/{drivers,outbox,prepared,push}.test.ts'],
        },
      },
    ],
  },
}))
