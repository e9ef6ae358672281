import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { InvalidArgumentError } from '../src/vocabulary/errors.js'
import { checkIdempotencyKey, checkQueueName, checkWorkerName } from '../src/vocabulary/limits.js'
import { formatPath } from '../src/vocabulary/path.js'

const parts = fc.oneof(
  fc.constantFrom('"', "'", '\\', '\0', '\ud800', '\udc00', '\u{1f600}', '€', 'x'.repeat(300)),
  fc.string({ unit: 'binary' }),
)
const anyText = fc.array(parts).map((text) => text.join(''))

describe.each([
  ['a queue', checkQueueName, 255, 1],
  ['a worker', checkWorkerName, 255, 1],
  ['an idempotency key', checkIdempotencyKey, 1024, 0],
])('the text of %s', (_, check, maxBytes, minBytes) => {
  it('is what was given, or refused for NUL, lone surrogates or its length', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const bytes = Buffer.byteLength(text)
        const storable = text.isWellFormed() && !text.includes('\0') && bytes <= maxBytes && bytes >= minBytes
        if (storable) expect(check(text)).toBe(text)
        else expect(() => check(text)).toThrow(InvalidArgumentError)
      }),
      { numRuns: 1000 },
    )
  })

  it('is refused only when strictly longer than the limit', () => {
    expect(check('x'.repeat(maxBytes))).toHaveLength(maxBytes)
    expect(() => check('x'.repeat(maxBytes + 1))).toThrow(`the limit is ${maxBytes}`)
  })
})

describe('formatPath', () => {
  it.each<[PropertyKey[], string]>([
    [[], 'args'],
    [['a', 0, 'b'], 'args.a[0].b'],
    [['a b', '', '"', 'ünï', '$_1'], 'args["a b"][""]["\\""].ünï.$_1'],
    [['0', '1a'], 'args["0"]["1a"]'],
    [[Symbol('s')], 'args[Symbol(s)]'],
    [['x'.repeat(50)], `args.${'x'.repeat(40)}…`],
  ])('%j', (path, text) => {
    expect(formatPath('args', path)).toBe(text)
  })

  it('shows both ends of a long path', () => {
    const text = formatPath('args', ['first', ...Array<string>(100).fill('middle'), 'last'])
    expect(text).toMatch(/^args\.first\.middle.*….*\.last$/)
    expect(text.length).toBeLessThan(210)
  })
})
