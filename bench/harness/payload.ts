/** The same for every side. */
export interface Payload {
  /** Which task of the run it is, from 0. */
  readonly n: number
  readonly to: string
  readonly template: string
}

export function payload(n: number): Payload {
  return { n, to: `customer-${n}@example.com`, template: 'receipt' }
}

export function payloads(count: number, first = 0): Payload[] {
  return Array.from({ length: count }, (_, index) => payload(first + index))
}
