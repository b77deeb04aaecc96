import { createHash, createPublicKey } from 'node:crypto'
import { HsmError } from '#hsm'
import { verifyCheckpoint, verifyConsistency, verifyInclusion } from '#tlog'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Section } from '#http'
import { type EntryChecks, startEntryChecks } from '../checks.ts'
import { checkLog } from '../../check-log.fixture.ts'
import {
  base64,
  digestOf,
  dsseV1,
  ecKeyPair,
  envelopeOf,
  hashedRekordV1,
  intotoV1,
  pemOf,
} from '../material.fixture.ts'
import { call, entryTimestampHolds, NOW, openTestLog, type Reply, type TestLog, TREE_ID } from '../service.fixture.ts'
import { rekorV1Section } from './http.ts'
import { RekorV1Shards } from './shards.ts'

const ENTRIES = '/api/v1/log/entries'
const TREE_HEX = BigInt(TREE_ID).toString(16).padStart(16, '0')
const pair = ecKeyPair()
const checks: EntryChecks = startEntryChecks()

let service: TestLog
let section: Section

beforeEach(async () => {
  service = await openTestLog('rekor-v1')
  section = rekorV1Section({ shards: new RekorV1Shards([{ log: service.log, treeId: TREE_ID }]), checks })
})
afterEach(() => service.close())

interface Entry {
  readonly attestation?: { readonly data: string }
  readonly body: string
  readonly integratedTime: number
  readonly logID: string
  readonly logIndex: number
  readonly verification: {
    readonly inclusionProof: {
      readonly checkpoint: string
      readonly hashes: readonly string[]
      readonly logIndex: number
      readonly rootHash: string
      readonly treeSize: number
    }
    readonly signedEntryTimestamp: string
  }
}

const get = (target: string, headers = {}): Promise<Reply> => call(section, `GET ${target}`, { headers })
const post = (target: string, body: unknown, headers = {}): Promise<Reply> =>
  call(section, `POST ${target}`, { body, headers })
/** ECDSA signatures are random: only the very same request is a repetition. */
const proposals = new Map<string, unknown>()
function propose(message: string): Promise<Reply> {
  const proposed = proposals.get(message) ?? hashedRekordV1(pair, message)
  proposals.set(message, proposed)
  return post(ENTRIES, proposed)
}
const entriesOf = (reply: Reply): [string, Entry][] => Object.entries(reply.json as Record<string, Entry>)

function onlyEntry(reply: Reply): [string, Entry] {
  const [entry, ...more] = entriesOf(reply)
  if (entry === undefined || more.length > 0) throw new Error(`not one entry: ${reply.status} ${reply.text}`)
  return entry
}

/** Checks an entry as a client does that has nothing but the log's key. */
function verifyEntry(id: string, entry: Entry): void {
  const { checkpoint, hashes, logIndex, rootHash, treeSize } = entry.verification.inclusionProof
  const leaf = Buffer.from(entry.body, 'base64')
  const leafHash = createHash('sha256').update(Buffer.of(0)).update(leaf).digest()
  expect(id).toBe(TREE_HEX + leafHash.toString('hex'))
  verifyInclusion({
    index: logIndex,
    size: treeSize,
    leafHash,
    rootHash: Buffer.from(rootHash, 'hex'),
    proof: hashes.map((hash) => Buffer.from(hash, 'hex')),
  })
  const head = verifyCheckpoint(checkpoint, { origin: service.log.origin, spkiDer: service.log.spkiDer })
  expect(head.size).toBe(treeSize)
  expect(Buffer.from(head.rootHash).toString('hex')).toBe(rootHash)
  expect(entry.logID).toBe(createHash('sha256').update(service.log.spkiDer).digest('hex'))
  expect(entry.logIndex).toBe(logIndex)
  expect(entryTimestampHolds(entry)).toBe(true)
}

