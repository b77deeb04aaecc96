import { createHash } from 'node:crypto'
import { verifyCheckpoint, verifyInclusion, decodeEntryBundle } from '#tlog'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Section } from '#http'
import { checkLog } from '../../check-log.fixture.ts'
import { type EntryChecks, startEntryChecks } from '../checks.ts'
import { base64, ecKeyPair, envelopeOf, hashedRekordV2, spkiOf } from '../material.fixture.ts'
import { call, openTestLog, type Reply, type TestLog } from '../service.fixture.ts'
import type { Log } from '../../log.ts'
import { rekorV2Section } from './http.ts'

const ENTRIES = 'POST /api/v2/log/entries'
const pair = ecKeyPair()
const checks: EntryChecks = startEntryChecks()

let service: TestLog
let section: Section

beforeEach(async () => {
  service = await openTestLog('rekor-v2')
  section = rekorV2Section({ log: service.log, checks })
})
afterEach(() => service.close())

/** ECDSA signatures are random: only the very same request is a repetition. */
const requests = new Map<string, unknown>()
function create(message: string): Promise<Reply> {
  const request = requests.get(message) ?? hashedRekordV2(pair, message)
  requests.set(message, request)
  return call(section, ENTRIES, { body: request })
}
const dsse = {
  dsseRequestV002: {
    envelope: envelopeOf([pair], '{"subject":[]}'),
    verifiers: [{ keyDetails: 'PKIX_ECDSA_P256_SHA_256', publicKey: { rawBytes: base64(spkiOf(pair)) } }],
  },
}
const get = (path: string): Promise<Reply> => call(section, `GET ${path}`)

interface TransparencyLogEntry {
  readonly canonicalizedBody: string
  readonly inclusionProof: {
    readonly logIndex: string
    readonly rootHash: string
    readonly treeSize: string
    readonly hashes: readonly string[]
    readonly checkpoint: { readonly envelope: string }
  }
}

function verifyEntry(reply: Reply): void {
  const { canonicalizedBody, inclusionProof } = reply.json as TransparencyLogEntry
  const leafHash = createHash('sha256').update(Buffer.of(0)).update(Buffer.from(canonicalizedBody, 'base64')).digest()
  const rootHash = Buffer.from(inclusionProof.rootHash, 'base64')
  const size = Number(inclusionProof.treeSize)
  verifyInclusion({
    index: Number(inclusionProof.logIndex),
    size,
    leafHash,
    rootHash,
    proof: inclusionProof.hashes.map((hash) => Buffer.from(hash, 'base64')),
  })
  const head = verifyCheckpoint(inclusionProof.checkpoint.envelope, {
    origin: service.log.origin,
    spkiDer: service.log.spkiDer,
  })
  expect(head.size).toBe(size)
  expect(Buffer.compare(head.rootHash, rootHash)).toBe(0)
}

