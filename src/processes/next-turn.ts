type Schedule = (callback: () => void) => unknown

/**
 * Calls back when all that is ready now is through. At once where the runtime can (Node, Deno, Bun), after the shortest
 * timer elsewhere.
 */
export const onNextTurn: Schedule =
  (globalThis as { setImmediate?: Schedule }).setImmediate ?? ((callback) => setTimeout(callback, 0))

export function nextTurn(): Promise<void> {
  return new Promise((resolve) => onNextTurn(resolve))
}
