/**
 * The load: a process of its own (`node loader.ts`) that knows the services by their HTTP interfaces alone and imports
 * nothing of the system. Each connection sends one request at a time and writes its outcome durably into a file of its
 * own before it sends the next; so what these files call acknowledged is what a client would rely on.
 *
 * It also does the killing: it alone knows at that moment how many requests are under way.
 */
import { type FileHandle, mkdir, open } from 'node:fs/promises'
import { Agent, request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import {
  certificateRequest,
  type EntryRequest,
  keyPair,
  type KeyPair,
  requestOf,
  timestampRequest,
} from './requests.ts'

/** Which service a connection uses. `watch` reads checkpoints and tree heads all the time. */
export type Use = 'v1' | 'v2' | 'ca' | 'tsa' | 'watch'

export interface Load {
  /** The lanes' files go here. */
  readonly folder: string
  /** Makes every message of this load different from those of others. */
  readonly name: string
  readonly endpoints: Readonly<Record<'rekorV1' | 'rekorV2' | 'ca' | 'ct' | 'tsa', string>>
  readonly token: string
  readonly email: string
  /** Connections for each use. */
  readonly lanes: Readonly<Partial<Record<Use, number>>>
  /** Sends a request that was answered by 503, or not at all, again until it is taken, as a patient client does. */
  readonly patient?: boolean
  /** How long a connection rests after a request that was taken; not at all unless told. */
  readonly paceMs?: number
}

/** One line of a lane's file. */
export interface Outcome {
  readonly use: Use
  readonly sentMs: number
  readonly endedMs: number
  /** The log of a read, the body of a write. */
  readonly sent: string
  /** What the request is found by: SHA-256 of the message (Rekor) or of the SubjectPublicKeyInfo (CA), hex. */
  readonly digest: string
  /** 0 if there was no whole reply. */
  readonly status: number
  /** Base64 for `tsa`. */
  readonly reply: string
  /** The header, where there is one. */
  readonly retryAfter?: string
}

/** From the loader's parent. */
export type Order =
  | { readonly do: 'load'; readonly load: Load }
  /** SIGKILL for this process as soon as that many writes are acknowledged, and that many under way. */
  | { readonly do: 'kill'; readonly pid: number; readonly acknowledged: number; readonly inFlight: number }
  | { readonly do: 'count' }
  | { readonly do: 'stop' }

/** To the loader's parent. */
export type Said =
  | { readonly said: 'killed'; readonly inFlight: number }
  | { readonly said: 'count'; readonly acknowledged: Readonly<Record<Use, number>> }
  /**
   * All lanes have ended. `acknowledged` are writes, `lost` writes that had no reply, `refused` writes answered by 503,
   * `abandoned` those of a patient load that were not taken in the end.
   */
  | {
      readonly said: 'ended'
      readonly acknowledged: number
      readonly lost: number
      readonly refused: number
      readonly abandoned: number
    }

const KILL_WITHIN_MS = 50
/** A patient client comes again after this, not after the whole of Retry-After: it makes more load. */
const PAUSE_MS = 50
/** After `stop` what was not taken is sent this long. */
const PATIENCE_MS = 30_000

let inFlight = 0
const stopped = new AbortController()
const count = { acknowledged: 0, lost: 0, refused: 0, abandoned: 0 }
const acknowledged: Record<Use, number> = { v1: 0, v2: 0, ca: 0, tsa: 0, watch: 0 }
let stoppedMs = Number.POSITIVE_INFINITY
let killer: Extract<Order, { do: 'kill' }> | undefined

process.on('message', (order: Order) => {
  if (order.do === 'stop') {
    stoppedMs = performance.now()
    stopped.abort()
  } else if (order.do === 'count') tell({ said: 'count', acknowledged })
  else if (order.do === 'kill') killer = order
  else void run(order.load)
})
// A test that failed does not stop its load, and waits for the end of whoever writes to its output.
process.once('disconnect', abandoned)

function abandoned(): void {
  process.exit(1)
}

async function run(load: Load): Promise<void> {
  await mkdir(load.folder, { recursive: true })
  const lanes = Object.entries(load.lanes).flatMap(([use, lanes]) =>
    Array.from({ length: lanes }, (_, number) => runLane(load, use as Use, number)),
  )
  await Promise.all(lanes)
  tell({ said: 'ended', ...count })
  process.off('disconnect', abandoned)
  process.disconnect()
}

async function runLane(load: Load, use: Use, lane: number): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const file = await open(join(load.folder, `${use}-${lane}.jsonl`), 'ax', 0o600)
  const pair = keyPair()
  try {
    for (let number = 0; !stopped.signal.aborted; number += 1) {
      const message = `${load.name} ${use} ${lane} ${number}`
      const request = () => next(load, use, { pair, message, number })
      let outcome = await send(request(), { use, agent })
      await writeDurably(file, outcome)
      if (load.patient === true && use !== 'watch') {
        for (; isRetriable(outcome); await writeDurably(file, outcome)) {
          if (performance.now() - stoppedMs > PATIENCE_MS) {
            count.abandoned += 1
            return
          }
          await delay(PAUSE_MS)
          // The same bytes again; a keyless client makes a new key for each certificate that it asks for.
          const again = use === 'ca' ? request() : { ...urlOf(load, use), sent: outcome.sent, digest: outcome.digest }
          outcome = await send(again, { use, agent })
        }
      }
      if (outcome.status === 0) return
      // As a client would after 503: not at once.
      if (outcome.status === 503 || use === 'watch') await delay(PAUSE_MS)
      else if (load.paceMs !== undefined) await delay(load.paceMs)
    }
  } finally {
    agent.destroy()
    await file.close()
  }
}

