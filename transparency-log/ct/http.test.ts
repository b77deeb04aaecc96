import { createHash, createPublicKey, verify } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { HsmError } from '#hsm'
import { type EndpointAnswer } from '#http'
import {
  boolean,
  integer,
  nullValue,
  objectIdentifier,
  octetString,
  OID,
  parseCertificate,
  parseSct,
  sctSignatureInput,
  sequence,
  serializeSct,
  withoutExtension,
} from '#x509'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type AgentDouble, makeAgentDouble } from '../agent-double.fixture.ts'
import { checkLog } from '../check-log.fixture.ts'
import type { Log } from '../log.ts'
import { type OpenLogOptions, openLog } from '../open.ts'
import {
  type Authority,
  authority,
  CA,
  CERT_SIGN,
  certificate,
  CODE_SIGNING,
  extension,
  party,
  POISON,
} from './certificates.fixture.ts'
import { AcceptedRoots } from './chain.ts'
import { ctSection } from './http.ts'
import { ctLogOf, ctSignEntry } from './submission.ts'

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
const unbase64 = (text: unknown): Buffer => Buffer.from(String(text), 'base64')
const sha256 = (...parts: Uint8Array[]): Uint8Array => {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return new Uint8Array(hash.digest())
}

const root = authority('root')
const intermediate = authority('intermediate', root)
const stranger = authority('stranger')
const leaf = party('leaf')
const precertificate = (issuer: Authority = intermediate) => certificate(leaf, issuer, [CODE_SIGNING, POISON])

let folder: string
let agent: AgentDouble
let log: Log
let now: number

async function open(options: Partial<OpenLogOptions> = {}): Promise<Log> {
  return openLog({
    name: 'ct',
    kind: 'ct',
    origin: 'ct.example',
    databasePath: join(folder, 'ct.db'),
    agent,
    key: 'ct',
    signEntry: ctSignEntry(agent, 'ct'),
    now: () => now,
    ...options,
  })
}

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-ct-'))
  agent = makeAgentDouble({ style: 'ct' })
  now = 1_790_000_000_123
  log = await open()
})
afterEach(async () => {
  await log.close()
  rmSync(folder, { recursive: true })
})

interface Reply {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  // The tests read members of whatever JSON came back.
  readonly body: Readonly<Record<string, unknown>>
}

async function ask(method: 'GET' | 'POST', path: string, body: string | Uint8Array = ''): Promise<Reply> {
  const [pathname = '', query = ''] = path.split('?')
  const endpoint = ctSection({ log, roots: new AcceptedRoots([root.der]) }).endpoints.find(
    (candidate) => candidate.method === method && candidate.path === `/ct/v1/${pathname}`,
  )
  if (endpoint === undefined) throw new Error(`no endpoint ${path}`)
  return replyOf(
    await endpoint.answer({
      method,
      path: endpoint.path,
      params: {},
      query: new URLSearchParams(query),
      headers: {},
      body: typeof body === 'string' ? new TextEncoder().encode(body) : body,
      requestId: 'test',
      signal: new AbortController().signal,
    }),
  )
}

function replyOf(answer: EndpointAnswer): Reply {
  return { status: answer.status, headers: answer.headers ?? {}, body: JSON.parse(String(answer.body)) }
}

const add = (endpoint: 'add-chain' | 'add-pre-chain', ...chain: Uint8Array[]) =>
  ask('POST', endpoint, JSON.stringify({ chain: chain.map(base64) }))

const logKey = () => createPublicKey({ key: Buffer.from(log.spkiDer), type: 'spki', format: 'der' })

/** The ECDSA signature inside a DigitallySigned. */
function signatureOf(encoded: unknown): Buffer {
  const bytes = unbase64(encoded)
  expect([...bytes.subarray(0, 2), bytes.readUInt16BE(2)]).toEqual([4, 3, bytes.length - 4])
  return bytes.subarray(4)
}

