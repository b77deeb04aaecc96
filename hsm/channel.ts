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
const MAX_UNREAD_BYTES = 16 * 1024 * 1024

export function serveChannel(stream: Duplex, handler: Handler, log: AgentLog): void {
  const splitter = new FrameSplitter()
  stream.on('data', (chunk: Buffer) => {
    try {
      for (const frame of splitter.push(chunk)) void answer(readRequest(decodeFrame(frame)))
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      log.warn('connection ended: it does not speak the protocol', { error: error.message })
      stream.destroy()
    }
  })
  stream.on('error', (error) => log.warn('connection failed', { error: error.message }))

  async function answer({ id, method, timeoutMs, argument }: AgentRequest): Promise<void> {
    const deadlineAtMs = performance.now() + Math.min(Math.max(timeoutMs, 0), MAX_TIMEOUT_MS)
    try {
      send(answerValue({ id, result: await handler(method, argument, deadlineAtMs) }))
    } catch (error) {
      send(answerValue({ id, error: errorOf(error, method) }))
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