describe('creating entries', () => {
  test('answers 201 with an entry that verifies, its id as raw ETag and in Location', async () => {
    await propose('first')
    const reply = await propose('second')
    expect(reply.status).toBe(201)
    const [id, entry] = onlyEntry(reply)
    expect(reply.headers).toMatchObject({
      etag: id,
      location: `${ENTRIES}/${id}`,
      'content-type': 'application/json',
    })
    expect(entry).toMatchObject({ logIndex: 1, integratedTime: Math.floor(NOW / 1000) })
    verifyEntry(id, entry)
    await checkLog(service.log)
  })

  test('the checkpoint has one signature line, whose name is the origin without the tree', async () => {
    const [, entry] = onlyEntry(await propose('first'))
    const { checkpoint } = entry.verification.inclusionProof
    expect(checkpoint).toMatch(
      new RegExp(
        `^rekor-v1\\.chancery\\.internal - ${TREE_ID}\n1\n[^\n]{44}\n\n— rekor-v1\\.chancery\\.internal [^\n]+\n$`,
      ),
    )
  })

  test('answers 409 with Location once the first reply was delivered', async () => {
    const first = await propose('a')
    first.deliver()
    const again = await propose('a')
    const [id] = onlyEntry(first)
    expect(again.status).toBe(409)
    expect(again.headers['location']).toBe(`${ENTRIES}/${id}`)
    expect(again.json).toEqual({
      code: 409,
      message: `an equivalent entry already exists in the transparency log with UUID ${id}`,
    })
  })

  test('answers a retry as the first time while no reply was delivered, also after a restart; then 409', async () => {
    const lost = onlyEntry(await propose('a'))
    await service.reopen()
    section = rekorV1Section({ shards: new RekorV1Shards([{ log: service.log, treeId: TREE_ID }]), checks })
    const retry = await propose('a')
    expect(retry.status).toBe(201)
    expect(onlyEntry(retry)).toEqual(lost)
    retry.deliver()
    expect((await propose('a')).status).toBe(409)
    await service.reopen()
    section = rekorV1Section({ shards: new RekorV1Shards([{ log: service.log, treeId: TREE_ID }]), checks })
    expect((await propose('a')).status).toBe(409)
    expect(service.log.head().size).toBe(1)
  })

  test('fifty at once: every proof is of the checkpoint beside it', async () => {
    const replies = await Promise.all(Array.from({ length: 50 }, (_, i) => propose(`entry ${i}`)))
    for (const reply of replies) {
      expect(reply.status).toBe(201)
      verifyEntry(...onlyEntry(reply))
    }
    expect(service.log.head().size).toBe(50)
  })

  test('an attestation is in what is read, not in the reply to its submission', async () => {
    const statement = '{"subject":[]}'
    const created = await post(ENTRIES, intotoV1(envelopeOf([pair], statement), [pemOf(pair)]))
    const [id, entry] = onlyEntry(created)
    expect(entry).not.toHaveProperty('attestation')
    const [, read] = onlyEntry(await get(`${ENTRIES}/${id}`))
    expect(read.attestation).toEqual({ data: base64(statement) })
  })

  const good = hashedRekordV1(pair, 'a')
  test.each<[string, unknown, object, number, object]>([
    [
      'no JSON',
      '{',
      {},
      400,
      { code: 400, message: expect.stringMatching(/^parsing proposedEntry body from "" failed, because /) },
    ],
    ['no body', undefined, {}, 422, { code: 602, message: 'proposedEntry in body is required' }],
    ['an unknown kind', { ...good, kind: 'x' }, {}, 422, { code: 422, message: 'invalid kind value: "x"' }],
    ['no spec', { ...good, spec: null }, {}, 422, { code: 602, message: 'spec in body is required' }],
    [
      'a kind that is not taken',
      { ...good, kind: 'rpm' },
      {},
      400,
      { code: 400, message: "error processing entry: entry kind 'rpm' is not enabled for submission on this server" },
    ],
    [
      'a wrong signature',
      hashedRekordV1(pair, 'a', { value: 'ab'.repeat(32) }),
      {},
      400,
      { code: 400, message: expect.stringMatching(/^error processing entry: verifying signature/) },
    ],
    [
      'an algorithm that is not allowed',
      hashedRekordV1(ecKeyPair('P-384'), 'a'),
      {},
      400,
      { code: 400, message: 'error processing entry: entry algorithms are not allowed' },
    ],
    [
      'text',
      good,
      { 'content-type': 'text/plain; charset=utf-8' },
      415,
      { code: 415, message: 'unsupported media type "text/plain", only [application/json] are allowed' },
    ],
    [
      'no type',
      good,
      { 'content-type': undefined },
      415,
      { code: 415, message: expect.stringContaining('application/octet-stream') },
    ],
    [
      'an answer nobody can give',
      good,
      { accept: 'text/html' },
      406,
      { code: 406, message: 'unsupported media type requested, only [application/json] are available' },
    ],
  ])('refuses %s', async (_, body, headers, status, error) => {
    const reply = await post(ENTRIES, body, headers)
    expect(reply.status).toBe(status)
    expect(reply.headers['content-type']).toBe('application/json')
    expect(reply.json).toEqual(error)
    expect(service.log.head().size).toBe(0)
  })

  test('parameters of media types do not matter', async () => {
    const headers = { 'content-type': 'application/json; charset=utf-8', accept: 'text/html, application/*;q=0.5' }
    expect((await post(ENTRIES, good, headers)).status).toBe(201)
  })
})

