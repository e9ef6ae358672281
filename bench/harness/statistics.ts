export function median(values: readonly number[]): number {
  return percentile(values, 0.5)
}

/** Between the two nearest values, in proportion. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  const place = (sorted.length - 1) * share
  const below = sorted[Math.floor(place)]!
  const above = sorted[Math.ceil(place)]!
  return below + (above - below) * (place - Math.floor(place))
}

/** In percent of the median: how far the furthest value is away from it. */
export function spread(values: readonly number[]): number {
  const middle = median(values)
  return (100 * Math.max(...values.map((value) => Math.abs(value - middle)))) / middle
}
