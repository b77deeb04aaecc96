import { createHash, generateKeyPairSync, sign, X509Certificate } from 'node:crypto'
import { PublicKeyDetails } from '@sigstore/protobuf-specs'
import { describe, expect, test } from 'vitest'
import type { CheckedEntry } from '../entry.ts'
import { EntryError } from '../errors.ts'
import { preAuthenticationEncoding } from '../dsse.ts'
import {
  base64,
  bytesOf,
  digestOf,
  ecKeyPair,
  envelopeOf,
  freshCost,
  hashedRekordV2,
  type KeyPair,
  pemOf,
  signEd25519ph,
  spkiOf,
  textOf,
} from '../material.fixture.ts'
import { publishedEntry } from '../published.fixture.ts'
import { checkCreateEntry } from './entries.ts'

const pair = ecKeyPair()
const other = ecKeyPair()
const large = ecKeyPair('P-384')
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
const ed25519 = generateKeyPairSync('ed25519')
const P256 = 'PKIX_ECDSA_P256_SHA_256'

const create = (request: unknown, strict = false): CheckedEntry =>
  checkCreateEntry(typeof request === 'string' ? Buffer.from(request) : bytesOf(request), { ...freshCost(), strict })
const bodyOf = (entry: CheckedEntry): unknown => JSON.parse(textOf(entry.leaf))

function refusalOf(run: () => unknown): string {
  try {
    run()
    return 'accepted'
  } catch (error) {
    return error instanceof EntryError ? error.code : String(error)
  }
}