describe('a log that cannot be written', () => {
  test('a frozen log refuses entries with 405 and goes on answering', async () => {
    const [id] = onlyEntry(await propose('a'))
    section = rekorV1Section({
      shards: new RekorV1Shards([{ log: await service.reopen({ frozen: true }), treeId: TREE_ID }]),
      checks,
    })
    const refused = await propose('b')
    expect(refused.status).toBe(405)
    expect(refused.json).toEqual({ code: 405, message: 'this log has been frozen, please switch to the latest log' })
    expect((await get(`${ENTRIES}/${id}`)).status).toBe(200)
    expect((await get('/api/v1/log')).status).toBe(200)
  })

  test('a refused fork is 503 with its own text, and reads go on', async () => {
    const [id] = onlyEntry(await propose('a'))
    service.agent.moveGuard(service.log.origin, { size: 7, rootHash: new Uint8Array(32) })
    await propose('b')
    const refused = await propose('c')
    expect(refused.status).toBe(503)
    expect(refused.json).toEqual({ code: 503, message: 'this log is read-only until its operator acts' })
    expect((await get(`${ENTRIES}/${id}`)).status).toBe(200)
  })

  test('an HSM that is away is 503 with Retry-After; afterwards the retry is answered 201', async () => {
    service.agent.fault = new HsmError('unavailable', 'token_gone', 'away')
    section = rekorV1Section({
      shards: new RekorV1Shards([{ log: await reopenedWith({ addDeadlineMs: 50 }), treeId: TREE_ID }]),
      checks,
    })
    service.agent.fault = new HsmError('unavailable', 'token_gone', 'away')
    const refused = await propose('a')
    expect(refused.status).toBe(503)
    expect(refused.headers['retry-after']).toBe('1')
    service.agent.fault = undefined
    await expect.poll(async () => (await propose('a')).status, { timeout: 10_000 }).toBe(201)
  })

  function reopenedWith(limits: { addDeadlineMs: number }) {
    service.agent.fault = undefined
    return service.reopen({ limits })
  }

  test('checks that cannot take more are 503 with Retry-After', async () => {
    const full = startEntryChecks({ queueLimit: 0 })
    section = rekorV1Section({ shards: new RekorV1Shards([{ log: service.log, treeId: TREE_ID }]), checks: full })
    const refused = await propose('a')
    expect(refused.status).toBe(503)
    expect(refused.headers['retry-after']).toBe('1')
  })
})

