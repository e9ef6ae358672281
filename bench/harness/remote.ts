/** A process of a side, as main.ts sees it. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { SideName } from '../side.ts'
import type { SideProcess } from './side-process.ts'

type Method = keyof SideProcess
type Answer<M extends Method> = Awaited<ReturnType<SideProcess[M]>>

interface Reply {
  readonly id: number
  readonly answer?: unknown
  readonly failure?: string
}

interface Waiting {
  resolve(answer: unknown): void
  reject(error: Error): void
}

export class Remote {
  readonly side: SideName
  readonly url: string
  readonly #process: ChildProcess
  readonly #waiting = new Map<number, Waiting>()
  #calls = 0

  constructor(side: SideName, url: string) {
    this.side = side
    this.url = url
    this.#process = fork(fileURLToPath(new URL('side-process.ts', import.meta.url)), [side, url], {
      serialization: 'advanced',
      // As in graphile-worker's own measurements: no line for each task.
      env: { ...process.env, NO_LOG_SUCCESS: '1' },
    })
    this.#process.on('message', ({ id, answer, failure }: Reply) => {
      const waiting = this.#waiting.get(id)
      this.#waiting.delete(id)
      if (failure === undefined) waiting?.resolve(answer)
      else waiting?.reject(new Error(`${side}: ${failure}`))
    })
    this.#process.on('exit', (code, signal) => {
      for (const waiting of this.#waiting.values()) {
        waiting.reject(new Error(`A process of ${side} ended with ${signal ?? `code ${code}`}.`))
      }
    })
  }

  call<M extends Method>(method: M, ...args: Parameters<SideProcess[M]>): Promise<Answer<M>> {
    return new Promise<unknown>((resolve, reject) => {
      const id = this.#calls++
      this.#waiting.set(id, { resolve, reject })
      this.#process.send({ id, method, args: args[0] })
    }) as Promise<Answer<M>>
  }

  async end(): Promise<void> {
    await this.call('close')
    const ended = once(this.#process, 'exit')
    this.#process.disconnect()
    await ended
  }
}
