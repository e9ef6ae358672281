import js from '@eslint/js'
import { createNodeResolver, importX } from 'eslint-plugin-import-x'
import { defineConfig, globalIgnores } from 'eslint/config'
import tseslint from 'typescript-eslint'

const doors = ['index', 'storage', 'admin', 'reads', 'steering', 'testing', 'cli'].map((door) => `./src/${door}.ts`)

/** Imports point vocabulary <- statements <- processes <- doors. */
const rooms = [
  {
    target: './src/schema.ts',
    from: './src',
    except: ['./schema.ts'],
    message: 'The schema is published as source: it imports nothing but Drizzle.',
  },
  {
    target: './src/vocabulary',
    from: ['./src/statements', './src/processes', ...doors],
    message: 'The vocabulary runs no query and knows none of its users.',
  },
  {
    target: './src/statements',
    from: ['./src/statements', './src/processes', ...doors],
    message: 'A statement imports from the vocabulary only; what two statements share belongs there.',
  },
  {
    target: './src/processes',
    from: ['./src/schema.ts', ...doors],
    message: 'A process reaches tables only through statements and knows no door.',
  },
  { target: './src', from: ['./test', './scripts', './examples'], message: 'This file is not published.' },
]

export default defineConfig([
  globalIgnores(['.cache/', 'dist/', 'drizzle/', '**/*.generated.ts', 'test/apps/*/drizzle.config.ts']),
  js.configs.recommended,
  tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    plugins: { 'import-x': importX },
    settings: {
      'import-x/extensions': ['.ts', '.js'],
      'import-x/parsers': { '@typescript-eslint/parser': ['.ts'] },
      'import-x/resolver-next': [createNodeResolver({ extensionAlias: { '.js': ['.ts', '.js'] } })],
    },
    rules: {
      'import-x/no-duplicates': ['error', { 'prefer-inline': true }],
      // `async` without `await` makes every failure a rejection, and is how handlers look that have nothing to wait for.
      '@typescript-eslint/require-await': 'off',
      // Callers without types are checked too, and other callbacks change what the compiler believes to be constant.
      '@typescript-eslint/no-unnecessary-condition': 'off',
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/no-unsafe-class-instance-assignment': 'off',
      // The compiler finds those, and does not count `this.#once ??= …` as unused.
      'no-unused-private-class-members': 'off',
      '@typescript-eslint/no-confusing-void-expression': [
        'error',
        { ignoreVoidReturningFunctions: true, ignoreArrowShorthand: true },
      ],
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_', ignoreRestSiblings: true },
      ],
      // `this: void` lets users take a method out of its object.
      '@typescript-eslint/no-invalid-void-type': [
        'error',
        { allowAsThisParameter: true, allowInGenericTypeArguments: true },
      ],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
    },
  },
  {
    files: ['src/**'],
    rules: {
      'import-x/no-cycle': 'error',
      'import-x/no-extraneous-dependencies': ['error', { devDependencies: false }],
      'import-x/no-restricted-paths': ['error', { zones: rooms, basePath: import.meta.dirname }],
      'import-x/no-unresolved': 'error',
    },
  },
  {
    // Applications enqueue from edge runtimes.
    files: ['src/**'],
    ignores: ['src/cli.ts'],
    rules: {
      'import-x/no-nodejs-modules': 'error',
      'no-restricted-globals': ['error', 'Buffer', 'setImmediate', '__dirname', '__filename'],
    },
  },
  {
    files: ['test/**'],
    rules: {
      // expect.any() and its kin are of type any.
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/unbound-method': 'off',
      'no-loss-of-precision': 'off',
      'no-restricted-syntax': [
        'error',
        {
          selector: 'MemberExpression[property.name=/^(only|skip|skipIf|runIf|todo|fails)$/]',
          message: 'Every test runs, on every machine.',
        },
      ],
    },
  },
  {
    // Never executed, and full of calls that must not compile.
    files: ['test/types/**'],
    rules: {
      '@typescript-eslint/no-floating-promises': 'off',
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
      '@typescript-eslint/no-unused-expressions': 'off',
      '@typescript-eslint/no-unused-vars': 'off',
    },
  },
  { files: ['**/*.js'], extends: [tseslint.configs.disableTypeChecked] },
])
