import { createHash, generateKeyPairSync, sign, X509Certificate } from 'node:crypto'
import canonicalize from 'canonicalize'
import { describe, expect, test } from 'vitest'
import type { CheckedEntry } from '../entry.ts'
import { EntryError } from '../errors.ts'
import {
  base64,
  bytesOf,
  digestOf,
  dsseV1,
  ecKeyPair,
  envelopeOf,
  freshCost,
  hashedRekordV1,
  intotoV1,
  pemOf,
  signEd25519ph,
  textOf,
} from '../material.fixture.ts'
import { publishedEntry } from '../published.fixture.ts'
import { checkInsertion, checkRetrieval } from './entries.ts'

const pair = ecKeyPair()
const other = ecKeyPair()
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
const ed25519 = generateKeyPairSync('ed25519')
const sha256 = (value: Uint8Array | string): string => createHash('sha256').update(value).digest('hex')
const keyKey = (pem: string): string => `key:${sha256(pem)}`

const insert = (proposed: unknown): CheckedEntry => checkInsertion(bytesOf(proposed), freshCost())
const find = (...entries: readonly unknown[]): readonly Uint8Array[] =>
  checkRetrieval(bytesOf({ entries }), freshCost()).leafHashes
const parsed = (entry: CheckedEntry): unknown => JSON.parse(textOf(entry.leaf))

/** A copy with one member replaced (or, by undefined, removed), named by its path. */
function changed(value: object, path: string, replacement: unknown): unknown {
  const copy = structuredClone(value)
  const names = path.split('.')
  const last = names.pop() ?? ''
  const holder = names.reduce((node, name) => Reflect.get(node, name) as object, copy)
  if (replacement === undefined) Reflect.deleteProperty(holder, last)
  else Reflect.set(holder, last, replacement)
  return copy
}

function refusalOf(run: () => unknown): string {
  try {
    run()
    return 'accepted'
  } catch (error) {
    return error instanceof EntryError
      ? [error.code, error.schemaCode].filter((part) => part !== undefined).join(' ')
      : String(error)
  }
}

