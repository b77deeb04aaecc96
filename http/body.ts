import type { IncomingMessage, ServerResponse } from 'node:http'

/** Bodies up to this size are never crowded out by larger ones. */
const SMALL_BODY_BYTES = 1 << 20

/**
 * A refused body is read on for this long and this far: a client that sends first and reads later would otherwise find
 * its connection reset, and never see the answer. Time is the bound that matters; nothing of it is kept.
 */
const DISCARD_BYTES = 64 << 20
const DISCARD_MS = 2_000

/**
 * The memory that bodies under way may hold, over all requests of the listeners that share it. What a body holds over
 * 1 MiB comes out of one half only, so that a few large uploads cannot starve ordinary requests.
 */
export class BodyBudget {
  readonly #totalBytes: number
  #heldBytes = 0
  #largeBytes = 0

  /** totalBytes: the most that all bodies under way may hold together. */
  constructor(totalBytes: number) {
    this.#totalBytes = totalBytes
  }

  /** What is held now, in bytes. */
  get heldBytes(): number {
    return this.#heldBytes
  }

  /** An account for one body; `release` it when its request is over. */
  open(): BodyAccount {
    let held = 0
    return {
      take: (bytes) => {
        const largeBefore = Math.max(0, held - SMALL_BODY_BYTES)
        const largeAfter = Math.max(0, held + bytes - SMALL_BODY_BYTES)
        if (this.#heldBytes + bytes > this.#totalBytes) return false
        if (largeAfter > largeBefore && this.#largeBytes + largeAfter - largeBefore > this.#totalBytes / 2) return false
        held += bytes
        this.#heldBytes += bytes
        this.#largeBytes += largeAfter - largeBefore
        return true
      },
      release: () => {
        this.#heldBytes -= held
        this.#largeBytes -= Math.max(0, held - SMALL_BODY_BYTES)
        held = 0
      },
    }
  }
}

/** What one body holds of a `BodyBudget`. `take` answers false, and takes nothing, when the budget does not allow it. */
export interface BodyAccount {
  readonly take: (bytes: number) => boolean
  readonly release: () => void
}

export type BodyFault = 'tooLarge' | 'timedOut' | 'overloaded' | 'cut'
export type BodyOutcome =
  | { readonly ok: true; readonly bytes: Uint8Array }
  | { readonly ok: false; readonly fault: BodyFault }

export interface ReadBodyOptions {
  readonly limitBytes: number
  readonly timeoutMs: number
  readonly account: BodyAccount
  /** The client waits for `100 Continue` before it sends; it gets it only for a body that may come. */
  readonly awaitsContinue: boolean
}

const NO_BODY: BodyOutcome = { ok: true, bytes: new Uint8Array(0) }

/** Reads a request's body whole, bounded in size, time and memory. Never rejects; after a fault the connection must close. */
export async function readBody(
  request: IncomingMessage,
  response: ServerResponse,
  options: ReadBodyOptions,
): Promise<BodyOutcome> {
  const declared = Number(request.headers['content-length'] ?? 0)
  if (declared === 0 && request.headers['transfer-encoding'] === undefined) return NO_BODY
  const outcome: BodyOutcome = declared > options.limitBytes ? { ok: false, fault: 'tooLarge' } : await gather()
  const stillSending = !outcome.ok && (outcome.fault === 'tooLarge' || outcome.fault === 'overloaded')
  if (stillSending && !(options.awaitsContinue && declared > options.limitBytes)) await discard(request)
  return outcome

  async function gather(): Promise<BodyOutcome> {
    if (options.awaitsContinue) response.writeContinue()
    return collect(request, options)
  }
}

function collect(request: IncomingMessage, options: ReadBodyOptions): Promise<BodyOutcome> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    let size = 0
    const timer = setTimeout(() => finish({ ok: false, fault: 'timedOut' }), options.timeoutMs)
    const onData = (chunk: Buffer): void => {
      size += chunk.length
      if (size > options.limitBytes) finish({ ok: false, fault: 'tooLarge' })
      else if (!options.account.take(chunk.length)) finish({ ok: false, fault: 'overloaded' })
      else chunks.push(chunk)
    }
    const onEnd = (): void => {
      const [first] = chunks
      finish({ ok: true, bytes: chunks.length === 1 && first ? first : Buffer.concat(chunks, size) })
    }
    const onCut = (): void => finish({ ok: false, fault: 'cut' })
    function finish(outcome: BodyOutcome): void {
      clearTimeout(timer)
      request.off('data', onData).off('end', onEnd).off('error', onCut).off('close', onCut)
      // An aborted request still emits `error` after this; without a listener that would end the process.
      request.on('error', () => {})
      if (!outcome.ok) {
        request.pause()
        options.account.release()
      }
      resolve(outcome)
    }
    request.on('data', onData).on('end', onEnd).on('error', onCut).on('close', onCut)
  })
}

/** Reads and forgets what still comes of a refused body, bounded; resolves when there is no more or the bound is reached. */
function discard(request: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    if (request.readableEnded || request.destroyed) return resolve()
    let size = 0
    const timer = setTimeout(finish, DISCARD_MS)
    function onData(chunk: Buffer): void {
      size += chunk.length
      if (size > DISCARD_BYTES) finish()
    }
    function finish(): void {
      clearTimeout(timer)
      request.off('data', onData).off('end', finish).off('close', finish).pause()
      resolve()
    }
    request.on('error', () => {})
    request.on('data', onData).on('end', finish).on('close', finish).resume()
  })
}
