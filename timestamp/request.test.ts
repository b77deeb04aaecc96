import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { boolean, contextConstructed, integer, nullValue, objectIdentifier, octetString, sequence, tlv } from '#x509'
import { TimestampError } from './error.ts'
import { parseJsonRequest, parseRequest } from './request.ts'

const SHA256 = '2.16.840.1.101.3.4.2.1'
const DIGEST = new Uint8Array(32).fill(0xab)
const imprint = (oid = SHA256, digest = DIGEST, params: Uint8Array[] = [nullValue()]): Uint8Array =>
  sequence(sequence(objectIdentifier(oid), ...params), octetString(digest))
const json = (value: unknown): Uint8Array => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value))
const artifactHash = Buffer.from(DIGEST).toString('base64')

function codeOf(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof TimestampError) return error.code
    throw error
  }
  return 'accepted'
}

describe('a DER request', () => {
  test.each([
    ['least', sequence(integer(1), imprint()), { hash: 'sha256', digest: DIGEST, certReq: false }],
    [
      'without hash parameters',
      sequence(integer(1), imprint(SHA256, DIGEST, [])),
      { hash: 'sha256', digest: DIGEST, certReq: false },
    ],
    [
      'with FALSE written out',
      sequence(integer(1), imprint(), boolean(false)),
      { hash: 'sha256', digest: DIGEST, certReq: false },
    ],
    [
      'with everything',
      sequence(
        integer(1),
        imprint('2.16.840.1.101.3.4.2.3', new Uint8Array(64)),
        objectIdentifier('1.2.3'),
        integer(-129),
        boolean(true),
      ),
      {
        hash: 'sha512',
        digest: new Uint8Array(64),
        policyOid: '1.2.3',
        nonce: Uint8Array.of(0xff, 0x7f),
        certReq: true,
      },
    ],
  ])('%s is read', (_, der, expected) => {
    expect(parseRequest(der)).toEqual(expected)
  })

  test.each([
    ['nothing', new Uint8Array(0), 'malformed_request'],
    ['version 2', sequence(integer(2), imprint()), 'malformed_request'],
    ['trailing bytes', Uint8Array.of(...sequence(integer(1), imprint()), 0), 'malformed_request'],
    ['something behind certReq', sequence(integer(1), imprint(), boolean(true), integer(1)), 'malformed_request'],
    [
      'fields out of order',
      sequence(integer(1), imprint(), boolean(true), objectIdentifier('1.2.3')),
      'malformed_request',
    ],
    ['an empty nonce', sequence(integer(1), imprint(), tlv(2)), 'malformed_request'],
    ['a nonce that is not minimal', sequence(integer(1), imprint(), tlv(2, Uint8Array.of(0, 1))), 'malformed_request'],
    [
      'hash parameters that are not NULL',
      sequence(integer(1), imprint(SHA256, DIGEST, [integer(1)])),
      'malformed_request',
    ],
    ['SHA-1', sequence(integer(1), imprint('1.3.14.3.2.26', new Uint8Array(20))), 'weak_hash'],
    ['MD5', sequence(integer(1), imprint('1.2.840.113549.2.5', new Uint8Array(16))), 'weak_hash'],
    ['SHA-3', sequence(integer(1), imprint('2.16.840.1.101.3.4.2.8')), 'unsupported_hash'],
    ['a short digest', sequence(integer(1), imprint(SHA256, new Uint8Array(31))), 'wrong_digest_length'],
    ['a long digest', sequence(integer(1), imprint(SHA256, new Uint8Array(64))), 'wrong_digest_length'],
    ['an empty digest', sequence(integer(1), imprint(SHA256, new Uint8Array(0))), 'wrong_digest_length'],
    ['extensions', sequence(integer(1), imprint(), contextConstructed(0, sequence())), 'unaccepted_extension'],
    [
      'a policy of 130 arcs',
      sequence(integer(1), imprint(), tlv(6, Uint8Array.from([0x2a, ...new Uint8Array(128).fill(1)]))),
      'malformed_request',
    ],
  ])('with %s is refused', (_, der, code) => {
    expect(codeOf(() => parseRequest(der))).toBe(code)
  })

  test('with a byte changed is never read as the same request', () => {
    const der = sequence(integer(1), imprint(), integer(0x1234567890n), boolean(true))
    fc.assert(
      fc.property(fc.nat(der.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const mutated = der.map((octet, index) => (index === at ? octet ^ change : octet))
        try {
          expect(parseRequest(mutated)).not.toEqual(parseRequest(der))
        } catch (error) {
          if (!(error instanceof TimestampError)) throw error
        }
      }),
    )
  })
})