describe('hashedrekord 0.0.1', () => {
  test('reproduces a published entry byte for byte from what its client had', () => {
    const { digest = '', signature = '', publicKeyPem = '', body } = publishedEntry('managed-key-and-trusted-root')
    const proposed = {
      spec: {
        signature: {
          publicKey: { content: base64(`# a key\n${publicKeyPem.replaceAll('\n', '\r\n')}`) },
          content: signature,
        },
        data: { hash: { value: Buffer.from(digest, 'base64').toString('hex'), algorithm: 'sha256' } },
      },
      kind: 'hashedrekord',
      apiVersion: '0.0.1',
    }
    const entry = insert(proposed)
    expect(textOf(entry.leaf)).toBe(Buffer.from(body, 'base64').toString())
    expect(Buffer.from(entry.leafHash).toString('hex')).toBe(sha256(Buffer.concat([Buffer.from([0]), entry.leaf])))
    expect(entry.searchKeys).toEqual([
      `hash:sha256:${Buffer.from(digest, 'base64').toString('hex')}`,
      keyKey(publicKeyPem),
    ])
  })

  const large = ecKeyPair('P-384')
  const largest = ecKeyPair('P-521')
  test.each([
    ['P-256', hashedRekordV1(pair, 'a')],
    ['P-384 and SHA-384', hashedRekordV1(large, 'a', { hash: 'sha384' })],
    ['P-521 and SHA-512', hashedRekordV1(largest, 'a', { hash: 'sha512' })],
    ['RSA', hashedRekordV1(rsa, 'a')],
    [
      'Ed25519ph',
      hashedRekordV1(ed25519, 'a', { hash: 'sha512', signature: signEd25519ph(ed25519, Buffer.from('a')) }),
    ],
    ['unknown members', { ...hashedRekordV1(pair, 'a'), extra: [1, 2, { three: null }] }],
  ])('accepts %s and stores only what it knows', (_, proposed) => {
    const { apiVersion, kind, spec } = proposed
    expect(textOf(insert(proposed).leaf)).toBe(canonicalize({ apiVersion, kind, spec }))
  })

  test('keeps the case of the digest in the leaf, not in the search key', () => {
    const value = digestOf('sha256', 'a').toString('hex').toUpperCase()
    const entry = insert(hashedRekordV1(pair, 'a', { value }))
    expect(parsed(entry)).toMatchObject({ spec: { data: { hash: { value } } } })
    expect(entry.searchKeys[0]).toBe(`hash:sha256:${value.toLowerCase()}`)
  })

  test('a duplicated member is the last one, as for encoding/json', () => {
    const good = JSON.stringify(hashedRekordV1(pair, 'a'))
    const entry = checkInsertion(Buffer.from(good.replace('"kind"', '"kind":"dsse","kind"')), freshCost())
    expect(entry.kind).toBe('hashedrekord')
  })

  const good = hashedRekordV1(pair, 'a')
  test.each<[string, unknown, string]>([
    ['no body member', {}, 'schema 602'],
    ['an array', [good], 'malformed_json'],
    ['a string', 'hashedrekord', 'malformed_json'],
    ['no kind', changed(good, 'kind', undefined), 'schema 602'],
    ['an unknown kind', changed(good, 'kind', 'hashedRekord'), 'schema 422'],
    ['a kind of another type', changed(good, 'kind', 7), 'schema 422'],
    ['no apiVersion', changed(good, 'apiVersion', undefined), 'schema 602'],
    ['an apiVersion that is none', changed(good, 'apiVersion', '1'), 'schema 605'],
    ['a long apiVersion', changed(good, 'apiVersion', `0.0.1-${'a'.repeat(100)}`), 'schema 605'],
    ['another apiVersion', changed(good, 'apiVersion', '0.0.2'), 'unsupported_kind'],
    ['no spec', changed(good, 'spec', undefined), 'schema 602'],
    ['a null spec', changed(good, 'spec', null), 'schema 602'],
    ['a spec that is a list', changed(good, 'spec', []), 'invalid'],
    ['a kind of upstream that is not taken', changed(good, 'kind', 'rpm'), 'unsupported_kind'],
    ['no signature', changed(good, 'spec.signature', undefined), 'invalid'],
    ['an empty signature', changed(good, 'spec.signature.content', ''), 'invalid'],
    ['a signature that is a number', changed(good, 'spec.signature.content', 7), 'invalid'],
    ['a signature that is no base64', changed(good, 'spec.signature.content', '***'), 'invalid'],
    ['no key', changed(good, 'spec.signature.publicKey', undefined), 'invalid'],
    ['a key that is no PEM', changed(good, 'spec.signature.publicKey.content', base64('key')), 'invalid'],
    ['no data', changed(good, 'spec.data', undefined), 'invalid'],
    ['no hash value', changed(good, 'spec.data.hash.value', undefined), 'invalid'],
    ['no hash algorithm', changed(good, 'spec.data.hash.algorithm', undefined), 'invalid'],
    ['SHA-1', changed(good, 'spec.data.hash', { algorithm: 'sha1', value: 'ab'.repeat(20) }), 'invalid'],
    ['a short hash', changed(good, 'spec.data.hash.value', 'ab'), 'invalid'],
    ['a hash with a letter too far', changed(good, 'spec.data.hash.value', 'xy'.repeat(32)), 'invalid'],
    ['another hash', changed(good, 'spec.data.hash.value', 'ab'.repeat(32)), 'bad_signature'],
    ['the key of another', hashedRekordV1(pair, 'a', { pem: pemOf(other) }), 'bad_signature'],
    ['P-384 with SHA-256', hashedRekordV1(large, 'a'), 'unsupported_algorithm'],
    ['pure Ed25519', hashedRekordV1(ed25519, 'a', { signature: new Uint8Array(64) }), 'unsupported_algorithm'],
    [
      'Ed25519 over the message',
      hashedRekordV1(ed25519, 'a', { hash: 'sha512', signature: sign(null, Buffer.from('a'), ed25519.privateKey) }),
      'bad_signature',
    ],
    ['RSA-1024', hashedRekordV1(generateKeyPairSync('rsa', { modulusLength: 1024 }), 'a'), 'unsupported_algorithm'],
    ['secp256k1', hashedRekordV1(ecKeyPair('secp256k1'), 'a'), 'invalid'],
  ])('refuses %s', (_, proposed, code) => {
    expect(refusalOf(() => insert(proposed))).toBe(code)
  })

  test('refuses an empty body and what is not JSON', () => {
    expect(refusalOf(() => checkInsertion(new Uint8Array(), freshCost()))).toBe('schema 602')
    expect(refusalOf(() => checkInsertion(Buffer.from('{"kind":'), freshCost()))).toBe('malformed_json')
  })

  test('refuses a leaf that no entry bundle can hold', () => {
    // Only a client's own text can make a leaf long: intoto keeps payload type and key as they came.
    const envelope = envelopeOf([pair], '{}', 'x'.repeat(70_000))
    expect(refusalOf(() => insert(intotoV1(envelope, [pemOf(pair)])))).toBe('invalid')
  })
})