describe('reading entries', () => {
  let ids: string[]
  beforeEach(async () => {
    ids = []
    for (const message of ['zero', 'one', 'two']) ids.push(onlyEntry(await propose(message))[0])
  })

  test('by index, by entry id and by leaf hash in either case', async () => {
    const id = ids[1] ?? ''
    const byId = await get(`${ENTRIES}/${id}`)
    expect(byId.status).toBe(200)
    expect(byId.headers['cache-control']).toContain('no-cache')
    verifyEntry(...onlyEntry(byId))
    for (const target of [`${ENTRIES}?logIndex=1`, `${ENTRIES}/${id.slice(16)}`, `${ENTRIES}/${id.toUpperCase()}`]) {
      expect((await get(target)).json).toEqual(byId.json)
    }
  })

  test.each([
    ['an index beyond the log', `${ENTRIES}?logIndex=3`],
    ['an index beyond all logs', `${ENTRIES}?logIndex=9223372036854775807`],
    ['an unknown entry', `${ENTRIES}/${TREE_HEX}${'ab'.repeat(32)}`],
    ['an unknown leaf', `${ENTRIES}/${'ab'.repeat(32)}`],
    ['another tree', `${ENTRIES}/${'0'.repeat(15)}1${'ab'.repeat(32)}`],
  ])('answers %s with an empty 404 without a type', async (_, target) => {
    const reply = await get(target)
    expect(reply).toMatchObject({ status: 404, text: '' })
    expect(reply.headers).not.toHaveProperty('content-type')
  })

  test.each([
    ['no index', ENTRIES, 422, 602, 'logIndex in query is required'],
    ['a negative index', `${ENTRIES}?logIndex=-1`, 422, 609, 'logIndex in query should be greater than or equal to 0'],
    ['an index that is none', `${ENTRIES}?logIndex=one`, 422, 601, 'logIndex in query must be of type int64: "one"'],
    ['an index over 64 bits', `${ENTRIES}?logIndex=9223372036854775808`, 422, 601, expect.any(String)],
    [
      'an id of another length',
      `${ENTRIES}/abcd`,
      422,
      605,
      "entryUUID in path should match '^([0-9a-fA-F]{64}|[0-9a-fA-F]{80})$'",
    ],
    [
      'a tree beyond int64',
      `${ENTRIES}/${'f'.repeat(80)}`,
      400,
      400,
      'validation error: ffffffffffffffff is not a valid TreeID',
    ],
    ['tree zero', `${ENTRIES}/${'0'.repeat(80)}`, 400, 400, expect.any(String)],
  ])('refuses %s', async (_, target, status, code, message) => {
    const reply = await get(target)
    expect(reply.status).toBe(status)
    expect(reply.json).toEqual({ code, message })
  })

  test('retrieves entry ids first, then leaf hashes and whole entries, then indexes, without what is not there', async () => {
    const [zero = '', one = '', two = ''] = ids
    const reply = await post(`${ENTRIES}/retrieve`, {
      logIndexes: [0, 77],
      entries: [hashedRekordV1(pair, 'zero', { signature: new Uint8Array() })].slice(1),
      entryUUIDs: [two.slice(16), TREE_HEX + 'ab'.repeat(32), one, 'cd'.repeat(32)],
    })
    expect(reply.status).toBe(200)
    const found = (reply.json as Record<string, Entry>[]).map((entry) => Object.keys(entry))
    expect(found).toEqual([[one], [two], [zero]])
    for (const entry of reply.json as Record<string, Entry>[]) {
      for (const [id, value] of Object.entries(entry)) verifyEntry(id, value)
    }
  })

  test('finds an entry given whole', async () => {
    const [id, entry] = onlyEntry(await get(`${ENTRIES}/${ids[0]}`))
    const logged = JSON.parse(Buffer.from(entry.body, 'base64').toString()) as unknown
    const reply = await post(`${ENTRIES}/retrieve`, { entries: [logged] })
    expect((reply.json as object[]).map((found) => Object.keys(found))).toEqual([[id]])
  })

  test('nothing found is an empty list', async () => {
    expect(await post(`${ENTRIES}/retrieve`, {})).toMatchObject({ status: 200, text: '[]' })
    expect(await post(`${ENTRIES}/retrieve`, { logIndexes: [99] })).toMatchObject({ status: 200, text: '[]' })
  })

  test.each([
    ['no JSON', '{', 400, 400],
    ['no body', undefined, 422, 602],
    ['eleven indexes', { logIndexes: Array.from({ length: 11 }, () => 0) }, 422, 611],
    [
      'eleven in all',
      { logIndexes: [1, 2, 3, 4, 5, 6], entryUUIDs: Array.from({ length: 5 }, () => 'ab'.repeat(32)) },
      422,
      422,
    ],
    ['an id of a tree beyond int64', { entryUUIDs: ['f'.repeat(80)] }, 400, 400],
  ])('refuses a retrieval of %s', async (_, body, status, code) => {
    const reply = await post(`${ENTRIES}/retrieve`, body)
    expect(reply.status).toBe(status)
    expect(reply.json).toMatchObject({ code })
  })
})