describe('a JSON request', () => {
  test.each([
    ['as sigstore-js sends it', { artifactHash, hashAlgorithm: 'sha256' }, { certReq: false }],
    ['in upper case', { artifactHash, hashAlgorithm: 'SHA256', certificates: true }, { certReq: true }],
    [
      'with null for absent',
      { artifactHash, hashAlgorithm: 'sha256', nonce: null, tsaPolicyOID: null },
      { certReq: false },
    ],
    ['with unknown fields', { artifactHash, hashAlgorithm: 'sha256', extra: [1] }, { certReq: false }],
    [
      'with a policy',
      { artifactHash, hashAlgorithm: 'sha256', tsaPolicyOID: '1.2.3' },
      { certReq: false, policyOid: '1.2.3' },
    ],
  ])('%s is read', (_, value, expected) => {
    expect(parseJsonRequest(json(value))).toEqual({ hash: 'sha256', digest: DIGEST, ...expected })
  })

  test('keeps a nonce that is larger than a double', () => {
    const nonce = 2n ** 160n + 1n
    expect(
      parseJsonRequest(json(`{"artifactHash":"${artifactHash}","hashAlgorithm":"sha256","nonce":${nonce}}`)).nonce,
    ).toBe(nonce)
  })

  test.each([
    ['no JSON', 'x', 'malformed_request'],
    ['an array', '[]', 'malformed_request'],
    ['invalid UTF-8', Uint8Array.of(0x22, 0xff, 0x22), 'malformed_request'],
    ['no hash algorithm', { artifactHash }, 'malformed_request'],
    [
      'a nonce with a fraction',
      `{"artifactHash":"${artifactHash}","hashAlgorithm":"sha256","nonce":1.5}`,
      'malformed_request',
    ],
    [
      'a nonce with an exponent',
      `{"artifactHash":"${artifactHash}","hashAlgorithm":"sha256","nonce":1e5}`,
      'malformed_request',
    ],
    ['a nonce as text', { artifactHash, hashAlgorithm: 'sha256', nonce: '5' }, 'malformed_request'],
    ['certificates as text', { artifactHash, hashAlgorithm: 'sha256', certificates: 'true' }, 'malformed_request'],
    ['a hash in hex', { artifactHash: 'ab'.repeat(32), hashAlgorithm: 'sha256' }, 'wrong_digest_length'],
    [
      'a hash in url-safe base64',
      { artifactHash: artifactHash.replaceAll('+', '-').replaceAll('=', ''), hashAlgorithm: 'sha256' },
      'malformed_request',
    ],
    ['sha1', { artifactHash, hashAlgorithm: 'sha1' }, 'weak_hash'],
    ['a hash from nowhere', { artifactHash, hashAlgorithm: 'constructor' }, 'unsupported_hash'],
    ['the digest of another hash', { artifactHash, hashAlgorithm: 'sha512' }, 'wrong_digest_length'],
    ['a policy that is none', { artifactHash, hashAlgorithm: 'sha256', tsaPolicyOID: '1..2' }, 'malformed_request'],
    ['an empty policy', { artifactHash, hashAlgorithm: 'sha256', tsaPolicyOID: '' }, 'malformed_request'],
    [
      'a policy of 129 dots',
      { artifactHash, hashAlgorithm: 'sha256', tsaPolicyOID: `1.2${'.1'.repeat(128)}` },
      'policy_too_long',
    ],
    ['1025 bytes', { artifactHash, hashAlgorithm: 'sha256', extra: 'x'.repeat(1000) }, 'request_too_large'],
  ])('with %s is refused', (_, value, code) => {
    expect(codeOf(() => parseJsonRequest(value instanceof Uint8Array ? value : json(value)))).toBe(code)
  })
})
