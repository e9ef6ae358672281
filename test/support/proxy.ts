/**
 * A TCP proxy in front of a PostgreSQL server, for tests of lost connections and lost answers. Without TLS.
 */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

export interface PostgresProxy {
  url: string
  /** Round trips so far: how often a client began to send after the server had spoken. Connecting counts too. */
  readonly turns: number
  /** Closes all connections. New ones are accepted. */
  cut(): void
  /** From now on, on connections old and new, nothing arrives on either side and nothing is closed. */
  swallow(): void
  /** Ends `swallow`: closes its connections, new ones work. */
  restore(): void
  /**
   * Forwards the next message of a client that contains the text, whether in SQL or in a parameter, and closes that
   * connection when the server has executed and committed, without passing its answer on.
   *
   * Not for a statement inside a postgres.js transaction: when its connection closes, postgres.js 3.4.9 throws where
   * nobody can catch it (porsager/postgres issue 1208). Losing the answer to `commit` is fine.
   *
   * @returns resolves when the connection has been closed.
   */
  loseAnswer(text: string): Promise<void>
  stop(): Promise<void>
}

/** A prepared statement is announced before its parameters are sent; these answers keep it going. */
const ANSWERS_BEFORE_EXECUTION = ['1', 't', 'T', 'n']

export async function startProxy(serverUrl: string): Promise<PostgresProxy> {
  const target = new URL(serverUrl)
  const connections = new Set<Connection>()
  const losses: Loss[] = []
  let turns = 0
  let swallowing = false

  const server = createServer((client) => {
    const upstream = connect(Number(target.port || 5432), target.hostname)
    const connection = new Connection(client, upstream, losses, () => turns++)
    connection.swallowing = swallowing
    connections.add(connection)
    client.on('close', () => connections.delete(connection))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')

  const url = new URL(serverUrl)
  url.hostname = '127.0.0.1'
  url.port = String((server.address() as AddressInfo).port)

  const cut = () => {
    for (const connection of connections) connection.close()
  }
  return {
    url: url.href,
    get turns() {
      return turns
    },
    cut,
    swallow() {
      swallowing = true
      for (const connection of connections) connection.swallowing = true
    },
    restore() {
      swallowing = false
      for (const connection of connections) if (connection.swallowing) connection.close()
    },
    loseAnswer: (text) => new Promise((done) => losses.push({ text: Buffer.from(text), done })),
    async stop() {
      cut()
      server.close()
      await once(server, 'close')
    },
  }
}

interface Loss {
  text: Buffer
  done: () => void
}

class Connection {
  swallowing = false
  private sender: 'client' | 'server' = 'server'
  /** Each startup message, Sync and Query of the client is answered by one ReadyForQuery of the server. */
  private requests = 0
  private answers = 0
  private losing: { answer: number; done: () => void } | undefined

  constructor(
    private readonly client: Socket,
    private readonly upstream: Socket,
    private readonly losses: Loss[],
    private readonly onTurn: () => void,
  ) {
    const readClient = messageReader((message, type) => this.fromClient(message, type), { startup: true })
    const readServer = messageReader((message, type) => this.fromServer(message, type))
    client.on('data', (bytes) => {
      if (this.swallowing) return
      if (this.sender === 'server') this.onTurn()
      this.sender = 'client'
      readClient(bytes)
    })
    upstream.on('data', (bytes) => {
      if (this.swallowing) return
      this.sender = 'server'
      readServer(bytes)
    })
    for (const socket of [client, upstream]) {
      socket.setNoDelay(true)
      socket.on('error', () => this.close())
      socket.on('close', () => this.close())
    }
  }

  close(): void {
    this.client.destroy()
    this.upstream.destroy()
  }

  private fromClient(message: Buffer, type: string): void {
    const loss = this.losses.find(({ text }) => message.includes(text))
    if (loss && !this.losing) {
      this.losses.splice(this.losses.indexOf(loss), 1)
      this.losing = { answer: this.requests + 1, done: loss.done }
    }
    if (type === 'startup' || type === 'S' || type === 'Q') this.requests++
    this.upstream.write(message)
  }

  private fromServer(message: Buffer, type: string): void {
    const answer = this.answers + 1
    if (type === 'Z') this.answers++
    if (this.losing?.answer !== answer) return void this.client.write(message)
    if (ANSWERS_BEFORE_EXECUTION.includes(type)) this.client.write(message)
    if (type !== 'Z') return
    this.close()
    this.losing.done()
  }
}

/** Splits a stream into protocol messages: a type byte (missing in the startup message), a length, a body. */
function messageReader(onMessage: (message: Buffer, type: string) => void, { startup = false } = {}) {
  let rest = Buffer.alloc(0)
  return (bytes: Buffer) => {
    rest = Buffer.concat([rest, bytes])
    for (;;) {
      const header = startup ? 4 : 5
      if (rest.length < header) return
      const end = rest.readUInt32BE(header - 4) + header - 4
      if (rest.length < end) return
      const message = rest.subarray(0, end)
      rest = rest.subarray(end)
      const type = startup ? 'startup' : String.fromCharCode(message.readUInt8(0))
      startup = false
      onMessage(message, type)
    }
  }
}
