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
import { certificateRequest, type EntryRequest, keyPair, type KeyPair, requestOf } from './requests.ts'

/** Which service a connection uses. `watch` reads checkpoints and tree heads all the time. */
export type Use = 'v1' | 'v2' | 'ca' | 'watch'

export interface Load {
  /** The lanes' files go here. */
  readonly folder: string
  /** Makes every message of this load different from those of others. */
  readonly name: string
  readonly endpoints: { readonly rekorV1: string; readonly rekorV2: string; readonly ca: string; readonly ct: string }
  readonly token: string
  readonly email: string
  /** Connections for each use. */
  readonly lanes: Readonly<Record<Use, number>>
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
  readonly reply: string
}

/** From the loader's parent. */
export type Order =
  | { readonly do: 'load'; readonly load: Load }
  /** SIGKILL for this process as soon as that many writes are acknowledged, and that many under way. */
  | { readonly do: 'kill'; readonly pid: number; readonly acknowledged: number; readonly inFlight: number }
  | { readonly do: 'stop' }

/** To the loader's parent. */
export type Said =
  | { readonly said: 'killed'; readonly inFlight: number }
  /** All lanes have ended. `acknowledged` are writes, `lost` writes that had no reply, `refused` writes answered by 503. */
  | { readonly said: 'ended'; readonly acknowledged: number; readonly lost: number; readonly refused: number }

const KILL_WITHIN_MS = 50

let inFlight = 0
const stopped = new AbortController()
const count = { acknowledged: 0, lost: 0, refused: 0 }
let killer: Extract<Order, { do: 'kill' }> | undefined

process.on('message', (order: Order) => {
  if (order.do === 'stop') stopped.abort()
  else if (order.do === 'kill') killer = order
  else void run(order.load)
})

async function run(load: Load): Promise<void> {
  await mkdir(load.folder, { recursive: true })
  const lanes = Object.entries(load.lanes).flatMap(([use, lanes]) =>
    Array.from({ length: lanes }, (_, number) => runLane(load, use as Use, number)),
  )
  await Promise.all(lanes)
  tell({ said: 'ended', ...count })
  process.disconnect()
}

async function runLane(load: Load, use: Use, lane: number): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const file = await open(join(load.folder, `${use}-${lane}.jsonl`), 'ax', 0o600)
  const pair = keyPair()
  try {
    for (let number = 0; !stopped.signal.aborted; number += 1) {
      const message = `${load.name} ${use} ${lane} ${number}`
      const outcome = await send(next(load, use, { pair, message, number }), { use, agent })
      await writeDurably(file, outcome)
      if (outcome.status === 0) return
      // As a client would after 503: not at once.
      if (outcome.status === 503 || use === 'watch') await delay(50)
    }
  } finally {
    agent.destroy()
    await file.close()
  }
}

/** The next request of a lane: its address with what is sent. */
function next(load: Load, use: Use, { pair, message, number }: { pair: KeyPair; message: string; number: number }) {
  const { endpoints } = load
  if (use === 'v1') return { url: `${endpoints.rekorV1}/api/v1/log/entries`, ...requestOf(use, message, pair) }
  if (use === 'v2') return { url: `${endpoints.rekorV2}/api/v2/log/entries`, ...requestOf(use, message, pair) }
  if (use === 'ca') return { url: `${endpoints.ca}/api/v2/signingCert`, ...certificateRequest(load) }
  const heads = [`${endpoints.rekorV1}/api/v1/log`, `${endpoints.rekorV2}/checkpoint`, `${endpoints.ct}/ct/v1/get-sth`]
  return { url: heads[number % 3] ?? '', sent: ['v1', 'v2', 'ct'][number % 3] ?? '', digest: '' }
}

async function send(
  { url, sent, digest }: EntryRequest & { readonly url: string },
  { use, agent }: { use: Use; agent: Agent },
): Promise<Outcome> {
  const sentMs = Date.now()
  const writes = use !== 'watch'
  const { status, reply } = await new Promise<{ status: number; reply: string }>((resolve) => {
    const outgoing = request(
      url,
      writes ? { method: 'POST', agent, headers: { 'content-type': 'application/json' } } : { agent },
      (response) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('error', () => resolve({ status: 0, reply: '' }))
        response.on('close', () =>
          response.complete
            ? resolve({ status: response.statusCode ?? 0, reply: Buffer.concat(chunks).toString() })
            : resolve({ status: 0, reply: '' }),
        )
      },
    )
    outgoing.on('error', () => resolve({ status: 0, reply: '' }))
    outgoing.end(writes ? sent : undefined)
    if (writes) inFlight += 1
    killSoonIfEnough()
  })
  if (writes) {
    inFlight -= 1
    if (status === 200 || status === 201) count.acknowledged += 1
    else if (status === 0) count.lost += 1
    else if (status === 503) count.refused += 1
  }
  return { use, sentMs, endedMs: Date.now(), sent, digest, status, reply }
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