describe('dsse 0.0.1', () => {
  test('reproduces a published entry byte for byte from its envelope and certificate', () => {
    const { envelope, certificate = '', body } = publishedEntry('happy-path-intoto-in-dsse-v3')
    if (envelope === undefined) throw new Error('no envelope')
    const { payload, payloadType, signatures } = envelope
    const pem = new X509Certificate(Buffer.from(certificate, 'base64')).toString()
    const proposed = dsseV1({ payload, payloadType, signatures: signatures.map(({ sig }) => ({ sig })) }, [pem])
    const entry = insert(proposed)
    expect(textOf(entry.leaf)).toBe(Buffer.from(body, 'base64').toString())
    expect(entry.searchKeys).toEqual(
      expect.arrayContaining([
        `hash:sha256:${sha256(Buffer.from(payload, 'base64'))}`,
        expect.stringMatching(/^hash:sha256:5608b4de/),
        keyKey(pem),
        expect.stringMatching(/^subject:https:\/\/github\.com\//),
      ]),
    )
    expect(find(JSON.parse(Buffer.from(body, 'base64').toString()))).toEqual([entry.leafHash])
  })

  const statement = JSON.stringify({
    subject: [{ digest: { sha256: 'AB'.repeat(32), gitCommit: 'cd'.repeat(20) } }, { name: 'no digest' }],
    predicate: { materials: [{ digest: { sha1: 'ef'.repeat(20) } }, { digest: { odd: 7 } }] },
  })

  test('finds an in-toto statement by its subjects, materials and keys; keeps no attachment', () => {
    const entry = insert(dsseV1(envelopeOf([pair], statement), [pemOf(pair)]))
    expect(entry.searchKeys).toEqual(
      expect.arrayContaining([
        `hash:sha256:${'ab'.repeat(32)}`,
        `hash:gitcommit:${'cd'.repeat(20)}`,
        `hash:sha1:${'ef'.repeat(20)}`,
        keyKey(pemOf(pair)),
      ]),
    )
    expect(entry).not.toHaveProperty('attachment')
  })

  test('null members, which Go clients send for what they leave out, are absent ones', () => {
    const proposed = dsseV1(envelopeOf([pair], statement), [pemOf(pair)])
    const nulls = { ...proposed, spec: { ...proposed.spec, envelopeHash: null, payloadHash: null, signatures: null } }
    expect(insert(nulls).leafHash).toEqual(insert(proposed).leafHash)
    const entry = insert(proposed)
    const logged = changed(parsed(entry) as object, 'spec.proposedContent', null)
    expect(find(logged)).toEqual([entry.leafHash])
  })

  test('sorts signatures by their text and gives each the verifier that made it', () => {
    const envelope = envelopeOf([pair, other, rsa, ed25519], 'payload', 'text/plain')
    const pems = [pair, other, rsa, ed25519].map(pemOf)
    const entry = insert(dsseV1(envelope, pems))
    const expected = envelope.signatures
      .map(({ sig }, i) => ({ signature: sig, verifier: base64(pems[i] ?? '') }))
      .toSorted((a, b) => (a.signature < b.signature ? -1 : 1))
    expect(parsed(entry)).toMatchObject({ spec: { signatures: expected } })
    const shuffled = { ...envelope, signatures: envelope.signatures.toReversed() }
    const again = insert(dsseV1(shuffled, pems.toReversed()))
    expect(parsed(again)).toMatchObject({ spec: { signatures: expected } })
  })

  test('a statement with very many subjects keeps its own keys within the bound', () => {
    const subject = Array.from({ length: 300 }, (_, i) => ({ digest: { sha256: sha256(String(i)) } }))
    const { searchKeys } = insert(dsseV1(envelopeOf([pair], JSON.stringify({ subject })), [pemOf(pair)]))
    expect(searchKeys).toHaveLength(128)
    expect(searchKeys).toContain(keyKey(pemOf(pair)))
  })

  test('URL-safe base64, key ids, surplus verifiers and a repeated signature are taken', () => {
    const envelope = envelopeOf([pair], '\u00fb\u00ff\u00fe~~~???', 'text/plain')
    const [first] = envelope.signatures
    const urlSafe = envelope.payload.replaceAll('+', '-').replaceAll('/', '_')
    const proposed = dsseV1({ ...envelope, payload: urlSafe, signatures: [{ keyid: 'any', ...first }, first] }, [
      pemOf(pair),
      pemOf(other),
    ])
    expect(parsed(insert(proposed))).toMatchObject({ spec: { signatures: [{ signature: first?.sig }] } })
  })

  const envelope = envelopeOf([pair], statement)
  const good = dsseV1(envelope, [pemOf(pair)])
  const stored = insert(good)
  const withEnvelope = (change: object): unknown => dsseV1({ ...envelope, ...change }, [pemOf(pair)])
  test.each<[string, unknown, string]>([
    ['neither form', changed(good, 'spec', {}), 'invalid'],
    ['both forms', changed(good, 'spec.payloadHash', { algorithm: 'sha256', value: 'a' }), 'invalid'],
    ['stored fields alone', parsed(stored), 'invalid'],
    ['no envelope', changed(good, 'spec.proposedContent.envelope', undefined), 'invalid'],
    ['an envelope that is an object', changed(good, 'spec.proposedContent.envelope', envelope), 'invalid'],
    ['an envelope that is no JSON', changed(good, 'spec.proposedContent.envelope', 'x'), 'malformed_json'],
    ['no verifiers', changed(good, 'spec.proposedContent.verifiers', []), 'invalid'],
    ['a null verifier', changed(good, 'spec.proposedContent.verifiers', [null]), 'invalid'],
    ['a verifier that is no PEM', dsseV1(envelope, ['x']), 'invalid'],
    ['no signatures', withEnvelope({ signatures: [] }), 'invalid'],
    ['an empty signature', withEnvelope({ signatures: [{ sig: '' }] }), 'invalid'],
    ['a signature with a line break', withEnvelope({ signatures: [{ sig: 'AA\nAA' }] }), 'invalid'],
    ['no payload', withEnvelope({ payload: undefined }), 'invalid'],
    ['another payload', withEnvelope({ payload: base64('other') }), 'bad_signature'],
    ['another payload type', withEnvelope({ payloadType: 'text/plain' }), 'bad_signature'],
    ['the key of another', dsseV1(envelope, [pemOf(other)]), 'bad_signature'],
    ['a verifier that made no signature, tried first', dsseV1(envelope, [pemOf(other), pemOf(pair)]), 'bad_signature'],
    [
      'a signature that nobody made',
      withEnvelope({ signatures: [...envelope.signatures, { sig: 'AAAA' }] }),
      'bad_signature',
    ],
    [
      'nine signatures',
      withEnvelope({ signatures: Array.from({ length: 9 }, () => envelope.signatures[0]) }),
      'too_many',
    ],
    [
      'nine verifiers',
      dsseV1(
        envelope,
        Array.from({ length: 9 }, () => pemOf(pair)),
      ),
      'too_many',
    ],
  ])('refuses %s', (_, proposed, code) => {
    expect(refusalOf(() => insert(proposed))).toBe(code)
  })

  test('refuses what would take more than sixteen checks', () => {
    const pairs = Array.from({ length: 8 }, () => ecKeyPair())
    const many = envelopeOf(pairs, 'payload', 'text/plain')
    // Each verifier's signature comes last among those not yet tried.
    expect(refusalOf(() => insert(dsseV1(many, pairs.map(pemOf).toReversed())))).toBe('too_many')
  })
})

describe('intoto 0.0.2', () => {
  const payload = JSON.stringify({ subject: [{ digest: { sha256: 'ab'.repeat(32) } }] })
  const pem = pemOf(pair).replaceAll('\n', '\r\n')
  const envelope = envelopeOf([pair], payload)
  const good = intotoV1(envelope, [pem])

  test('stores the envelope without its payload, hashes and key as they came, and the statement beside it', () => {
    const entry = insert(good)
    expect(textOf(entry.leaf)).toBe(
      `{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{"envelope":{"payloadType":"application/vnd.in-toto+json",` +
        `"signatures":[{"publicKey":"${base64(pem)}","sig":"${base64(envelope.signatures[0]?.sig ?? '')}"}]},` +
        `"hash":{"algorithm":"sha256","value":"${'ab'.repeat(32)}"},` +
        `"payloadHash":{"algorithm":"sha256","value":"${sha256(payload)}"}}}}`,
    )
    expect(textOf(entry.attachment ?? new Uint8Array())).toBe(payload)
    expect(entry.searchKeys).toEqual([
      `hash:sha256:${sha256(payload)}`,
      keyKey(pemOf(pair)),
      `hash:sha256:${'ab'.repeat(32)}`,
    ])
    expect(find(JSON.parse(textOf(entry.leaf)))).toEqual([entry.leafHash])
  })

  test('a key id is kept unless it is empty', () => {
    const withKeyId = (keyid: string): unknown => changed(good, 'spec.content.envelope.signatures.0.keyid', keyid)
    expect(textOf(insert(withKeyId('me')).leaf)).toContain('[{"keyid":"me","publicKey"')
    expect(insert(withKeyId('')).leafHash).toEqual(insert(good).leafHash)
  })

  test('a statement of more than 100 KiB is logged and not kept', () => {
    const at = (size: number): CheckedEntry => insert(intotoV1(envelopeOf([pair], 'x'.repeat(size)), [pem]))
    expect(at(100 * 1024).attachment).toHaveLength(100 * 1024)
    expect(at(100 * 1024 + 1)).not.toHaveProperty('attachment')
  })

  test.each<[string, unknown, string]>([
    ['no content', changed(good, 'spec', {}), 'invalid'],
    ['no envelope', changed(good, 'spec.content.envelope', undefined), 'invalid'],
    ['no payload', changed(good, 'spec.content.envelope.payload', undefined), 'invalid'],
    ['a payload that is base64 once', changed(good, 'spec.content.envelope.payload', envelope.payload), 'invalid'],
    ['no payload type', changed(good, 'spec.content.envelope.payloadType', undefined), 'invalid'],
    ['an empty payload type', changed(good, 'spec.content.envelope.payloadType', ''), 'invalid'],
    ['no envelope hash', changed(good, 'spec.content.hash', undefined), 'invalid'],
    ['an envelope hash of SHA-512', changed(good, 'spec.content.hash.algorithm', 'sha512'), 'invalid'],
    ['no signatures', changed(good, 'spec.content.envelope.signatures', []), 'invalid'],
    ['a null signature', changed(good, 'spec.content.envelope.signatures.0', null), 'invalid'],
    ['a signature without a key', changed(good, 'spec.content.envelope.signatures.0.publicKey', undefined), 'invalid'],
    ['an empty signature', changed(good, 'spec.content.envelope.signatures.0.sig', ''), 'invalid'],
    ['another payload', changed(good, 'spec.content.envelope.payload', base64(base64('other'))), 'bad_signature'],
    ['the key of another', intotoV1(envelope, [pemOf(other)]), 'bad_signature'],
    [
      'nine signatures',
      intotoV1(
        envelopeOf(
          Array.from({ length: 9 }, () => pair),
          payload,
        ),
        [],
      ),
      'too_many',
    ],
  ])('refuses %s', (_, proposed, code) => {
    expect(refusalOf(() => insert(proposed))).toBe(code)
  })
})

describe('intoto 0.0.1', () => {
  const payload = JSON.stringify({ subject: [] })
  const envelope = JSON.stringify(envelopeOf([pair], payload))
  const good = {
    apiVersion: '0.0.1',
    kind: 'intoto',
    spec: { content: { envelope }, publicKey: base64(pemOf(pair).replaceAll('\n', '\r\n')) },
  }

  test('stores both hashes and the canonical key', () => {
    const entry = insert(good)
    expect(textOf(entry.leaf)).toBe(
      `{"apiVersion":"0.0.1","kind":"intoto","spec":{"content":{"hash":{"algorithm":"sha256","value":"${sha256(envelope)}"},` +
        `"payloadHash":{"algorithm":"sha256","value":"${sha256(payload)}"}},"publicKey":"${base64(pemOf(pair))}"}}`,
    )
    expect(textOf(entry.attachment ?? new Uint8Array())).toBe(payload)
    expect(find(good, JSON.parse(textOf(entry.leaf)))).toEqual([entry.leafHash, entry.leafHash])
  })

  test.each<[string, unknown, string]>([
    ['no key', changed(good, 'spec.publicKey', undefined), 'invalid'],
    ['no content', changed(good, 'spec.content', undefined), 'invalid'],
    ['no envelope', changed(good, 'spec.content.envelope', undefined), 'invalid'],
    ['the key of another', changed(good, 'spec.publicKey', base64(pemOf(other))), 'bad_signature'],
    ['another apiVersion', changed(good, 'apiVersion', '0.0.3'), 'unsupported_kind'],
  ])('refuses %s', (_, proposed, code) => {
    expect(refusalOf(() => insert(proposed))).toBe(code)
  })
})

describe('retrieval', () => {
  const entry = hashedRekordV1(pair, 'a')
  const id = 'ab'.repeat(32)
  const read = (query: unknown) => checkRetrieval(bytesOf(query), freshCost())

  test('reads all three sorts, and finds what cosign sends together', () => {
    const envelope = envelopeOf([pair], '{}')
    const intoto = {
      apiVersion: '0.0.1',
      kind: 'intoto',
      spec: { content: { envelope: JSON.stringify(envelope) }, publicKey: base64(pemOf(pair)) },
    }
    const query = read({
      entryUUIDs: [id, id + 'cd'.repeat(8)],
      logIndexes: [0, 7],
      entries: [dsseV1(envelope, [pemOf(pair)]), intoto],
    })
    expect(query).toMatchObject({ entryIds: [id, id + 'cd'.repeat(8)], logIndexes: [0, 7] })
    expect(query.leafHashes).toHaveLength(2)
  })

  test('empty and absent lists ask for nothing; a kind that the log never takes cannot be in it', () => {
    const nothing = { entryIds: [], logIndexes: [], leafHashes: [] }
    expect(read({})).toEqual(nothing)
    expect(read({ entryUUIDs: [], logIndexes: null, entries: [] })).toEqual(nothing)
    expect(read({ entries: [{ kind: 'rpm', apiVersion: '0.0.1', spec: {} }] })).toEqual(nothing)
  })

  const times = <T>(n: number, value: T): T[] => Array.from({ length: n }, () => value)
  test.each<[string, unknown, string]>([
    ['no object', [], 'malformed_json'],
    ['eleven indexes', { logIndexes: times(11, 0) }, 'schema 611'],
    ['eleven ids', { entryUUIDs: times(11, id) }, 'schema 611'],
    ['eleven entries', { entries: times(11, entry) }, 'schema 611'],
    ['eleven together', { entryUUIDs: times(4, id), logIndexes: times(4, 0), entries: times(3, entry) }, 'schema 422'],
    ['a negative index', { logIndexes: [0, -1] }, 'schema 609'],
    ['half an index', { logIndexes: [0.5] }, 'malformed_json'],
    ['an index that is text', { logIndexes: ['0'] }, 'malformed_json'],
    ['an id of another length', { entryUUIDs: ['abcd'] }, 'schema 605'],
    ['an id that is no hex', { entryUUIDs: ['xy'.repeat(32)] }, 'schema 605'],
    ['an id that is a number', { entryUUIDs: [7] }, 'malformed_json'],
    ['an entry without a spec', { entries: [{ kind: 'hashedrekord', apiVersion: '0.0.1' }] }, 'schema 602'],
    ['an entry of an unknown kind', { entries: [changed(entry, 'kind', 'x')] }, 'schema 422'],
    ['an entry with a bad signature', { entries: [changed(entry, 'spec.data.hash.value', id)] }, 'bad_signature'],
    ['entries that are an object', { entries: {} }, 'malformed_json'],
  ])('refuses %s', (_, query, code) => {
    expect(refusalOf(() => read(query))).toBe(code)
  })

  test('names the member in the texts that tests of upstream look for', () => {
    expect(() => read({ logIndexes: times(11, 0) })).toThrow('logIndexes in body should have at most 10 items')
    expect(() => read({ entryUUIDs: times(6, id), logIndexes: times(5, 0) })).toThrow(
      'more than max allowed 10 entries in request',
    )
    expect(() => read({ logIndexes: [-1] })).toThrow('logIndexes.0 in body should be greater than or equal to 0')
  })
})
