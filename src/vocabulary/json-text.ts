/** Integers in JSON text that a JavaScript number would change without a word, such as a Rust u64 above 2^53. */

/** Whether all integers of valid JSON text survive `JSON.parse`. */
export function keepsIntegers(json: string): boolean {
  if (!/\d{16}/.test(json)) return true
  for (let at = 0; at < json.length; at++) {
    const char = json.charCodeAt(at)
    if (char === QUOTE) {
      at = endOfString(json, at)
    } else if (char === MINUS || isDigit(char)) {
      const end = endOfNumber(json, at)
      if (end - at >= 16 && !keepsInteger(json.slice(at, end))) return false
      at = end - 1
    }
  }
  return true
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const MINUS = 0x2d

function keepsInteger(token: string): boolean {
  if (!/^-?\d+$/.test(token)) return true
  const number = Number(token)
  if (!Number.isFinite(number)) return false
  const printed = String(number)
  if (printed === token) return true
  // JSON.stringify rounds 2**67 to 17 digits, and jsonb prints 1e+23 in full: both name the number in its shortest form.
  return significantDigits(printed) === significantDigits(token) || BigInt(number) === BigInt(token)
}

function significantDigits(number: string): string {
  return number
    .replace(/e.*$/, '')
    .replace(/[-.]/g, '')
    .replace(/^0+|0+$/g, '')
}

function endOfString(json: string, start: number): number {
  let at = start + 1
  while (json.charCodeAt(at) !== QUOTE) at += json.charCodeAt(at) === BACKSLASH ? 2 : 1
  return at
}

function endOfNumber(json: string, start: number): number {
  let at = start + 1
  while (isNumberPart(json.charCodeAt(at))) at++
  return at
}

/** A digit, or one of `.eE+-`; not NaN, which is what there is after the end. */
function isNumberPart(char: number): boolean {
  return isDigit(char) || char === 0x2e || char === 0x65 || char === 0x45 || char === 0x2b || char === MINUS
}

function isDigit(char: number): boolean {
  return char >= 0x30 && char <= 0x39
}
