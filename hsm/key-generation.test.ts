import { generateKeyPairSync } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { bitString, octetString } from '#x509'
import { unwrapPoint } from './key-generation.ts'
import { kindOfSpki, releasedSignature, tokenInput } from './key-kinds.ts'

/** Begins as the wrapping of 30 octets would: read as DER first, it would lose two octets. */
const treacherous = Uint8Array.from({ length: 32 }, (_, at) => [0x04, 0x1e][at] ?? at)
const ec = Uint8Array.from({ length: 65 }, (_, at) => (at === 0 ? 4 : at))

describe('CKA_EC_POINT', () => {
  test.each([
    ['raw', (point: Uint8Array) => point],
    ['an OCTET STRING', (point: Uint8Array) => octetString(point)],
    ['a BIT STRING', (point: Uint8Array) => bitString(point)],
  ])('is read as %s', (_, form) => {
    for (const point of [treacherous, ec]) expect(unwrapPoint(form(point), point.length)).toEqual(point)
  })

  test.each([
    ['too short', ec.subarray(1), 65],
    ['too long', Uint8Array.of(...ec, 0, 0, 0, 0), 65],
    ['wrapped in another type', Uint8Array.of(0x30, 65, ...ec), 65],
    ['of another curve', octetString(ec), 97],
    ['nothing', new Uint8Array(0), 32],
  ])('is refused: %s', (_, value, bytes) => {
    expect(() => unwrapPoint(value, bytes)).toThrow('not a point')
  })
})

describe('what the token is given and gives', () => {
  const message = Buffer.from('abc')

  test('ECDSA: the digest of the curve', () => {
    expect(tokenInput('P-256', message).toString('hex')).toMatch(/^ba7816bf.{56}$/)
    expect(tokenInput('P-384', message).toString('hex')).toMatch(/^cb00753f.{88}$/)
  })

  test('RSA: DigestInfo of SHA-256 for every size', () => {
    for (const kind of ['rsa-2048', 'rsa-3072', 'rsa-4096'] as const) {
      expect(tokenInput(kind, message).toString('hex')).toMatch(/^3031300d060960864801650304020105000420ba7816bf.{56}$/)
    }
  })

  test('Ed25519: the message itself', () => {
    expect(tokenInput('ed25519', message)).toEqual(message)
  })

  test.each([
    ['P-256', 63],
    ['P-384', 64],
    ['rsa-3072', 256],
    ['ed25519', 65],
    ['ed25519', 0],
  ] as const)('a signature of another length is refused: %s of %i', (kind, bytes) => {
    expect(() => releasedSignature(kind, new Uint8Array(bytes))).toThrow('signature of')
  })
})

test.each([
  ['P-521', generateKeyPairSync('ec', { namedCurve: 'P-521' })],
  ['RSA of 1024 bits', generateKeyPairSync('rsa', { modulusLength: 1024 })],
])('%s is no kind of ours', (_, { publicKey }) => {
  expect(() => kindOfSpki(publicKey.export({ type: 'spki', format: 'der' }))).toThrow('not used here')
})
