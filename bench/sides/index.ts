import type { Side, SideName } from '../side.ts'

/** Each process loads its own side only: memory and start of one say nothing about the others. */
export async function loadSide(name: SideName): Promise<Side> {
  switch (name) {
    case 'apalis-drizzle':
      return (await import('./apalis-drizzle.ts')).apalisDrizzle
    case 'pg-boss':
      return (await import('./pg-boss.ts')).pgBoss
    case 'graphile-worker':
      return (await import('./graphile-worker.ts')).graphileWorker
    case 'floor':
      return (await import('./floor.ts')).floor
  }
}
