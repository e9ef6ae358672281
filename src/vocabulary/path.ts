/** Places inside a value, for messages. Keys are shortened, because a key may be as long as the value. */

/** `args.items[2]["a b"]` */
export function formatPath(root: string, path: readonly PropertyKey[]): string {
  const text = path.map(formatKey).join('')
  return root + (text.length <= MAX_PATH ? text : `${text.slice(0, MAX_PATH / 2)}…${text.slice(-MAX_PATH / 2)}`)
}

const MAX_PATH = 200
const MAX_KEY = 40

function formatKey(key: PropertyKey): string {
  if (typeof key === 'number') return `[${key}]`
  const text = typeof key === 'symbol' ? key.toString() : key
  const shown = text.length <= MAX_KEY ? text : `${text.slice(0, MAX_KEY)}…`
  if (typeof key === 'symbol') return `[${shown}]`
  return /^[\p{ID_Start}$_][\p{ID_Continue}$]*…?$/u.test(shown) ? `.${shown}` : `[${JSON.stringify(shown)}]`
}