describe('submitting', () => {
  test('add-pre-chain answers an SCT over the TBSCertificate without poison, under the issuer', async () => {
    const der = precertificate()
    const { status, body } = await add('add-pre-chain', der, intermediate.der, root.der)
    expect(status).toBe(200)
    expect(body).toMatchObject({ sct_version: 0, id: base64(log.logId), timestamp: now, extensions: '' })
    const entry = {
      type: 'precert' as const,
      issuerKeyHash: sha256(intermediate.spkiDer),
      tbsDer: withoutExtension(parseCertificate(der).tbsDer, OID.ctPoison),
    }
    const input = sctSignatureInput(entry, now, new Uint8Array(0))
    expect(verify('sha256', input, logKey(), signatureOf(body['signature']))).toBe(true)
    await checkLog(log)
  })

  test('add-chain answers an SCT over the certificate', async () => {
    const der = certificate(leaf, intermediate, [CODE_SIGNING])
    const { status, body } = await add('add-chain', der, intermediate.der)
    expect(status).toBe(200)
    const input = sctSignatureInput({ type: 'x509', certificateDer: der }, now, new Uint8Array(0))
    expect(verify('sha256', input, logKey(), signatureOf(body['signature']))).toBe(true)
  })

  test.each([
    ['with the root', [intermediate.der, root.der]],
    ['without the root', [intermediate.der]],
  ])('the chain %s is accepted, and extra_data holds it whole', async (_, issuers) => {
    const der = precertificate()
    expect((await add('add-pre-chain', der, ...issuers)).status).toBe(200)
    const { body } = await ask('GET', 'get-entries?start=0&end=0')
    const [entry] = body['entries'] as { leaf_input: string; extra_data: string }[]
    const vector = (bytes: Uint8Array) =>
      Buffer.concat([Buffer.from([0, bytes.length >> 8, bytes.length & 255]), bytes])
    const chain = Buffer.concat([vector(intermediate.der), vector(root.der)])
    expect(unbase64(entry?.extra_data)).toEqual(Buffer.concat([vector(der), vector(chain)]))
  })

  test('a leaf that the root itself issued is accepted without any issuer', async () => {
    expect((await add('add-pre-chain', precertificate(root))).status).toBe(200)
  })

  test('the same certificate gets the same SCT, whatever chain it comes with and after reopening', async () => {
    const der = precertificate()
    const first = await add('add-pre-chain', der, intermediate.der)
    now += 60_000
    expect((await add('add-pre-chain', der, intermediate.der, root.der)).body).toEqual(first.body)
    await log.close()
    log = await open()
    expect((await add('add-pre-chain', der, intermediate.der)).body).toEqual(first.body)
    expect(log.head().size).toBe(1)
  })
})