describe('hashedrekord 0.0.2', () => {
  const published = ['rekor2-happy-path', 'rekor2-dsse-happy-path'] as const
  test.each(published)('reproduces the published entry of %s byte for byte', (name) => {
    const { certificate = '', digest, signature, envelope, body } = publishedEntry(name)
    const message =
      envelope === undefined
        ? undefined
        : preAuthenticationEncoding(envelope.payloadType, Buffer.from(envelope.payload, 'base64'))
    const entry = create({
      hashedRekordRequestV002: {
        digest: digest ?? base64(digestOf('sha256', message ?? '')),
        signature: {
          content: signature ?? envelope?.signatures[0]?.sig,
          verifier: { x509Certificate: { rawBytes: certificate }, keyDetails: P256 },
        },
      },
    })
    expect(textOf(entry.leaf)).toBe(Buffer.from(body, 'base64').toString())
    expect(entry.searchKeys).toContainEqual(expect.stringMatching(/^(email|subject):/))
    const pem = new X509Certificate(Buffer.from(certificate, 'base64')).toString()
    expect(entry.searchKeys).toContain(`key:${createHash('sha256').update(pem).digest('hex')}`)
  })

  test('an entry of a bare key is found by digest and key', () => {
    const { searchKeys } = create(hashedRekordV2(pair, 'a'))
    expect(searchKeys).toEqual([
      `hash:sha256:${digestOf('sha256', 'a').toString('hex')}`,
      `key:${createHash('sha256').update(pemOf(pair)).digest('hex')}`,
    ])
  })

  const good = hashedRekordV2(pair, 'a')
  const { digest, signature } = good.hashedRekordRequestV002
  const request = (fields: object): unknown => ({ hashedRekordRequestV002: { digest, signature, ...fields } })
  const verifier = (fields: object): unknown => request({ signature: { content: signature.content, verifier: fields } })
  const rawBytes = base64(spkiOf(pair))
  const urlSafe = (text: string): string => text.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')

  test.each<[string, unknown]>([
    [
      'snake_case names',
      {
        hashed_rekord_request_v002: {
          digest,
          signature: {
            content: signature.content,
            verifier: { key_details: P256, public_key: { raw_bytes: rawBytes } },
          },
        },
      },
    ],
    ['the number of the key details', verifier({ keyDetails: 5, publicKey: { rawBytes } })],
    [
      'URL-safe base64 without padding',
      {
        hashedRekordRequestV002: {
          digest: urlSafe(digest),
          signature: {
            content: urlSafe(signature.content),
            verifier: { keyDetails: P256, publicKey: { rawBytes: urlSafe(rawBytes) } },
          },
        },
      },
    ],
    ['null for absent fields', { ...good, dsseRequestV002: null }],
  ])('reads %s as the same entry', (_, written) => {
    expect(create(written).leafHash).toEqual(create(good).leafHash)
  })

  test.each([
    ['P-384', large, 'PKIX_ECDSA_P384_SHA_384', 'sha384', 'SHA2_384'],
    ['P-521', ecKeyPair('P-521'), 'PKIX_ECDSA_P521_SHA_512', 'sha512', 'SHA2_512'],
    ['RSA', rsa, 'PKIX_RSA_PKCS1V15_2048_SHA256', 'sha256', 'SHA2_256'],
    // Only the hash is taken from the key details: rekor-tiles does not compare the kind of key.
    ['RSA under the details of P-256', rsa, P256, 'sha256', 'SHA2_256'],
  ] as const)('accepts %s and keeps the key details as they were submitted', (_, keys, keyDetails, hash, algorithm) => {
    const entry = create(hashedRekordV2(keys, 'a', { keyDetails, hash }))
    expect(bodyOf(entry)).toMatchObject({
      spec: { hashedRekordV002: { data: { algorithm }, signature: { verifier: { keyDetails } } } },
    })
  })

  test('accepts Ed25519ph', () => {
    const signed = signEd25519ph(ed25519, Buffer.from('a'))
    const entry = create(
      hashedRekordV2(ed25519, 'a', { keyDetails: 'PKIX_ED25519_PH', hash: 'sha512', signature: signed }),
    )
    expect(bodyOf(entry)).toMatchObject({ spec: { hashedRekordV002: { data: { algorithm: 'SHA2_512' } } } })
  })

  test('names key details by the numbers of the protocol', () => {
    const pairs: [KeyPair, keyof typeof PublicKeyDetails, 'sha256' | 'sha384' | 'sha512'][] = [
      [pair, 'PKIX_ECDSA_P256_SHA_256', 'sha256'],
      [large, 'PKIX_ECDSA_P384_SHA_384', 'sha384'],
      [rsa, 'PKIX_RSA_PKCS1V15_2048_SHA256', 'sha256'],
      [rsa, 'PKIX_RSA_PKCS1V15_3072_SHA256', 'sha256'],
      [rsa, 'PKIX_RSA_PKCS1V15_4096_SHA256', 'sha256'],
    ]
    for (const [keys, keyDetails, hash] of pairs) {
      const entry = create(hashedRekordV2(keys, 'a', { keyDetails: PublicKeyDetails[keyDetails], hash }))
      expect(bodyOf(entry)).toMatchObject({ spec: { hashedRekordV002: { signature: { verifier: { keyDetails } } } } })
    }
  })

  test.each<[string, unknown, string]>([
    ['nothing', '', 'malformed_json'],
    ['no JSON', '{', 'malformed_json'],
    ['a list', [], 'schema'],
    ['an empty request', {}, 'unsupported_kind'],
    ['an unknown field', { ...good, extra: 1 }, 'schema'],
    ['an unknown field inside', request({ data: {} }), 'schema'],
    ['both requests', { ...good, dsseRequestV002: {} }, 'schema'],
    [
      'both spellings of a field',
      request({
        digest,
        signature: { ...signature, verifier: { keyDetails: P256, key_details: P256, publicKey: { rawBytes } } },
      }),
      'schema',
    ],
    [
      'a doubled member',
      `{"hashedRekordRequestV002":${JSON.stringify(good.hashedRekordRequestV002)},"hashedRekordRequestV002":{}}`,
      'malformed_json',
    ],
    ['no digest', request({ digest: undefined }), 'invalid'],
    ['a digest that is a number', request({ digest: 7 }), 'schema'],
    ['a digest that is no base64', request({ digest: '?' }), 'schema'],
    ['a digest of another length', request({ digest: base64('short') }), 'invalid'],
    ['another digest', request({ digest: base64(digestOf('sha256', 'b')) }), 'bad_signature'],
    ['no signature', request({ signature: undefined }), 'invalid'],
    ['an empty signature', request({ signature: { ...signature, content: '' } }), 'invalid'],
    ['no verifier', request({ signature: { content: signature.content } }), 'invalid'],
    ['an empty verifier', verifier({}), 'invalid'],
    [
      'key and certificate',
      verifier({ keyDetails: P256, publicKey: { rawBytes }, x509Certificate: { rawBytes } }),
      'schema',
    ],
    ['an empty key', verifier({ keyDetails: P256, publicKey: {} }), 'invalid'],
    ['a key that is none', verifier({ keyDetails: P256, publicKey: { rawBytes: base64('key') } }), 'invalid'],
    ['a PEM key', verifier({ keyDetails: P256, publicKey: { rawBytes: base64(pemOf(pair)) } }), 'invalid'],
    ['a key as a certificate', verifier({ keyDetails: P256, x509Certificate: { rawBytes } }), 'invalid'],
    [
      'the key of another',
      verifier({ keyDetails: P256, publicKey: { rawBytes: base64(spkiOf(other)) } }),
      'bad_signature',
    ],
    ['no key details', verifier({ publicKey: { rawBytes } }), 'unsupported_algorithm'],
    ['unspecified key details', verifier({ keyDetails: 0, publicKey: { rawBytes } }), 'unsupported_algorithm'],
    ['key details of the future', verifier({ keyDetails: 999, publicKey: { rawBytes } }), 'unsupported_algorithm'],
    ['key details with another name', verifier({ keyDetails: 'P256', publicKey: { rawBytes } }), 'schema'],
    ['the name of a method of objects', verifier({ keyDetails: 'toString', publicKey: { rawBytes } }), 'schema'],
    ['half key details', verifier({ keyDetails: 5.5, publicKey: { rawBytes } }), 'schema'],
    [
      'pure Ed25519',
      hashedRekordV2(ed25519, 'a', { keyDetails: 'PKIX_ED25519', hash: 'sha512', signature: new Uint8Array(64) }),
      'unsupported_algorithm',
    ],
    [
      'Ed25519 over the message',
      hashedRekordV2(ed25519, 'a', {
        keyDetails: 'PKIX_ED25519_PH',
        hash: 'sha512',
        signature: sign(null, Buffer.from('a'), ed25519.privateKey),
      }),
      'bad_signature',
    ],
    ['P-384 with SHA-256', hashedRekordV2(large, 'a'), 'unsupported_algorithm'],
    [
      'P-256 with SHA-384',
      hashedRekordV2(pair, 'a', { keyDetails: 'PKIX_ECDSA_P384_SHA_384', hash: 'sha384' }),
      'unsupported_algorithm',
    ],
    ['deep nesting', `{"hashedRekordRequestV002":${'{"a":'.repeat(50)}`, 'malformed_json'],
  ])('refuses %s', (_, written, code) => {
    expect(refusalOf(() => create(written))).toBe(code)
  })

  test('says upstream words first, then why', () => {
    expect(() => create(request({ digest: undefined }))).toThrow('invalid hashedrekord request: missing digest')
    expect(() => create({}, true)).toThrow('invalid type, must be hashedrekord')
  })
})

