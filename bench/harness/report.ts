/** The results for people and for programs. */
import { SIDES } from '../side.ts'
import { meetsTarget, OURS, ratios, type Metric } from './metric.ts'
import { median, spread } from './statistics.ts'

/** One row per scenario and side. */
export function json(metrics: readonly Metric[]): object[] {
  return metrics.flatMap((metric) =>
    [...metric.values].map(([side, values]) => {
      const { peer, floor, baseline } = ratios(metric, side)
      return {
        scenario: metric.id,
        side,
        value: rounded(median(values)),
        unit: metric.unit,
        ratioToBestPeer: nullable(peer),
        ratioToFloor: nullable(floor),
        ratioToBaseline: nullable(baseline),
        spreadPercent: rounded(spread(values)),
        rounds: values.length,
      }
    }),
  )
}

function nullable(ratio: number | undefined): number | null {
  return ratio === undefined ? null : rounded(ratio)
}

function rounded(value: number): number {
  return Number(value.toPrecision(4))
}

/** @param stored - What each side stores, and @param environment - what the figures depend on: one line each. */
export function markdown(
  metrics: readonly Metric[],
  environment: readonly string[],
  stored: readonly string[],
): string {
  const baselines = metrics.filter(({ baseline }) => baseline !== undefined)
  const notes = metrics.flatMap(({ id, note }) => (note === undefined ? [] : [`- \`${id}\`: ${note}.`]))
  return [
    list(environment),
    '',
    table(
      ['Scenario', 'Unit', ...SIDES, 'Ours / better peer', 'Ours / floor', 'Ours / baseline', 'Target', ''],
      metrics.map((metric) => [
        `\`${metric.id}\``,
        metric.unit,
        ...SIDES.map((side) => inWords(metric.values.get(side))),
        ...ours(metric),
        target(metric),
        meetsTarget(metric) ? 'met' : '**missed**',
      ]),
    ),
    '',
    'Median of the rounds ± the distance of the furthest round. Ratios are medians of the ratios within a round; that to the',
    'better peer takes the better one of each round.',
    ...(baselines.length === 0
      ? []
      : [
          '\nBaselines, measured in the same rounds:\n',
          table(
            ['Scenario', 'Unit', ...SIDES],
            baselines.map(({ id, unit, baseline }) => [
              `\`${id}\``,
              unit,
              ...SIDES.map((side) => inWords(baseline!.get(side))),
            ]),
          ),
        ]),
    ...(notes.length === 0 ? [] : ['', ...notes]),
    '\nWhat each side stores when all tasks are done:\n',
    list(stored),
  ].join('\n')
}

function ours(metric: Metric): string[] {
  const { peer, floor, baseline } = ratios(metric, OURS)
  return [peer, floor, baseline].map((ratio) => (ratio === undefined ? '–' : `${ratio.toFixed(2)} ×`))
}

function target({ target: { peer, floor, baseline, value }, better, unit }: Metric): string {
  const sign = better === 'higher' ? '≥' : '≤'
  const parts = [
    peer === undefined ? undefined : `${sign} ${peer} × peer`,
    floor === undefined ? undefined : `${sign} ${floor} × floor`,
    baseline === undefined ? undefined : `${sign} ${baseline} × baseline`,
    value === undefined ? undefined : `${sign} ${value} ${unit}`,
  ]
  return parts.filter((part) => part !== undefined).join(', ')
}

function inWords(values: readonly number[] | undefined): string {
  if (values === undefined) return '–'
  const middle = median(values)
  const shown = middle < 100 ? middle.toFixed(middle < 10 ? 2 : 1) : Math.round(middle).toLocaleString('en')
  return `${shown} ± ${spread(values).toFixed(0)} %`
}

function list(lines: readonly string[]): string {
  return lines.map((line) => `- ${line}`).join('\n')
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}
