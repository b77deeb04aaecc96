/**
 * Sixty-four connections that want to keep others from being served: a process of its own (`node hostile-crowd.ts`). A
 * third upload entries as fast as they are taken, with a body of junk at the limit now and then; a third ask for
 * timestamps; a third announce a large body and send a byte at a time. It says what became of them when it is told to end.
 */
import { randomBytes } from 'node:crypto'
import { Agent, request } from 'node:http'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { keyPair, requestOf, timestampRequest } from '../crash/requests.ts'

export interface Targets {
  readonly rekorV1: string
  readonly rekorV2: string
  readonly tsa: string
  readonly ca: string
}

/** How often each status was answered, by what was done; `cut` is a slow body that the server ended. */
export type Crowd = Readonly<Record<'upload' | 'timestamp' | 'slow', Readonly<Record<string, number>>>>

const KINDS = { upload: 22, timestamp: 21, slow: 21 } as const
/** A body of this length is announced and never sent; no service refuses it for its length. */
const SLOW_BYTES = 16 * 1024
const BYTE_EVERY_MS = 100
/** Every so-manyth upload is junk of a megabyte. */
const JUNK_EVERY = 20

const counts: Record<keyof Crowd, Record<string, number>> = { upload: {}, timestamp: {}, slow: {} }
const ending = new AbortController()
const lanes: Promise<void>[] = []

process.on('message', (message: { attack: Targets } | 'end') => {
  if (message === 'end') {
    ending.abort()
    void Promise.all(lanes).then(() => process.send?.(counts satisfies Crowd, () => process.exit(0)))
    return
  }
  const { attack } = message
  for (let at = 0; at < KINDS.upload; at++) lanes.push(upload(attack, at))
  for (let at = 0; at < KINDS.timestamp; at++) lanes.push(timestamp(attack, at))
  for (let at = 0; at < KINDS.slow; at++) lanes.push(slowBody(attack, at))
})

function count(kind: keyof Crowd, what: string): void {
  counts[kind][what] = (counts[kind][what] ?? 0) + 1
}

async function upload({ rekorV1, rekorV2 }: Targets, lane: number): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const pair = keyPair()
  const use = lane % 2 === 0 ? 'v1' : 'v2'
  const url = use === 'v1' ? `${rekorV1}/api/v1/log/entries` : `${rekorV2}/api/v2/log/entries`
  for (let number = 0; !ending.signal.aborted; number++) {
    const junk = number % JUNK_EVERY === JUNK_EVERY - 1
    const body = junk
      ? `{"junk":"${randomBytes(500_000).toString('hex')}"}`
      : requestOf(use, `${lane} ${number}`, pair).sent
    count('upload', String(await post(url, body, agent)))
  }
}

async function timestamp({ tsa }: Targets, lane: number): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  for (let number = 0; !ending.signal.aborted; number++) {
    count('timestamp', String(await post(`${tsa}/api/v1/timestamp`, timestampRequest(`${lane} ${number}`).sent, agent)))
  }
}

/** Status of the answer, or 0 without one. Nobody here waits as Retry-After asks. */
async function post(url: string, body: string, agent: Agent): Promise<number> {
  return await new Promise((resolve) => {
    const sent = request(
      url,
      {
        method: 'POST',
        agent,
        headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
      },
      (response) => {
        response.resume()
        response.once('close', () => resolve(response.statusCode ?? 0))
      },
    )
    sent.once('error', () => resolve(0))
    sent.end(body)
  })
}

async function slowBody({ ca, rekorV1, rekorV2 }: Targets, lane: number): Promise<void> {
  const places = [`${ca}/api/v2/signingCert`, `${rekorV1}/api/v1/log/entries`, `${rekorV2}/api/v2/log/entries`]
  const url = new URL(places[lane % places.length] ?? ca)
  while (!ending.signal.aborted) {
    const socket = connect(Number(url.port), url.hostname)
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    socket.on('error', () => undefined)
    const answer = { status: '' }
    socket.once(
      'data',
      (chunk: Buffer) => (answer.status = /^HTTP\/1\.1 (\d+)/.exec(chunk.toString('latin1'))?.[1] ?? '?'),
    )
    const head = ['content-type: application/json', `content-length: ${SLOW_BYTES}`, '', '']
    socket.write([`POST ${url.pathname} HTTP/1.1`, `host: ${url.host}`, ...head].join('\r\n'))
    while (!ending.signal.aborted && !socket.destroyed && answer.status === '') {
      socket.write('{')
      await Promise.race([closed, delay(BYTE_EVERY_MS)])
    }
    const silence = socket.destroyed ? 'cut' : 'held to the end'
    count('slow', answer.status === '' ? silence : answer.status)
    socket.destroy()
  }
}
