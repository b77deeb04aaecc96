/** A log at a witness that is hostile, slow or broken: what it can do is said by the configuration, and nothing more. */
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Alarms } from '#alarms'
import { keyHintC2sp, parseCheckpoint, parseNote, verifyConsistency } from '#tlog'
import { makeAgentDouble } from '../agent-double.fixture.ts'
import { textEntry } from '../entries.fixture.ts'
import type { Log } from '../log.ts'
import { openLog } from '../open.ts'
import { AnchoredLog, type AnchoredLogOptions, witnessAnchor } from './index.ts'

const NAME = 'witness.example'
const TIMEOUT_MS = 400

/** An add-checkpoint request, taken apart by hand. */
interface Asked {
  readonly old: number
  readonly proof: readonly Uint8Array[]
  readonly note: string
  /** The note's signed part. */
  readonly text: string
}
type Answer = (asked: Asked, response: ServerResponse) => void

let folder: string
let server: Server
let url: string
let answer: Answer
let asked: Asked[]
let log: Log
let alarms: Alarms
const anchored: AnchoredLog[] = []

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-anchored-'))
  asked = []
  server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const one = takeApart(Buffer.concat(chunks).toString())
      asked.push(one)
      answer(one, response)
    })
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}` // of a TCP server
  log = await openLog({
    name: 'v2',
    kind: 'rekor-v2',
    origin: 'rekor-v2.example',
    databasePath: join(folder, 'log.db'),
    agent: makeAgentDouble(),
    key: 'log',
  })
  alarms = new Alarms()
})

afterEach(async () => {
  server.closeAllConnections()
  server.close()
  await Promise.all(anchored.splice(0).map((one) => one.close()))
  await log.close()
  rmSync(folder, { recursive: true })
})

const grow = async (...texts: string[]) => await Promise.all(texts.map((text) => log.add(textEntry(text))))
const codes = () => alarms.active().map(({ code }) => code)

function at(changes: Partial<AnchoredLogOptions> = {}, own = witness): AnchoredLog {
  const one = new AnchoredLog({
    log,
    logKind: 'rekor-v2',
    anchor: witnessAnchor({ name: 'w', url, vkey: own.vkey, timeoutMs: TIMEOUT_MS }),
    onClaim: 'freeze',
    everyMs: 60_000,
    staleMs: 600_000,
    alarms,
    report: () => Promise.reject(new Error('a claim is not evidence')),
    onKept: () => Promise.resolve(),
    now: Date.now,
    logger: { info: () => undefined, warn: () => undefined, error: () => undefined },
    ...changes,
  })
  anchored.push(one)
  return one
}

describe('a sound witness', () => {
  test('gets one request a head, with a proof from what it had, and its cosignature is kept', async () => {
    const honest = soundWitness()
    answer = honest.answer
    await grow('a', 'b', 'c')
    const notes: string[] = []
    const one = at({ onKept: (note) => Promise.resolve(void notes.push(note)) })
    expect(await one.check()).toBe(true)
    // It was believed to have seen size 3 before; it had not.
    expect(asked.map(({ old }) => old)).toEqual([3, 0])
    await grow('d', 'e')
    expect(await one.check()).toBe(true)
    expect(asked.at(-1)).toMatchObject({ old: 3 })
    expect(asked).toHaveLength(3)
    expect(honest.size()).toBe(5)
    expect(one.state()).toMatchObject({ anchor: 'w', kind: 'witness', log: 'v2', size: 5, fault: '' })
    expect(one.cosignatures(log.head())).toHaveLength(1)
    expect(
      notes
        .at(-1)
        ?.split('\n')
        .filter((line) => line.startsWith('— ')),
    ).toHaveLength(2)
    await grow('f')
    expect(one.cosignatures(log.head())).toEqual([])
  })

  test('is believed though its note cannot be kept here', async () => {
    answer = soundWitness().answer
    const one = at({ onKept: () => Promise.reject(new Error('the disk is full')) })
    expect(await one.check()).toBe(true)
    expect([codes(), one.state().fault]).toEqual([[], ''])
  })

  test('that has lost its memory is told again from the start', async () => {
    answer = soundWitness().answer
    await grow('a', 'b')
    const one = at()
    await one.check()
    answer = soundWitness().answer
    await grow('c')
    expect(await one.check()).toBe(true)
    expect(codes()).toEqual([])
  })
})

const garbage = (status: number, type: string, body: string): Answer => {
  return (_, response) => response.writeHead(status, { 'content-type': type }).end(body)
}
const SIZE = 'text/x.tlog.size'
const PLAIN = 'text/plain'

describe('a witness that lies or fails', () => {
  test.each<[string, Answer, string[]]>([
    ['another key', (request, response) => response.end(cosign(stranger, request.text)), ['anchor_distrusted']],
    [
      'its name with another key',
      (request, response) => response.end(cosign(namesake, request.text)),
      ['anchor_distrusted'],
    ],
    [
      'a cosignature of another head',
      (_, response) => response.end(cosign(witness, 'x\n1\nAAAA\n')),
      ['anchor_distrusted'],
    ],
    [
      "a log's signature for a cosignature",
      (request, response) => response.end(`— ${NAME} ${bare(request.text)}\n`),
      ['anchor_distrusted'],
    ],
    ['200 and nothing', garbage(200, PLAIN, ''), ['anchor_distrusted']],
    ['200 and HTML', garbage(200, 'text/html', '<html>\n'), ['anchor_distrusted']],
    [
      'a line without its end',
      (request, response) => response.end(cosign(witness, request.text).trimEnd()),
      ['anchor_distrusted'],
    ],
    ['a body without end', endless, ['anchor_distrusted']],
    ['a body that drips', drip, []],
    ['no answer', () => undefined, []],
    ['a closed connection', (_, response) => response.destroy(), []],
    ['500', garbage(500, PLAIN, 'oops\n'), []],
    ['429', garbage(429, PLAIN, 'later\n'), []],
    ['204', garbage(204, PLAIN, ''), []],
    ['somewhere else', (_, response) => response.writeHead(307, { location: `${url}/elsewhere` }).end(), []],
    ['404: it does not know the log', garbage(404, PLAIN, 'unknown log\n'), ['anchor_refused']],
    ['403: it does not know the key', garbage(403, PLAIN, 'unknown key\n'), ['anchor_refused']],
    ['400', garbage(400, PLAIN, 'bad\n'), ['anchor_refused']],
    ['409 without a size', garbage(409, PLAIN, '1\n'), ['anchor_distrusted']],
    ['409 with a size below zero', garbage(409, SIZE, '-1\n'), ['anchor_distrusted']],
    ['409 with a size in hex', garbage(409, SIZE, '0x10\n'), ['anchor_distrusted']],
    ['409 with a size without end', garbage(409, SIZE, `${'9'.repeat(400)}\n`), ['anchor_distrusted']],
    ['409 with leading zeroes', garbage(409, SIZE, '0099\n'), ['anchor_distrusted']],
    ['409 with two sizes', garbage(409, SIZE, '99\n99\n'), ['anchor_distrusted']],
    ['another smaller size each time', wandering(), []],
  ])('%s: the log goes on', async (_, lie, alarmed) => {
    answer = lie
    await grow('a', 'b', 'c', 'd')
    const one = at()
    const startedMs = performance.now()
    expect(await one.check()).toBe(false)
    // Far more than the timeout, far less than for ever.
    expect(performance.now() - startedMs).toBeLessThan(20 * TIMEOUT_MS)
    expect(codes()).toEqual(alarmed)
    expect(one.state().fault).not.toBe('')
    expect(one.cosignatures(log.head())).toEqual([])
    await grow('e')
    expect(log.fault()).toBeUndefined()
    answer = soundWitness().answer
    expect(await one.check()).toBe(true)
    expect([codes(), one.state().fault]).toEqual([[], ''])
  })

  test.each<[string, Answer, 'anchor_ahead' | 'anchor_disagrees']>([
    ['a larger size', garbage(409, SIZE, '99\n'), 'anchor_ahead'],
    ['the largest size', garbage(409, `${SIZE}; charset=utf-8`, `${Number.MAX_SAFE_INTEGER}\n`), 'anchor_ahead'],
    ['our own size, and yet a conflict', sameSize, 'anchor_disagrees'],
    ['a proof that does not fit', garbage(422, PLAIN, 'bad proof\n'), 'anchor_disagrees'],
  ])('%s is a claim: it stops the log, or only tells, as configured', async (_, lie, code) => {
    answer = lie
    await grow('a', 'b', 'c', 'd')
    const told = at({ onClaim: 'alarm' })
    expect(await told.check()).toBe(false)
    expect(codes()).toEqual([code])
    expect(alarms.active()[0]?.message).toContain('The log goes on')
    expect(log.fault()).toBeUndefined()
    await grow('e')
    const frozen = at({ onClaim: 'freeze' })
    expect(await frozen.check()).toBe(false)
    expect(log.fault()).toMatchObject({ code, message: expect.stringContaining(`docs/runbook.md#${code}`) })
    await expect(grow('f')).rejects.toMatchObject({ code })
    expect(log.head().size).toBe(5)
    // Not even an honest answer makes it take entries again: somebody has to look.
    answer = soundWitness().answer
    expect(await frozen.check()).toBe(false)
    expect(codes()).toEqual([code])
    await expect(grow('g')).rejects.toMatchObject({ code })
    expect(frozen.state().log).toBe('v2')
  })

  test('a larger size that our log has reached meanwhile is no contradiction', async () => {
    await grow('a')
    answer = (_, response) => {
      void grow('b', 'c').then(() => response.writeHead(409, { 'content-type': SIZE }).end('3\n'))
    }
    const one = at()
    expect(await one.check()).toBe(false)
    expect([codes(), log.fault()]).toEqual([[], undefined])
  })
})

