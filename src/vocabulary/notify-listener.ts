/** Made by `createNotifyListener`; the `listen` setting takes it. */
export interface NotifyListener extends AsyncDisposable {
  readonly [brand]: 'NotifyListener'
}

const brand = Symbol('NotifyListener')

export function newNotifyListener(close: () => Promise<void>): NotifyListener {
  return Object.freeze({ [brand]: 'NotifyListener' as const, [Symbol.asyncDispose]: close })
}

export function isNotifyListener(value: unknown): value is NotifyListener {
  return typeof value === 'object' && value !== null && brand in value
}