describe('the log itself', () => {
  test('an empty log has its signed head, too', async () => {
    const reply = await get('/api/v1/log')
    expect(reply.json).toMatchObject({ treeSize: 0, treeID: TREE_ID, inactiveShards: [] })
  })

  test('shows its head; proves consistency between sizes, with the present root', async () => {
    for (let i = 0; i < 6; i++) await propose(`entry ${i}`)
    const info = (await get('/api/v1/log')).json as Record<string, string>
    expect(info).toMatchObject({ treeSize: 6, treeID: TREE_ID, inactiveShards: [] })
    const head = verifyCheckpoint(info['signedTreeHead'] ?? '', {
      origin: service.log.origin,
      spkiDer: service.log.spkiDer,
    })
    expect(Buffer.from(head.rootHash).toString('hex')).toBe(info['rootHash'])

    const third = service.agent.heads.find(({ size }) => size === 3)
    const proof = (await get(`/api/v1/log/proof?firstSize=3&lastSize=6&treeID=${TREE_ID}`)).json as {
      hashes: string[]
      rootHash: string
    }
    verifyConsistency({
      first: 3,
      firstRoot: third?.rootHash ?? new Uint8Array(),
      second: 6,
      secondRoot: Buffer.from(proof.rootHash, 'hex'),
      proof: proof.hashes.map((hash) => Buffer.from(hash, 'hex')),
    })
    const earlier = (await get('/api/v1/log/proof?lastSize=2')).json
    expect(earlier).toMatchObject({ hashes: [expect.any(String)], rootHash: info['rootHash'] })
    expect((await get('/api/v1/log/proof?firstSize=4&lastSize=4')).json).toEqual({
      hashes: [],
      rootHash: info['rootHash'],
    })
  })

  const proof = '/api/v1/log/proof'
  test.each([
    ['no last size', proof, 422, 602, 'lastSize in query is required'],
    [
      'a first size of 0',
      `${proof}?firstSize=0&lastSize=1`,
      422,
      609,
      'firstSize in query should be greater than or equal to 1',
    ],
    ['a last size of 0', `${proof}?lastSize=0`, 422, 609, 'lastSize in query should be greater than or equal to 1'],
    [
      'sizes that are none',
      `${proof}?firstSize=1.5&lastSize=2`,
      422,
      601,
      'firstSize in query must be of type int64: "1.5"',
    ],
    ['sizes out of order', `${proof}?firstSize=2&lastSize=1`, 400, 400, 'firstSize(2) must be less than lastSize(1)'],
    [
      'a size that is not there yet',
      `${proof}?lastSize=9`,
      400,
      400,
      'the tree size requested(9) was greater than what is currently observable(0)',
    ],
    ['another tree', `${proof}?lastSize=1&treeID=1`, 400, 400, 'no log range found for tree ID 1'],
    [
      'a tree beyond int64',
      `${proof}?lastSize=1&treeID=9223372036854775808`,
      400,
      400,
      'invalid tree ID specified: 9223372036854775808',
    ],
    ['a tree that is none', `${proof}?lastSize=1&treeID=x`, 422, 605, "treeID in query should match '^[0-9]+$'"],
    ['the key of another tree', '/api/v1/log/publicKey?treeID=1', 400, 400, 'Bad Request'],
  ])('refuses %s', async (_, target, status, code, message) => {
    const reply = await get(target)
    expect(reply.status).toBe(status)
    expect(reply.json).toEqual({ code, message })
  })

  test('shows its key as a PEM file', async () => {
    for (const target of ['/api/v1/log/publicKey', `/api/v1/log/publicKey?treeID=${TREE_ID}`]) {
      const reply = await get(target, { accept: 'application/x-pem-file' })
      expect(reply.headers['content-type']).toBe('application/x-pem-file')
      const spki = createPublicKey(reply.text).export({ type: 'spki', format: 'der' })
      expect(Buffer.compare(spki, service.log.spkiDer)).toBe(0)
    }
  })

  test('answers ping, and unknown paths and methods in its own form', async () => {
    expect(await get('/ping')).toMatchObject({ status: 200, text: '.' })
    expect(await get('/api/v1/timestamp')).toMatchObject({
      status: 404,
      json: { code: 404, message: 'path /api/v1/timestamp was not found' },
    })
    expect(section.faults.methodNotAllowed('PUT', ENTRIES)).toMatchObject({
      status: 405,
      headers: { allow: 'POST,GET' },
      body: JSON.stringify({ code: 405, message: 'method PUT is not allowed, but [POST,GET] are' }),
    })
    expect(section.faults.tooLarge(7).body).toContain('Request Entity Too Large. Limit set to 7')
  })

  test('is served as tiles under its tree id', async () => {
    await propose('a')
    const prefix = `/api/v1/tiles/${TREE_ID}`
    expect((await get(`${prefix}/checkpoint`)).text).toBe(service.log.head().note)
    expect((await get(`${prefix}/tile/0/000.p/1`)).bytes).toHaveLength(32)
    expect((await get(`${prefix}/tile/entries/000.p/1`)).status).toBe(200)
    expect((await get(`${prefix}/tile/entries/000`)).status).toBe(404)
  })

  test.each(['2', '0', '-1', '9223372036854775808', '01', 'abc', ''])('does not start as tree %j', (treeId) => {
    expect(() => rekorV1Section({ shards: new RekorV1Shards([{ log: service.log, treeId }]), checks })).toThrow(
      RangeError,
    )
  })
})