test('uploads never wait for a witness that hangs', async () => {
  answer = () => undefined
  await grow('a')
  const one = at()
  const checking = one.check()
  await grow('b', 'c')
  expect(log.head().size).toBe(3)
  expect(await checking).toBe(false)
})

test('there is an alarm after the configured silence, and it ends', async () => {
  let now = 1_000_000
  answer = garbage(500, PLAIN, '')
  const one = at({ now: () => now, staleMs: 5000 })
  await one.check()
  expect(codes()).toEqual([])
  now += 5000
  await one.check()
  expect(alarms.active()).toMatchObject([{ code: 'anchor_stale', subject: 'v2 at w' }])
  answer = soundWitness().answer
  await one.check()
  expect(codes()).toEqual([])
})

interface Cosigner {
  readonly vkey: string
  readonly keyHint: Uint8Array
  readonly privateKey: KeyObject
}

function cosigner(hintOf?: Cosigner): Cosigner {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  const raw = new Uint8Array(publicKey.export({ type: 'spki', format: 'der' }).subarray(-32))
  const keyHint = hintOf?.keyHint ?? keyHintC2sp(NAME, 4, raw)
  const encoded = Buffer.from([4, ...raw]).toString('base64')
  return { vkey: `${NAME}+${Buffer.from(keyHint).toString('hex')}+${encoded}`, keyHint, privateKey }
}