describe('dsse 0.0.2', () => {
  const payload = JSON.stringify({ subject: [{ digest: { sha256: 'ab'.repeat(32) } }] })
  const verifierOf = (keys: KeyPair, keyDetails = P256): object => ({
    keyDetails,
    publicKey: { rawBytes: base64(spkiOf(keys)) },
  })
  const envelope = envelopeOf([pair], payload)
  const request = (envelope: unknown, verifiers: readonly unknown[]): unknown => ({
    dsseRequestV002: { envelope, verifiers },
  })
  const good = request(envelope, [verifierOf(pair)])
  const payloadDigest = base64(digestOf('sha256', payload))

  test('stores payload hash and signatures with their verifiers', () => {
    const entry = create(good)
    expect(textOf(entry.leaf)).toBe(
      `{"apiVersion":"0.0.2","kind":"dsse","spec":{"dsseV002":{"payloadHash":{"algorithm":"SHA2_256","digest":"${payloadDigest}"},` +
        `"signatures":[{"content":"${envelope.signatures[0]?.sig}","verifier":{"keyDetails":"${P256}",` +
        `"publicKey":{"rawBytes":"${base64(spkiOf(pair))}"}}}]}}}`,
    )
    expect(entry.searchKeys).toContain(`hash:sha256:${'ab'.repeat(32)}`)
  })

  test('takes what sigstore-js sends: a certificate under the details of P-256, and a key id', () => {
    const { certificate = '', envelope: published } = publishedEntry('rekor2-dsse-happy-path')
    const [signature] = published?.signatures ?? []
    const sent = { ...published, signatures: [{ ...signature, keyid: '' }] }
    const entry = create(request(sent, [{ keyDetails: P256, x509Certificate: { rawBytes: certificate } }]))
    expect(bodyOf(entry)).toMatchObject({
      spec: {
        dsseV002: {
          signatures: [{ content: signature?.sig, verifier: { x509Certificate: { rawBytes: certificate } } }],
        },
      },
    })
  })

  test('orders signatures by their bytes, and takes pure Ed25519 under both of its details', () => {
    const many = envelopeOf([pair, other, ed25519], payload)
    for (const details of ['PKIX_ED25519', 'PKIX_ED25519_PH']) {
      const verifiers = [verifierOf(pair), verifierOf(other), verifierOf(ed25519, details)]
      const entry = create(request({ ...many, signatures: [...many.signatures, many.signatures[0]] }, verifiers))
      const contents = many.signatures
        .map(({ sig }) => Buffer.from(sig, 'base64'))
        .toSorted((a, b) => Buffer.compare(a, b))
        .map((content) => ({ content: content.toString('base64') }))
      expect(bodyOf(entry)).toMatchObject({ spec: { dsseV002: { signatures: contents } } })
    }
  })

  test('P-384 signs the envelope with SHA-384', () => {
    const message = preAuthenticationEncoding('text/plain', Buffer.from('payload'))
    const sig = base64(sign('sha384', message, large.privateKey))
    const signed = { payloadType: 'text/plain', payload: base64('payload'), signatures: [{ sig }] }
    expect(create(request(signed, [verifierOf(large, 'PKIX_ECDSA_P384_SHA_384')])).kind).toBe('dsse')
  })

  test.each<[string, unknown, string]>([
    ['no envelope', request(undefined, [verifierOf(pair)]), 'invalid'],
    ['no verifiers', request(envelope, []), 'invalid'],
    ['no signatures', request({ ...envelope, signatures: [] }, [verifierOf(pair)]), 'invalid'],
    ['an empty signature', request({ ...envelope, signatures: [{ keyid: 'a' }] }, [verifierOf(pair)]), 'invalid'],
    [
      'an unknown field of a signature',
      request({ ...envelope, signatures: [{ signature: 'AA' }] }, [verifierOf(pair)]),
      'schema',
    ],
    ['another payload', request({ ...envelope, payload: base64('x') }, [verifierOf(pair)]), 'bad_signature'],
    ['another payload type', request({ ...envelope, payloadType: 'x' }, [verifierOf(pair)]), 'bad_signature'],
    ['the key of another', request(envelope, [verifierOf(other)]), 'bad_signature'],
    ['the same verifier twice', request(envelope, [verifierOf(pair), verifierOf(pair)]), 'invalid'],
    [
      'a surplus verifier that may not be used',
      request(envelope, [verifierOf(pair), verifierOf(large)]),
      'unsupported_algorithm',
    ],
    [
      'a key that is no Ed25519 under its details',
      request(envelope, [verifierOf(pair, 'PKIX_ED25519')]),
      'unsupported_algorithm',
    ],
    [
      'nine signatures',
      request({ ...envelope, signatures: Array.from({ length: 9 }, () => envelope.signatures[0]) }, [verifierOf(pair)]),
      'too_many',
    ],
    [
      'nine verifiers',
      request(
        envelope,
        Array.from({ length: 9 }, () => verifierOf(pair)),
      ),
      'too_many',
    ],
    ['signatures that are no list', request({ ...envelope, signatures: {} }, [verifierOf(pair)]), 'schema'],
  ])('refuses %s', (_, written, code) => {
    expect(refusalOf(() => create(written))).toBe(code)
  })

  test('is refused by a strict log', () => {
    expect(refusalOf(() => create(good, true))).toBe('unsupported_kind')
    expect(refusalOf(() => create(good, false))).toBe('accepted')
  })
})