describe('refusing a chain with 400', () => {
  const pre = precertificate()
  const other = party('other')
  const badPoison = (poison: Uint8Array) => certificate(leaf, intermediate, [CODE_SIGNING, poison])
  const constrained = authority('constrained', root, [
    extension(OID.basicConstraints, true, sequence(boolean(true), integer(0))),
    CERT_SIGN,
  ])
  const below = authority('below', constrained)
  const noCa = authority('no ca', root, [CERT_SIGN])
  const noSign = authority('no sign', root, [CA, extension(OID.keyUsage, true, Uint8Array.of(3, 2, 7, 0x80))])
  const cross = { ...intermediate, ...party('intermediate') }

  test.each<[string, 'add-chain' | 'add-pre-chain', Uint8Array[], string]>([
    ['nothing', 'add-pre-chain', [], 'empty'],
    ['a leaf alone', 'add-pre-chain', [pre], 'accepted root'],
    ['rubbish', 'add-pre-chain', [Uint8Array.of(1, 2, 3)], 'certificate 1'],
    ['a rubbish issuer', 'add-pre-chain', [pre, Uint8Array.of(0x30, 0)], 'certificate 2'],
    ['a trailing byte', 'add-pre-chain', [Uint8Array.of(...pre, 0), intermediate.der], 'certificate 1'],
    ['an unknown root', 'add-pre-chain', [precertificate(stranger), stranger.der], 'accepted root'],
    ['the wrong order', 'add-pre-chain', [pre, root.der, intermediate.der], 'not issued by the next'],
    ['a gap', 'add-pre-chain', [pre, root.der], 'not issued by the next'],
    ['the issuer twice', 'add-pre-chain', [pre, intermediate.der, intermediate.der], 'not issued by the next'],
    ['a stranger below the root', 'add-pre-chain', [precertificate(stranger), stranger.der, root.der], 'not issued'],
    [
      'a precertificate that its issuer did not sign',
      'add-pre-chain',
      [certificate(leaf, intermediate, [CODE_SIGNING, POISON], other), intermediate.der],
      'certificate 1 is not issued by the next one',
    ],
    [
      'an issuer of the same name with another key',
      'add-pre-chain',
      [certificate(leaf, cross, [CODE_SIGNING, POISON]), intermediate.der],
      'certificate 1 is not issued by the next one',
    ],
    [
      'an intermediate that the root did not sign',
      'add-pre-chain',
      [precertificate(cross), certificate(cross, root, [CA, CERT_SIGN], other), root.der],
      'certificate 2 is not issued by the next one',
    ],
    ['an issuer that is no CA', 'add-pre-chain', [precertificate(noCa), noCa.der, root.der], 'may not issue'],
    ['an issuer without keyCertSign', 'add-pre-chain', [precertificate(noSign), noSign.der], 'may not issue'],
    ['a path that is too long', 'add-pre-chain', [precertificate(below), below.der, constrained.der], 'CAs below it'],
    ['nine certificates', 'add-pre-chain', [pre, ...Array<Uint8Array>(8).fill(intermediate.der)], 'more than 8'],
    ['a certificate for add-pre-chain', 'add-pre-chain', [certificate(leaf, root, [CODE_SIGNING])], 'add-chain'],
    ['a precertificate for add-chain', 'add-chain', [pre, intermediate.der], 'add-pre-chain'],
    [
      'a poison that is not critical',
      'add-pre-chain',
      [badPoison(extension(OID.ctPoison, false, nullValue())), intermediate.der],
      'critical with the value NULL',
    ],
    [
      'a poison that is not NULL',
      'add-pre-chain',
      [badPoison(extension(OID.ctPoison, true, Uint8Array.of(0x01, 0x01, 0xff))), intermediate.der],
      'critical with the value NULL',
    ],
    [
      'a poison with bytes after NULL',
      'add-pre-chain',
      [badPoison(extension(OID.ctPoison, true, Uint8Array.of(5, 0, 0))), intermediate.der],
      'critical with the value NULL',
    ],
    [
      'a precertificate with an SCT list',
      'add-pre-chain',
      [
        certificate(leaf, intermediate, [
          CODE_SIGNING,
          extension(OID.sctList, false, octetString(Uint8Array.of(0, 0))),
          POISON,
        ]),
        intermediate.der,
      ],
      'cannot hold timestamps',
    ],
    [
      'another extended key usage',
      'add-pre-chain',
      [
        certificate(leaf, intermediate, [
          extension(OID.extKeyUsage, false, sequence(objectIdentifier(OID.timeStamping))),
          POISON,
        ]),
        intermediate.der,
      ],
      'no code signing',
    ],
    ['no extended key usage', 'add-chain', [certificate(leaf, root, [CERT_SIGN])], 'no code signing'],
    ['a CA certificate', 'add-chain', [certificate(leaf, root, [CA, CODE_SIGNING])], 'a CA certificate'],
  ])('%s', async (_, endpoint, chain, message) => {
    const reply = await add(endpoint, ...chain)
    expect([reply.status, reply.body['success']]).toEqual([400, false])
    expect(reply.body['error_message']).toContain(message)
    expect(log.head().size).toBe(0)
  })

  test.each([
    ['nothing', ''],
    ['no JSON', '{"chain":'],
    ['invalid UTF-8', Uint8Array.of(0x22, 0xff, 0x22)],
    ['an array', '[]'],
    ['null', 'null'],
    ['no chain', '{}'],
    ['a chain that is text', '{"chain":"AAAA"}'],
    ['a chain of numbers', '{"chain":[1]}'],
    ['no base64', '{"chain":["*"]}'],
    ['base64 without padding', '{"chain":["AA"]}'],
  ])('a body that is %s', async (_, body) => {
    const reply = await ask('POST', 'add-pre-chain', body)
    expect([reply.status, reply.body['success']]).toEqual([400, false])
  })
})