const witness = cosigner()
const stranger = cosigner()
/** Its lines look like the witness's own. */
const namesake = cosigner(witness)

function cosign({ keyHint, privateKey }: Cosigner, text: string): string {
  const time = Buffer.alloc(8)
  time.writeBigUInt64BE(1_790_000_000n)
  const signature = sign(null, Buffer.from(`cosignature/v1\ntime 1790000000\n${text}`), privateKey)
  return `— ${NAME} ${Buffer.concat([keyHint, time, signature]).toString('base64')}\n`
}

/** Without the time: what a log signs. */
function bare(text: string): string {
  const { keyHint, privateKey } = witness
  return Buffer.concat([keyHint, sign(null, Buffer.from(text), privateKey)]).toString('base64')
}

/** The protocol as C2SP tlog-witness tells it, with one log. */
function soundWitness(): { answer: Answer; size(): number } {
  let held = { size: 0, rootHash: new Uint8Array(32) }
  return {
    size: () => held.size,
    answer: ({ old, proof, text }, response) => {
      if (old !== held.size) return garbage(409, SIZE, `${held.size}\n`)({ old, proof, text, note: '' }, response)
      const { size, rootHash } = parseCheckpoint(text)
      if (old > 0)
        verifyConsistency({ first: old, firstRoot: held.rootHash, second: size, secondRoot: rootHash, proof })
      held = { size, rootHash: new Uint8Array(rootHash) }
      response.end(cosign(witness, text))
    },
  }
}

function sameSize({ old }: Asked, response: ServerResponse): void {
  response.writeHead(409, { 'content-type': SIZE }).end(`${old}\n`)
}

function wandering(): Answer {
  let times = 0
  return (_, response) => response.writeHead(409, { 'content-type': SIZE }).end(`${++times % 3}\n`)
}

function endless(_: Asked, response: ServerResponse): void {
  const more = () => {
    while (!response.destroyed && response.write('— x AAAA\n'.repeat(1000)));
    if (!response.destroyed) response.once('drain', more)
  }
  more()
}

function drip(_: Asked, response: ServerResponse): void {
  response.writeHead(200)
  const timer = setInterval(() => response.write('—'), 20)
  response.once('close', () => clearInterval(timer))
}

function takeApart(body: string): Asked {
  const [head = '', ...rest] = body.split('\n\n')
  const [first = '', ...proof] = head.split('\n')
  const note = rest.join('\n\n')
  return {
    old: Number(first.replace('old ', '')),
    proof: proof.map((line) => Uint8Array.from(Buffer.from(line, 'base64'))),
    note,
    text: parseNote(note).text,
  }
}
