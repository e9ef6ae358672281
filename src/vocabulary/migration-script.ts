/** The migrations as one SQL script, for psql and for other migration tools. */
import { INDEXES } from './contract.js'
import { migrations } from './migrations.generated.js'

export interface ScriptOptions {
  /** Only what drizzle-kit does not generate from `schema.ts`: functions, trigger, view, settings, the table of paused queues. */
  readonly functions: boolean
  readonly rustInterop: boolean
}

/** Statements apart by drizzle-kit's mark, which is a comment to everybody else, so that it may become a custom migration. */
export function migrationScript({ functions, rustInterop }: ScriptOptions): string {
  const chosen = migrations.filter(({ custom }) => custom || !functions)
  const statements = chosen.flatMap((migration): readonly string[] => migration.statements)
  return `${[...statements, ...(rustInterop ? rustIndexes() : [])].join('\n--> statement-breakpoint\n')}\n`
}

function rustIndexes(): string[] {
  return INDEXES.filter(({ purpose }) => purpose === 'rust').map(({ definitions: [definition] }) => `${definition};`)
}
