/** What a scenario measures. */
import type { SideName } from '../side.ts'
import { median } from './statistics.ts'

export interface Metric {
  readonly id: string
  readonly unit: string
  readonly better: 'higher' | 'lower'
  readonly target: Target
  /** One value for each round. */
  readonly values: ReadonlyMap<SideName, readonly number[]>
  /** What each side does in the same round under easier conditions, where that is the comparison. */
  readonly baseline?: ReadonlyMap<SideName, readonly number[]> | undefined
  readonly note?: string | undefined
}

/** Ratios are ours / other. Of a rate at least so much, of a time at most. */
export interface Target {
  readonly peer?: number
  readonly floor?: number
  readonly baseline?: number
  /** Of the value itself. */
  readonly value?: number
}

export const OURS = 'apalis-drizzle'
const PEERS = ['pg-boss', 'graphile-worker'] as const

export interface Ratios {
  readonly peer: number | undefined
  readonly floor: number | undefined
  readonly baseline: number | undefined
}

/** The median of the ratios of the rounds. The best peer is that of each round. */
export function ratios({ values, better, baseline }: Metric, side: SideName): Ratios {
  const own = values.get(side)
  const others = PEERS.map((peer) => values.get(peer)).filter((known) => known !== undefined)
  const best = better === 'higher' ? Math.max : Math.min
  const bestPeer =
    others.length === 0 ? undefined : others[0]!.map((_, round) => best(...others.map((peer) => peer[round]!)))
  return {
    peer: side === OURS ? ratio(own, bestPeer) : undefined,
    floor: side === OURS ? ratio(own, values.get('floor')) : undefined,
    baseline: ratio(own, baseline?.get(side)),
  }
}

function ratio(own: readonly number[] | undefined, other: readonly number[] | undefined): number | undefined {
  if (own === undefined || other === undefined) return undefined
  return median(own.map((value, round) => value / other[round]!))
}

export function meetsTarget(metric: Metric): boolean {
  const { target, better, values } = metric
  const reached = ratios(metric, OURS)
  const meets = (value: number | undefined, wanted: number | undefined) =>
    value === undefined || wanted === undefined || (better === 'higher' ? value >= wanted : value <= wanted)
  return (
    meets(reached.peer, target.peer) &&
    meets(reached.floor, target.floor) &&
    meets(reached.baseline, target.baseline) &&
    meets(median(values.get(OURS) ?? []), target.value)
  )
}
