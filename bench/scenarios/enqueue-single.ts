/** Enqueue one by one, 16 concurrent callers, each promise awaited. */
import { enqueueing } from '../harness/enqueueing.ts'

export const enqueueSingle = enqueueing('enqueue-single', { inTransaction: false, target: { peer: 10, floor: 4 } })
