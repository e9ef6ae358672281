/** One step of the model-based test: what it does to the model, and the same to the database. */
import type fc from 'fast-check'
import { expectAgreement } from './agreement.js'
import type { Model } from './model.js'
import type { Real } from './real.js'

export type Step = fc.AsyncCommand<Model, Real>

/** @param run - Changes the model, takes the step, and compares the answers. */
export function step(
  name: string,
  run: (model: Model, real: Real) => Promise<void>,
  check: (model: Model) => boolean = always,
): Step {
  return {
    check,
    run: async (model, real) => {
      await run(model, real)
      await expectAgreement(model, real)
    },
    toString: () => name,
  }
}

const always = () => true

/** One of several, by a number that was chosen before it was known how many there would be. */
export function pick<T>(from: readonly T[], choice: number): T | undefined {
  return from[choice % from.length]
}

export const US = 1_000
export const SECOND_US = 1_000_000