function isRetriable({ status }: Outcome): boolean {
  return status === 0 || status === 503
}

/** The next request of a lane: its address with what is sent. */
function next(load: Load, use: Use, { pair, message, number }: { pair: KeyPair; message: string; number: number }) {
  const { endpoints } = load
  if (use === 'v1' || use === 'v2') return { ...urlOf(load, use), ...requestOf(use, message, pair) }
  if (use === 'ca') return { ...urlOf(load, use), ...certificateRequest(load) }
  if (use === 'tsa') return { ...urlOf(load, use), ...timestampRequest(message) }
  const heads = [`${endpoints.rekorV1}/api/v1/log`, `${endpoints.rekorV2}/checkpoint`, `${endpoints.ct}/ct/v1/get-sth`]
  return { url: heads[number % 3] ?? '', sent: ['v1', 'v2', 'ct'][number % 3] ?? '', digest: '' }
}

function urlOf({ endpoints }: Load, use: Exclude<Use, 'watch'>): { url: string } {
  if (use === 'v1') return { url: `${endpoints.rekorV1}/api/v1/log/entries` }
  if (use === 'v2') return { url: `${endpoints.rekorV2}/api/v2/log/entries` }
  return { url: use === 'ca' ? `${endpoints.ca}/api/v2/signingCert` : `${endpoints.tsa}/api/v1/timestamp` }
}

interface Answer {
  readonly status: number
  readonly reply: string
  readonly retryAfter: string | undefined
}

const NO_ANSWER: Answer = { status: 0, reply: '', retryAfter: undefined }

async function send(
  { url, sent, digest }: EntryRequest & { readonly url: string },
  { use, agent }: { use: Use; agent: Agent },
): Promise<Outcome> {
  const sentMs = Date.now()
  const writes = use !== 'watch'
  const { status, reply, retryAfter } = await new Promise<Answer>((resolve) => {
    const outgoing = request(
      url,
      writes ? { method: 'POST', agent, headers: { 'content-type': 'application/json' } } : { agent },
      (response) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('error', () => resolve(NO_ANSWER))
        response.on('close', () =>
          response.complete
            ? resolve({
                status: response.statusCode ?? 0,
                reply: Buffer.concat(chunks).toString(use === 'tsa' && response.statusCode === 200 ? 'base64' : 'utf8'),
                retryAfter: response.headers['retry-after'],
              })
            : resolve(NO_ANSWER),
        )
      },
    )
    outgoing.on('error', () => resolve(NO_ANSWER))
    outgoing.end(writes ? sent : undefined)
    if (writes) inFlight += 1
    killSoonIfEnough()
  })
  if (writes) {
    inFlight -= 1
    if (status === 200 || status === 201) {
      count.acknowledged += 1
      acknowledged[use] += 1
    } else if (status === 0) count.lost += 1
    else if (status === 503) count.refused += 1
  }
  const told = retryAfter === undefined ? {} : { retryAfter }
  return { use, sentMs, endedMs: Date.now(), sent, digest, status, reply, ...told }
}

/** Looks when a request is sent, and kills some moment later: a seal takes about as long, so any step of it may be hit. */
function killSoonIfEnough(): void {
  const order = killer
  if (order === undefined || !isEnough(order)) return
  killer = undefined
  setTimeout(() => {
    if (!isEnough(order)) {
      killer = order
      return
    }
    process.kill(order.pid, 'SIGKILL')
    tell({ said: 'killed', inFlight })
  }, Math.random() * KILL_WITHIN_MS)
}

function isEnough(order: Extract<Order, { do: 'kill' }>): boolean {
  return inFlight >= order.inFlight && count.acknowledged >= order.acknowledged
}

async function writeDurably(file: FileHandle, outcome: Outcome): Promise<void> {
  await file.appendFile(`${JSON.stringify(outcome)}\n`)
  await file.datasync()
}

function tell(said: Said): void {
  process.send?.(said)
}