describe('reading', () => {
  beforeEach(async () => {
    for (let i = 0; i < 5; i++) await add('add-pre-chain', precertificate(), intermediate.der)
  })

  test('get-sth is signed as RFC 6962 says', async () => {
    const { body } = await ask('GET', 'get-sth')
    expect(body).toMatchObject({ tree_size: 5, timestamp: log.head().timestampMs })
    signatureOf(body['tree_head_signature'])
    await checkLog(log)
  })

  test('get-entries, get-proof-by-hash and get-entry-and-proof lead to the head', async () => {
    const { rootHash } = log.head()
    const { body } = await ask('GET', 'get-entries?start=0&end=100')
    const entries = body['entries'] as { leaf_input: string }[]
    expect(entries).toHaveLength(5)
    for (const [index, entry] of entries.entries()) {
      const hash = sha256(Uint8Array.of(0), unbase64(entry.leaf_input))
      const byHash = await ask('GET', `get-proof-by-hash?hash=${encodeURIComponent(base64(hash))}&tree_size=5`)
      expect(byHash.body['leaf_index']).toBe(index)
      const both = await ask('GET', `get-entry-and-proof?leaf_index=${index}&tree_size=5`)
      expect(both.body['audit_path']).toEqual(byHash.body['audit_path'])
      expect(both.body['leaf_input']).toBe(entry.leaf_input)
    }
    // By hand for the last of five: its only neighbour is the root of the first four.
    const [left] = (await ask('GET', 'get-entry-and-proof?leaf_index=4&tree_size=5')).body['audit_path'] as string[]
    const last = sha256(Uint8Array.of(0), unbase64(entries[4]?.leaf_input))
    expect(sha256(Uint8Array.of(1), unbase64(left), last)).toEqual(rootHash)
    expect((await ask('GET', 'get-entries?start=3&end=3')).body['entries']).toHaveLength(1)
  })

  test('get-sth-consistency, get-roots', async () => {
    const { body } = await ask('GET', 'get-sth-consistency?first=4&second=5')
    expect(body['consistency']).toHaveLength(1)
    expect((await ask('GET', 'get-sth-consistency?first=0&second=5')).body['consistency']).toEqual([])
    expect((await ask('GET', 'get-roots')).body).toEqual({ certificates: [base64(root.der)] })
  })

  test.each([
    ['get-entries?start=0', 400],
    ['get-entries?start=2&end=1', 400],
    ['get-entries?start=5&end=9', 400],
    ['get-entries?start=-1&end=1', 400],
    ['get-entries?start=0x1&end=2', 400],
    ['get-entries?start=0&start=1&end=2', 400],
    ['get-sth-consistency?first=3&second=2', 400],
    ['get-sth-consistency?first=3&second=6', 400],
    ['get-sth-consistency?second=3', 400],
    ['get-proof-by-hash?hash=AAAA&tree_size=5', 400],
    ['get-proof-by-hash?tree_size=5', 400],
    [`get-proof-by-hash?hash=${'A'.repeat(43)}=&tree_size=5`, 404],
    ['get-entry-and-proof?leaf_index=5&tree_size=5', 400],
    ['get-entry-and-proof?leaf_index=0&tree_size=6', 400],
    ['get-entry-and-proof?leaf_index=0&tree_size=99999999999999999999', 400],
  ])('%s is %i', async (path, status) => {
    const reply = await ask('GET', path)
    expect([reply.status, reply.body['success']]).toEqual([status, false])
  })

  test('a leaf that is not in the smaller tree has no proof there', async () => {
    const entry = await log.entry(4)
    const hash = encodeURIComponent(base64(entry?.leafHash ?? new Uint8Array(0)))
    expect((await ask('GET', `get-proof-by-hash?hash=${hash}&tree_size=4`)).status).toBe(404)
  })
})