describe('searching', () => {
  const digest = digestOf('sha256', 'artifact').toString('hex')
  let recordId: string
  let dsseId: string
  let intotoId: string
  beforeEach(async () => {
    const statement = JSON.stringify({ subject: [{ digest: { sha256: digest } }] })
    recordId = onlyEntry(await propose('artifact'))[0]
    dsseId = onlyEntry(await post(ENTRIES, dsseV1(envelopeOf([pair], statement), [pemOf(pair)])))[0]
    const other = ecKeyPair()
    intotoId = onlyEntry(await post(ENTRIES, intotoV1(envelopeOf([other], statement), [pemOf(other)])))[0]
    await propose('unrelated')
  })
  const search = async (query: unknown): Promise<unknown> => (await post('/api/v1/index/retrieve', query)).json

  test('by hash with and without prefix, in either case: the artifact and the statements about it', async () => {
    for (const hash of [digest, `sha256:${digest}`, digest.toUpperCase()]) {
      expect(await search({ hash })).toEqual([intotoId, dsseId, recordId])
    }
  })

  test('by public key: dsse and intoto entries, too, and by its hash as upstream stores it', async () => {
    const found = await search({ publicKey: { format: 'x509', content: base64(`text\n${pemOf(pair)}`) } })
    expect(found).toEqual([expect.any(String), dsseId, recordId])
    const keyHash = createHash('sha256').update(pemOf(pair)).digest('hex')
    expect(await search({ hash: `sha256:${keyHash}` })).toEqual(found)
  })

  test('joins criteria by or, and by and when told', async () => {
    const publicKey = { format: 'x509', content: base64(pemOf(pair)) }
    expect(await search({ hash: digest, publicKey })).toHaveLength(4)
    expect(await search({ hash: digest, publicKey, operator: 'or' })).toHaveLength(4)
    expect(await search({ hash: digest, publicKey, operator: 'and' })).toEqual([dsseId, recordId])
    expect(await search({ hash: digest, email: 'nobody@example.com', operator: 'and' })).toEqual([])
  })

  test('no criteria and no hits are empty lists', async () => {
    expect(await search({})).toEqual([])
    expect(await search({ hash: '', email: '', publicKey: null })).toEqual([])
    expect(await search({ hash: `sha512:${'ab'.repeat(64)}` })).toEqual([])
    expect(await search({ subject: 'https://example.com/x' })).toEqual([])
  })

  test.each([
    ['no JSON', '[', 400, 400],
    ['no body', undefined, 422, 602],
    ['a hash of another length', { hash: 'abcd' }, 422, 605],
    ['SHA-384, which upstream forgot', { hash: `sha384:${'ab'.repeat(48)}` }, 422, 605],
    ['a hash with a wrong prefix', { hash: `sha1:${digest}` }, 422, 605],
    ['an email that is none', { email: 'nobody' }, 422, 601],
    ['a long subject', { subject: 'x'.repeat(513) }, 422, 603],
    ['another operator', { hash: digest, operator: 'xor' }, 422, 606],
    ['a key of no format', { publicKey: { content: base64(pemOf(pair)) } }, 422, 602],
    ['a key of an unknown format', { publicKey: { format: 'gpg', content: '' } }, 422, 606],
    ['a key of a format that is not logged here', { publicKey: { format: 'pgp', content: '' } }, 400, 400],
    ['a key that is none', { publicKey: { format: 'x509', content: base64('x') } }, 400, 400],
    ['a hash that is a number', { hash: 7 }, 400, 400],
  ])('refuses %s', async (_, query, status, code) => {
    const reply = await post('/api/v1/index/retrieve', query)
    expect(reply.status).toBe(status)
    expect(reply.json).toMatchObject({ code })
  })
})
