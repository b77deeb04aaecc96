/** The agent's end of one connection: frames in, answers out, in the order in which they are ready. */
import type { Duplex } from 'node:stream'
import type { AgentLog } from './log-line.ts'
import { answerValue, readRequest, type AgentRequest } from './protocol.ts'
import { HsmError } from './signing.ts'
import { decodeFrame, encodeFrame, FrameSplitter, WireError, writeTogether, type WireValue } from './wire.ts'

/** Answers one request; rejects with `HsmError`. `deadlineAtMs` is on the scale of `performance.now()`. */
export type Handler = (method: string, argument: WireValue, deadlineAtMs: number) => Promise<WireValue>

/** No client of ours waits longer, and a hostile one shall not keep requests waiting for days. */
const MAX_TIMEOUT_MS = 120_000

/** A peer that sends requests and reads no answers is cut off here, before its answers fill our memory. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024

/** A client of ours writes a frame at once; one that begins a frame and does not end it holds memory for nothing. */
const FRAME_WITHIN_MS = 10_000

/** Requests under way and the bytes of their frames. */
export interface Load {
  readonly requests: number
  readonly bytes: number
}

/** How much of a load is taken, within a wider one. */
export class LoadBound {
  readonly #most: Load
  readonly #within: LoadBound | undefined
  #requests = 0
  #bytes = 0

  constructor(most: Load, within?: LoadBound) {
    this.#most = most
    this.#within = within
  }

  /** True, and a request of so many bytes is under way; false if it would be too much here or in the wider bound. */
  take(bytes: number): boolean {
    if (this.#requests >= this.#most.requests || this.#bytes + bytes > this.#most.bytes) return false
    if (this.#within?.take(bytes) === false) return false
    this.#requests++
    this.#bytes += bytes
    return true
  }

  giveBack(bytes: number): void {
    this.#requests--
    this.#bytes -= bytes
    this.#within?.giveBack(bytes)
  }
}

/** Serves the stream until it ends. Requests beyond `bound` are answered `busy`; what is no frame ends the connection. */
export function serveChannel(stream: Duplex, handler: Handler, bound: LoadBound, log: AgentLog): void {
  const splitter = new FrameSplitter()
  let unfinished: NodeJS.Timeout | undefined
  stream.on('data', (chunk: Buffer) => {
    try {
      const frames = splitter.push(chunk)
      watchUnfinished(frames.length > 0)
      for (const frame of frames) void answer(readRequest(decodeFrame(frame)), frame.length)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      log.warn('connection ended: it does not speak the protocol', { error: error.message })
      stream.destroy()
    }
  })
  stream.on('error', (error) => log.warn('connection failed', { error: error.message }))
  stream.once('close', () => clearTimeout(unfinished))

  /** Each frame has its time from its first byte on. */
  function watchUnfinished(anotherBegan: boolean): void {
    if (anotherBegan || !splitter.inFrame) {
      clearTimeout(unfinished)
      unfinished = undefined
    }
    if (!splitter.inFrame || unfinished !== undefined) return
    const end = () => {
      log.warn('connection ended: it began a frame and did not end it')
      stream.destroy()
    }
    unfinished = setTimeout(() => {
      // A module that held the event loop all that time kept us from reading what has come: one more second for it.
      unfinished = setTimeout(end, 1000)
    }, FRAME_WITHIN_MS - 1000)
  }

  async function answer({ id, method, timeoutMs, argument }: AgentRequest, bytes: number): Promise<void> {
    const deadlineAtMs = performance.now() + Math.min(Math.max(timeoutMs, 0), MAX_TIMEOUT_MS)
    if (!bound.take(bytes)) {
      const error = new HsmError('busy', 'too_many_requests', 'too many requests of this connection are under way')
      send(answerValue({ id, error }))
      return
    }
    try {
      send(answerValue({ id, result: await handler(method, argument, deadlineAtMs) }))
    } catch (error) {
      send(answerValue({ id, error: errorOf(error, method) }))
    } finally {
      bound.giveBack(bytes)
    }
  }

  function send(value: WireValue): void {
    if (stream.destroyed || !stream.writable) return
    writeTogether(stream, encodeFrame(value))
    if (stream.writableLength > MAX_UNREAD_BYTES) stream.destroy()
  }

  function errorOf(error: unknown, method: string): HsmError {
    if (error instanceof HsmError) return error
    log.error('request failed', { method, error: error instanceof Error ? (error.stack ?? error.message) : 'unknown' })
    return new HsmError('unavailable', 'internal', 'the agent failed; its log says why')
  }
}