describe('creating entries', () => {
  test('answers 201 with the whole TransparencyLogEntry, unset fields included', async () => {
    await create('first')
    const reply = await create('second')
    expect(reply.status).toBe(201)
    expect(reply.headers['content-type']).toBe('application/json')
    expect(reply.json).toEqual({
      logIndex: '1',
      logId: { keyId: createHash('sha256').update(service.log.spkiDer).digest('base64') },
      kindVersion: { kind: 'hashedrekord', version: '0.0.2' },
      integratedTime: '0',
      inclusionPromise: null,
      inclusionProof: {
        logIndex: '1',
        rootHash: expect.any(String),
        treeSize: '2',
        hashes: [expect.any(String)],
        checkpoint: { envelope: service.log.head().note },
      },
      canonicalizedBody: expect.any(String),
    })
    verifyEntry(reply)
    await checkLog(service.log)
  })

  test('needs no content type, as grpc-gateway', async () => {
    const reply = await call(section, ENTRIES, {
      body: hashedRekordV2(pair, 'a'),
      headers: { 'content-type': 'text/plain' },
    })
    expect(reply.status).toBe(201)
  })

  test('takes dsse requests, and with strict refuses them', async () => {
    const reply = await call(section, ENTRIES, { body: dsse })
    expect(reply.json).toMatchObject({ kindVersion: { kind: 'dsse', version: '0.0.2' } })
    verifyEntry(reply)
    section = rekorV2Section({ log: service.log, strict: true, checks })
    const refused = await call(section, ENTRIES, { body: dsse })
    expect(refused.status).toBe(400)
    expect(refused.json).toEqual({ code: 3, message: 'invalid type, must be hashedrekord', details: [] })
  })

  test('answers 409 with the index once a reply was delivered, and a lost reply again', async () => {
    await create('other')
    const lost = await create('a')
    const retry = await create('a')
    expect(retry.status).toBe(201)
    expect(retry.json).toMatchObject({
      logIndex: '1',
      canonicalizedBody: (lost.json as TransparencyLogEntry).canonicalizedBody,
    })
    retry.deliver()
    const again = await create('a')
    expect(again.status).toBe(409)
    expect(again.headers['x-log-index']).toBe('1')
    expect(again.json).toEqual({
      code: 6,
      message: 'an equivalent entry already exists in the transparency log with index 1',
      details: [],
    })
    expect(service.log.head().size).toBe(2)
  })

  test.each<[string, unknown, unknown]>([
    ['no JSON', '{', { code: 3, message: 'body is not valid JSON', details: [] }],
    ['an unknown field', { a: 1 }, { code: 3, message: 'unknown field "a" in CreateEntryRequest', details: [] }],
    ['an empty request', {}, { code: 3, message: expect.stringContaining('invalid type'), details: [] }],
    [
      'a wrong signature',
      hashedRekordV2(pair, 'a', { signature: Buffer.from('3003020101', 'hex') }),
      { code: 3, message: expect.stringMatching(/^invalid hashedrekord request: verifying signature/), details: [] },
    ],
  ])('refuses %s with 400', async (_, body, error) => {
    const reply = await call(section, ENTRIES, { body })
    expect(reply.status).toBe(400)
    expect(reply.json).toEqual(error)
    expect(service.log.head().size).toBe(0)
  })

  test('a frozen log is 405 in plain text; reads go on', async () => {
    await create('a')
    section = rekorV2Section({ log: await service.reopen({ frozen: true }), checks })
    const refused = await create('b')
    expect(refused).toMatchObject({ status: 405, text: 'This log has been frozen, please switch to the latest log.\n' })
    expect((await get('/checkpoint')).status).toBe(200)
  })

  test('what is uploaded goes to the log of the moment, whose reply it is; reads stay', async () => {
    const successor = await openTestLog('rekor-v2')
    try {
      await create('a')
      let target: Log | 'frozen' = service.log
      section = rekorV2Section({ log: service.log, checks, uploadsTo: () => target })
      verifyEntry(await create('b'))
      const before = service.log.head()
      // Between the first look and the moment of writing, as when it gets a successor just then.
      let looks = 0
      section = rekorV2Section({
        log: service.log,
        checks,
        uploadsTo: () => (++looks === 1 ? service.log : successor.log),
      })
      const reply = await create('c')
      expect(reply.status).toBe(201)
      const { logId } = reply.json as { logId: { keyId: string } }
      expect(Buffer.from(logId.keyId, 'base64').equals(successor.log.logId)).toBe(true)
      expect([service.log.head(), successor.log.head().size]).toEqual([before, 1])
      expect((await get('/checkpoint')).text).toBe(before.note)
      target = 'frozen'
      section = rekorV2Section({ log: service.log, checks, uploadsTo: () => target })
      expect(await create('d')).toMatchObject({
        status: 405,
        text: 'This log has been frozen, please switch to the latest log.\n',
      })
      expect((await get('/checkpoint')).text).toBe(before.note)
    } finally {
      await successor.close()
    }
  })

  test('a refused fork is 503 and says so; reads go on', async () => {
    await create('a')
    service.agent.moveGuard(service.log.origin, { size: 9, rootHash: new Uint8Array(32) })
    await create('b')
    const refused = await create('c')
    expect(refused.status).toBe(503)
    expect(refused.json).toEqual({ code: 14, message: 'this log is read-only until its operator acts', details: [] })
    expect((await get('/tile/entries/000.p/1')).status).toBe(200)
  })

  test('full checks are pushback', async () => {
    section = rekorV2Section({ log: service.log, checks: startEntryChecks({ queueLimit: 0 }) })
    const refused = await create('a')
    expect(refused).toMatchObject({ status: 503, json: { code: 14, message: 'reached max pushback; retry' } })
    expect(refused.headers['retry-after']).toBe('1')
  })
})

describe('reading', () => {
  test.each(['', '/api/v2'])('serves checkpoint, tiles and bundles under %j', async (prefix) => {
    await create('a')
    const reply = await create('b')
    const checkpoint = await get(`${prefix}/checkpoint`)
    expect(checkpoint.text).toBe(service.log.head().note)
    expect(checkpoint.headers).toEqual({ 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-cache' })
    const tile = await get(`${prefix}/tile/0/000.p/2`)
    expect(tile.bytes).toHaveLength(64)
    expect(tile.headers).toEqual({
      'content-type': 'application/octet-stream',
      'cache-control': 'max-age=604800,immutable',
    })
    const bundle = await get(`${prefix}/tile/entries/000.p/2`)
    const [, second] = decodeEntryBundle(bundle.bytes)
    expect(Buffer.from(second ?? []).toString('base64')).toBe((reply.json as TransparencyLogEntry).canonicalizedBody)
  })

  test('the checkpoint of an empty log is there', async () => {
    expect((await get('/checkpoint')).text).toMatch(/^rekor-v2\.chancery\.internal\n0\n/)
  })

  test.each([
    '/tile/0/000',
    '/tile/0/000.p/2',
    '/tile/0/000.p/0',
    '/tile/0/000.p/256',
    '/tile/0/x000/000',
    '/tile/0/0',
    '/tile/1/000',
    '/tile/64/000',
    '/tile/-1/000',
    '/tile/entries/000',
    '/tile/entries/001.p/1',
    '/tile/entries/../checkpoint',
    '/tile/data/000',
    '/api/v2/tile/9/999',
  ])('answers 404 for %s', async (path) => {
    await create('a')
    expect(await get(path)).toMatchObject({ status: 404 })
  })

  test('is healthy in the words of grpc-gateway, and has its errors', async () => {
    expect(await get('/healthz')).toMatchObject({ status: 200, text: '{"status":"SERVING"}\n' })
    expect(await get('/api/v2/log')).toMatchObject({
      status: 404,
      json: { code: 5, message: 'Not Found', details: [] },
    })
    expect(section.faults.methodNotAllowed('PUT', '/api/v2/log/entries').status).toBe(501)
  })
})