describe('when the log does not take entries', () => {
  test('an HSM that is away is 503 with Retry-After, and the entry is there when it is back', async () => {
    await log.close()
    log = await open({ limits: { addDeadlineMs: 100 } })
    agent.fault = new HsmError('unavailable', 'token_gone', 'away')
    const der = precertificate()
    const refused = await add('add-pre-chain', der, intermediate.der)
    expect(refused).toMatchObject({ status: 503, headers: { 'retry-after': '1' }, body: { success: false } })
    agent.fault = undefined
    await expect.poll(() => log.head().size, { timeout: 10_000 }).toBe(1)
    expect((await add('add-pre-chain', der, intermediate.der)).status).toBe(200)
    expect(log.head().size).toBe(1)
  })

  test('a full pool is 429 with Retry-After', async () => {
    await log.close()
    log = await open({ limits: { poolSize: 1 } })
    const replies = await Promise.all([1, 2].map(() => add('add-pre-chain', precertificate(), intermediate.der)))
    const refused = replies.find(({ status }) => status === 429)
    expect(refused?.headers['retry-after']).toBe('1')
    expect(replies.some(({ status }) => status === 200)).toBe(true)
  })

  test("the listener's own errors have the same form", () => {
    const { faults } = ctSection({ log, roots: new AcceptedRoots([root.der]) })
    expect(replyOf(faults.tooLarge(10))).toMatchObject({ status: 413, body: { success: false } })
    expect(replyOf(faults.overloaded())).toMatchObject({ status: 503, headers: { 'retry-after': '1' } })
    expect(replyOf(faults.internal('abc')).body['error_message']).toContain('abc')
  })
})

describe('the form for the CA in the same process', () => {
  test('gives the SCT of the HTTP interface', async () => {
    const der = precertificate()
    const request = {
      chain: [der, intermediate.der, root.der],
      issuerKeyHash: sha256(intermediate.spkiDer),
      tbsDer: withoutExtension(parseCertificate(der).tbsDer, OID.ctPoison),
    }
    const sct = await ctLogOf({ log, roots: new AcceptedRoots([root.der]) }).addPreCertificate(request)
    const { body } = await add('add-pre-chain', der, intermediate.der)
    const { timestampMs, logId } = parseSct(sct)
    const signatureDer = new Uint8Array(signatureOf(body['signature']))
    expect(serializeSct({ logId, timestampMs, extensions: new Uint8Array(0), signatureDer })).toEqual(sct)
  })

  test.each([
    ['another issuer', { issuerKeyHash: sha256(root.spkiDer) }],
    ['another TBSCertificate', { tbsDer: Uint8Array.of(0x30, 0) }],
    ['a chain to nowhere', { chain: [precertificate(stranger), stranger.der] }],
  ])('refuses %s', async (_, change) => {
    const der = precertificate()
    const request = {
      chain: [der, intermediate.der],
      issuerKeyHash: sha256(intermediate.spkiDer),
      tbsDer: withoutExtension(parseCertificate(der).tbsDer, OID.ctPoison),
      ...change,
    }
    await expect(ctLogOf({ log, roots: new AcceptedRoots([root.der]) }).addPreCertificate(request)).rejects.toThrow()
    expect(log.head().size).toBe(0)
  })
})

test('a log without accepted roots, or with rubbish for one, is not served', () => {
  expect(() => new AcceptedRoots([])).toThrow(RangeError)
  expect(() => new AcceptedRoots([Uint8Array.of(1)])).toThrow()
})
