/**
 * A closed loop over raw sockets: each connection sends the next request when the answer to its last one is complete.
 * A client library would take more CPU than some of the servers' answers and there are few cores to share.
 */
import { connect, type Socket } from 'node:net'

/** A whole HTTP/1.1 request, made before the clock starts. */
export interface PreparedRequest {
  readonly bytes: Uint8Array
  /** Throws if the answer's body does not hold what was asked for; called for a sample, after the clock has stopped. */
  readonly verify: (body: Uint8Array) => void
}

export interface LoadResult {
  readonly seconds: number
  /** Milliseconds, of answers with the expected status, in order of completion. */
  readonly latenciesMs: Float64Array
  /** Answers with another status, each with an example. */
  readonly failures: Readonly<Record<string, { count: number; example: string }>>
  readonly answerBytes: number
  /** One in `SAMPLED` answers, to be verified. */
  readonly sample: readonly { readonly request: PreparedRequest; readonly body: Uint8Array }[]
}

const SAMPLED = 100

/** Sends `requests` one after the other over so many connections, until they or the seconds run out. */
export async function load(options: {
  readonly url: string
  readonly requests: readonly PreparedRequest[]
  readonly connections: number
  readonly seconds: number
  readonly expectedStatus: number
}): Promise<LoadResult> {
  const { requests, connections, seconds, expectedStatus } = options
  const { hostname, port } = new URL(options.url)
  const sockets = await Promise.all(Array.from({ length: connections }, () => open(hostname, Number(port))))
  const latencies: number[] = []
  const failures: Record<string, { count: number; example: string }> = {}
  const sample: { request: PreparedRequest; body: Uint8Array }[] = []
  let next = 0
  let answerBytes = 0
  const start = performance.now()
  const until = start + seconds * 1000

  const loop = async (socket: Socket): Promise<void> => {
    const answers = new Answers(socket)
    for (;;) {
      const request = requests[next]
      if (request === undefined || performance.now() >= until) break
      const sampled = next++ % SAMPLED === 0
      const sentAt = performance.now()
      socket.write(request.bytes)
      const { status, body } = await answers.next()
      if (status !== expectedStatus) {
        const failure = (failures[status] ??= { count: 0, example: Buffer.from(body).toString('latin1').slice(0, 200) })
        failure.count++
        continue
      }
      latencies.push(performance.now() - sentAt)
      answerBytes += body.length
      if (sampled) sample.push({ request, body })
    }
  }
  await Promise.all(sockets.map(loop))
  const elapsed = (performance.now() - start) / 1000
  for (const socket of sockets) socket.destroy()
  return { seconds: elapsed, latenciesMs: Float64Array.from(latencies), failures, answerBytes, sample }
}

/** The bytes of a request; `Host` names the server since sections may share a listener. */
export function httpRequest(
  url: string,
  options: { readonly body?: Uint8Array | string; readonly type?: string; readonly accept?: string } = {},
): Uint8Array {
  const { host, pathname, search } = new URL(url)
  const { body, type = 'application/json', accept = '*/*' } = options
  const content = body === undefined ? undefined : Buffer.from(body)
  const head = [
    `${content === undefined ? 'GET' : 'POST'} ${pathname}${search} HTTP/1.1`,
    `host: ${host}`,
    `accept: ${accept}`,
    'user-agent: chancery-bench',
    ...(content === undefined ? [] : [`content-type: ${type}`, `content-length: ${content.length}`]),
  ]
  return Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`, 'latin1'), content ?? Buffer.alloc(0)])
}

interface Answer {
  readonly status: number
  readonly body: Uint8Array
}

/** Reads answers with a Content-Length, which every answer of our listener has, off one connection. */
class Answers {
  #pending: Buffer = Buffer.alloc(0)
  #waiting: PromiseWithResolvers<Answer> | undefined

  constructor(socket: Socket) {
    socket.on('data', (chunk: Buffer) => {
      this.#pending = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk])
      this.#settle()
    })
    socket.once('close', () => this.#waiting?.reject(new Error('the server closed a connection')))
    socket.on('error', (error) => this.#waiting?.reject(error))
  }

  next(): Promise<Answer> {
    this.#waiting = Promise.withResolvers<Answer>()
    return this.#waiting.promise
  }

  #settle(): void {
    const headEnd = this.#pending.indexOf('\r\n\r\n')
    if (headEnd < 0) return
    const head = this.#pending.toString('latin1', 0, headEnd)
    const length = /\r\ncontent-length: (\d+)/i.exec(head)?.[1]
    if (length === undefined) {
      this.#waiting?.reject(new Error(`answer without a length: ${head.slice(0, 200)}`))
      return
    }
    const end = headEnd + 4 + Number(length)
    if (this.#pending.length < end) return
    const body = this.#pending.subarray(headEnd + 4, end)
    this.#pending = this.#pending.subarray(end)
    // `HTTP/1.1 200 …`
    this.#waiting?.resolve({ status: Number(head.slice(9, 12)), body })
  }
}

function open(host: string, port: number): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>()
  const socket = connect({ host, port, noDelay: true })
  socket.once('connect', () => resolve(socket))
  socket.once('error', reject)
  return promise
}
