import { randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Logger } from 'pino'
import type { BodyAccount, BodyBudget } from './body.ts'
import type { EndpointAnswer, Section } from './endpoint.ts'
import { countRequest } from './metrics.ts'

/** Log fields that a client chooses are cut to this length. */
const LOGGED_CHARACTERS = 256

/** Makes ids unique over processes and restarts; the count within one is cheaper than randomness for each. */
const PROCESS_ID = randomBytes(9).toString('base64url')
let requests = 0

/** One request from its first byte to its end, whichever way it ends: exactly one log line, one count, one release. */
export class Exchange {
  readonly requestId: string
  readonly method: string
  readonly account: BodyAccount
  /** The folded path, for the log. */
  path = ''
  section: Section | undefined
  /** The endpoint's pattern; empty while none has matched. */
  endpoint = ''
  /** Why an unknown error was answered; goes to the log alone. */
  error: unknown
  /** What the listener did by itself: `body_cut`, `answer_late`, … */
  note: string | undefined
  readonly #started = performance.now()
  readonly #remote: string | undefined
  readonly #response: ServerResponse
  readonly #abort = new AbortController()
  readonly #logger: Pick<Logger, 'info' | 'warn' | 'error'> | undefined
  readonly #onEnd: () => void
  #answer: EndpointAnswer | undefined
  #delivered = false
  #ended = false
  #deliveryTimer: NodeJS.Timeout | undefined

  constructor(options: {
    readonly request: IncomingMessage
    readonly response: ServerResponse
    readonly budget: BodyBudget
    readonly logger: Pick<Logger, 'info' | 'warn' | 'error'> | undefined
    readonly onEnd: () => void
  }) {
    this.#remote = options.request.socket.remoteAddress
    this.#response = options.response
    this.#logger = options.logger
    this.#onEnd = options.onEnd
    this.method = options.request.method ?? ''
    this.requestId = requestIdOf(options.request)
    this.account = options.budget.open()
    const { socket } = options.request
    // First of all listeners: Node's own lets go of the socket. One that can still be written to took the last byte.
    options.response.prependListener('finish', () => {
      this.#delivered = socket.writable
      if (this.#delivered) this.#answer?.delivered?.()
    })
    options.response.once('close', () => this.end())
  }

  get signal(): AbortSignal {
    return this.#abort.signal
  }

  get ended(): boolean {
    return this.#ended
  }

  /** The answer that is about to be sent. */
  answered(answer: EndpointAnswer): void {
    this.#answer = answer
  }

  /** The connection or the writing of the answer failed. A peer that went away is no error of ours. */
  failed(error: unknown): void {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ECONNRESET' || code === 'EPIPE') this.note ??= 'connection_reset'
    else this.error ??= error
  }

  /** The time for this request is over: whoever works on it may stop. */
  giveUp(): void {
    this.#abort.abort()
  }

  /** The request is over, delivered or not. Idempotent. */
  end(): void {
    if (this.#ended) return
    this.#ended = true
    clearTimeout(this.#deliveryTimer)
    this.account.release()
    if (!this.#delivered) this.#abort.abort()
    const seconds = (performance.now() - this.#started) / 1000
    const status = this.#answer?.status ?? 0
    countRequest({ service: this.section?.name ?? '', endpoint: this.endpoint, method: this.method, status, seconds })
    if (this.#answer) {
      this.section?.observe?.({ endpoint: this.endpoint, method: this.method, status, seconds })
    }
    this.#log(status, seconds)
    this.#onEnd()
  }

  #log(status: number, seconds: number): void {
    const logger = this.#logger
    if (!logger) return
    const line = {
      ...this.#answer?.log,
      requestId: this.requestId,
      service: this.section?.name,
      endpoint: this.endpoint || undefined,
      method: this.method.slice(0, LOGGED_CHARACTERS),
      path: this.path.slice(0, LOGGED_CHARACTERS),
      status,
      delivered: this.#delivered,
      milliseconds: Math.round(seconds * 1e6) / 1e3,
      remote: this.#remote,
      note: this.note,
      ...(this.error === undefined ? {} : { err: this.error }),
    }
    if (status >= 500 && status !== 503) logger.error(line, 'request')
    else if (status >= 400 || status === 0) logger.warn(line, 'request')
    else logger.info(line, 'request')
  }

  /** Cuts the connection of a peer that has not taken its answer after this time. */
  cutUnless(takenWithinMs: number): void {
    if (this.#ended) return
    this.#deliveryTimer = setTimeout(() => {
      this.note ??= 'answer_not_taken'
      this.#response.destroy()
    }, takenWithinMs)
  }
}

/** The client's own id if it is one that can be logged, else a fresh one. */
function requestIdOf(request: IncomingMessage): string {
  const sent = request.headers['x-request-id']
  return typeof sent === 'string' && /^[\x21-\x7e]{1,128}$/.test(sent)
    ? sent
    : `${PROCESS_ID}-${(++requests).toString(36)}`
}
