/**
 * Stored bytes made to cost their reader much more than their length, each about as large as a payload may be. Run as a
 * program of its own it reads them all and prints what each has cost.
 */
import { pathToFileURL } from 'node:url'
import { superjsonCodec } from '../../src/vocabulary/codec.js'

export interface Cost {
  readonly name: string
  readonly outcome: string
  readonly cpuMs: number
  readonly peakMemoryMb: number
}

const SIZE = 1_000_000

const fill = (part: string, length = SIZE) => part.repeat(Math.floor(length / part.length))
const list = (length: number, part: (index: number) => string) =>
  Array.from({ length }, (_, index) => part(index)).join()
const envelope = (json: string, values: string) => `{"json":${json},"meta":{"values":${values},"v":1}}`
const each = (length: number, json: (index: number) => string, type: string) =>
  envelope(`[${list(length, json)}]`, `{${list(length, (index) => `"${index}":["${type}"]`)}}`)

const ATTACKS: Record<string, () => string> = {
  'the length of a typed array': () => envelope('{"length":268435456}', '[["typed-array","Float64Array"]]'),
  'a huge array index': () => envelope('[]', '{"4294967290":["Date"]}'),
  'identities that square': () =>
    `{"json":{"a":[]},"meta":{"values":{},"v":1,"referentialEqualities":{"a":[${list(80_000, () => '"a.0"')}]}}}`,
  'brackets in brackets': () => fill('[', SIZE / 2) + fill(']', SIZE / 2),
  'annotations in annotations': () => envelope('0', `${fill('{"a":', SIZE / 6)}[]${fill('}', SIZE / 6)}`),
  'nested parts of sets': () => envelope('0', `${fill('["set",{"0":', SIZE / 2)}[]${'}]'.repeat(SIZE / 24)}`),
  'a long path': () => envelope('{"a":1}', `{"${fill('a.')}":["Date"]}`),
  'paths into a set': () =>
    envelope(
      `{"a":[${list(100_000, () => '""')}]}`,
      `{"a":["set"],${list(30_000, (index) => `"a.${index}":["Date"]`)}}`,
    ),
  'one long bigint': () => envelope(`"${fill('9')}"`, '["bigint"]'),
  'many long bigints': () => each(49, () => `"${fill('9', 20_000)}"`, 'bigint'),
  'a RegExp of groups': () => envelope(`"/${fill('(', SIZE / 2)}${fill(')', SIZE / 2)}/"`, '["regexp"]'),
  'RegExps of Unicode properties': () => each(20_000, () => '"/\\\\p{L}\\\\P{L}\\\\p{Lu}/iu"', 'regexp'),
  'RegExps of emoji': () => each(20_000, () => '"/[\\\\p{RGI_Emoji}--\\\\p{L}]/iv"', 'regexp'),
  'a long host name': () =>
    envelope(
      `"http://${list(150_000, (index) => String.fromCodePoint(0x4e00 + (index % 20_000))).replaceAll(',', '')}/"`,
      '["URL"]',
    ),
  'many host names': () => each(40, () => `"http://${fill('\u4e00\u4e8c\u4e09', 8000)}/"`, 'URL'),
  'a long date': () => envelope(`"${fill('(')}"`, '["Date"]'),
  'long integers': () => `[${list(58_000, () => '147573952589676412928')}]`,
  'one long integer': () => fill('1'),
  'long fractions': () => `[${list(3_000, (index) => `0.${fill('1', 300)}${index}`)}]`,
  'escapes after long digits': () => `["1234567890123456${fill('\\\\')}"]`,
  'keys that collide': () => `{${list(80_000, (index) => `"${index * 4096}":0`)}}`,
}

function readAll(): void {
  for (const [name, json] of Object.entries(ATTACKS)) {
    const bytes = new TextEncoder().encode(json())
    const before = process.cpuUsage()
    const outcome = read(bytes)
    const { user, system } = process.cpuUsage(before)
    const cost: Cost = {
      name,
      outcome,
      cpuMs: (user + system) / 1000,
      peakMemoryMb: process.resourceUsage().maxRSS / 1024,
    }
    console.log(JSON.stringify(cost))
  }
}

function read(bytes: Uint8Array): string {
  try {
    superjsonCodec.decode(bytes)
    return 'read'
  } catch (error) {
    return error instanceof Error ? error.constructor.name : 'unknown'
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) readAll()
