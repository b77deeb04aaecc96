import { generateKeyPairSync, privateEncrypt, sign, verify } from 'node:crypto'
import { p256, p384, p521 } from '@noble/curves/nist.js'
import { parseSpki } from '#x509'
import { describe, expect, test } from 'vitest'
import { EntryError } from './errors.ts'
import { CheckBudget, MAX_CHECKS } from './limits.ts'
import {
  type HashAlgorithm,
  rateCap,
  requireAllowedAlgorithm,
  requireBoundedKey,
  verifyDigest,
  verifyMessage,
} from './signature.ts'
import { digestOf, ecKeyPair, freshCost, type KeyPair, signEd25519ph, spkiOf } from './material.fixture.ts'

const message = Buffer.from('what was signed')
const ecPairs = { 'P-256': ecKeyPair('P-256'), 'P-384': ecKeyPair('P-384'), 'P-521': ecKeyPair('P-521') }
const noble = { 'P-256': p256, 'P-384': p384, 'P-521': p521 }
const rsa2048 = generateKeyPairSync('rsa', { modulusLength: 2048 })
const ed25519 = generateKeyPairSync('ed25519')

function codeOf(run: () => unknown): string | undefined {
  try {
    run()
    return undefined
  } catch (error) {
    return error instanceof EntryError ? error.code : String(error)
  }
}

describe('ECDSA over a digest', () => {
  const curves = ['P-256', 'P-384', 'P-521'] as const
  const hashes = ['sha256', 'sha384', 'sha512'] as const

  test.each(curves.flatMap((curve) => hashes.map((hash) => ({ curve, hash }))))(
    '$curve with $hash agrees with noble and node:crypto on valid and damaged signatures',
    ({ curve, hash }) => {
      const pair = ecPairs[curve]
      const key = parseSpki(spkiOf(pair))
      const digest = digestOf(hash, message)
      const valid = sign(hash, message, pair.privateKey)
      const otherDigest = digestOf(hash, 'something else')
      const { Fn } = noble[curve].Point
      const { r, s } = noble[curve].Signature.fromBytes(valid, 'der')
      const cases: [string, Uint8Array, Uint8Array][] = [
        ['valid', digest, valid],
        ['the other s', digest, derSignature(r, Fn.ORDER - s)],
        ['another digest', otherDigest, valid],
        ['r of zero', digest, derSignature(0n, s)],
        ['s of zero', digest, derSignature(r, 0n)],
        ['r of n', digest, derSignature(Fn.ORDER, s)],
        ['s of n', digest, derSignature(r, Fn.ORDER)],
        ['r and s swapped', digest, derSignature(s, r)],
        ['r plus one', digest, derSignature(r + 1n, s)],
        ['s plus one', digest, derSignature(r, s + 1n)],
      ]
      for (const [name, over, signature] of cases) {
        const ours = verifyDigest(key, hash, over, signature, freshCost())
        const point = key.kind === 'ecdsa' ? key.point : new Uint8Array()
        expect(ours, name).toBe(nobleVerifies(curve, over, signature, point))
        if (over === digest) expect(ours, name).toBe(verify(hash, message, pair.publicKey, signature))
      }
      expect(verifyDigest(key, hash, digest, valid, freshCost())).toBe(true)
    },
  )

  function nobleVerifies(
    curve: keyof typeof noble,
    digest: Uint8Array,
    signature: Uint8Array,
    point: Uint8Array,
  ): boolean {
    try {
      return noble[curve].verify(signature, digest, point, { prehash: false, lowS: false, format: 'der' })
    } catch {
      return false
    }
  }

  const pair = ecPairs['P-256']
  const key = parseSpki(spkiOf(pair))
  const digest = digestOf('sha256', message)
  const valid = sign('sha256', message, pair.privateKey)

  test.each([
    ['an empty one', new Uint8Array()],
    ['r‖s instead of ASN.1', sign('sha256', message, { key: pair.privateKey, dsaEncoding: 'ieee-p1363' })],
    ['a byte behind it', Buffer.concat([valid, Buffer.from([0])])],
    ['a cut one', valid.subarray(0, -1)],
    ['a long-form length', Buffer.concat([Buffer.from([0x30, 0x81]), valid.subarray(1)])],
    ['one of another key', sign('sha256', message, ecKeyPair().privateKey)],
    ['one over the digest as message', sign('sha256', digest, pair.privateKey)],
  ])('rejects %s', (_, signature) => {
    expect(verifyDigest(key, 'sha256', digest, signature, freshCost())).toBe(false)
  })

  test('rejects a digest of another length than the hash has', () => {
    expect(verifyDigest(key, 'sha256', digest.subarray(1), valid, freshCost())).toBe(false)
    expect(verifyDigest(key, 'sha384', digest, valid, freshCost())).toBe(false)
  })
})

describe('RSA over a digest', () => {
  const key = parseSpki(spkiOf(rsa2048))

  test.each(['sha256', 'sha384', 'sha512'] as const)('accepts PKCS#1 v1.5 with %s', (hash) => {
    const signature = sign(hash, message, rsa2048.privateKey)
    expect(verifyDigest(key, hash, digestOf(hash, message), signature, freshCost())).toBe(true)
    expect(verifyMessage(key, hash, message, signature, freshCost())).toBe(true)
  })

  const valid = sign('sha256', message, rsa2048.privateKey)
  const digestInfo = Buffer.from('3031300d060960864801650304020105000420', 'hex')
  const sha512Info = Buffer.from('3051300d060960864801650304020305000440', 'hex')
  const flipped = Uint8Array.from(valid)
  flipped[100] = (flipped[100] ?? 0) ^ 1

  test.each([
    ['a PSS signature', sign('sha256', message, { key: rsa2048.privateKey, padding: 6 })],
    ['one with another DigestInfo', sign('sha384', message, rsa2048.privateKey)],
    ['the bare digest without DigestInfo', privateEncrypt(rsa2048.privateKey, digestOf('sha256', message))],
    [
      'a byte before DigestInfo',
      privateEncrypt(rsa2048.privateKey, Buffer.concat([Buffer.of(0), digestInfo, digestOf('sha256', message)])),
    ],
    [
      'DigestInfo of SHA-512 before a SHA-256 digest',
      privateEncrypt(rsa2048.privateKey, Buffer.concat([sha512Info, digestOf('sha256', message)])),
    ],
    ['a flipped bit', flipped],
    ['a shorter one', valid.subarray(1)],
    ['a zero in front', Buffer.concat([Buffer.from([0]), valid])],
    ['zeros', new Uint8Array(256)],
  ])('rejects %s', (_, signature) => {
    expect(verifyDigest(key, 'sha256', digestOf('sha256', message), signature, freshCost())).toBe(false)
  })
})

describe('Ed25519', () => {
  const key = parseSpki(spkiOf(ed25519))
  const pure = sign(null, message, ed25519.privateKey)
  const prehashed = signEd25519ph(ed25519, message)
  const digest = digestOf('sha512', message)

  test('accepts Ed25519ph over a digest and Ed25519 over a message', () => {
    expect(verifyDigest(key, 'sha512', digest, prehashed, freshCost())).toBe(true)
    expect(verifyMessage(key, 'sha256', message, pure, freshCost())).toBe(true)
  })

  test('accepts the test vector of RFC 8032 §7.3', () => {
    const publicKey = Buffer.from('ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf', 'hex')
    const signature = Buffer.from(
      '98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406',
      'hex',
    )
    const rfcKey = parseSpki(Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), publicKey]))
    expect(verifyDigest(rfcKey, 'sha512', digestOf('sha512', 'abc'), signature, freshCost())).toBe(true)
  })

  test.each<[string, HashAlgorithm, Uint8Array, Uint8Array]>([
    ['pure Ed25519 over the digest', 'sha512', digest, sign(null, digest, ed25519.privateKey)],
    ['pure Ed25519 over the message', 'sha512', digest, pure],
    ['another digest', 'sha512', digestOf('sha512', 'other'), prehashed],
    ['SHA-256', 'sha256', digestOf('sha256', message), prehashed],
    ['a cut signature', 'sha512', digest, prehashed.subarray(1)],
    ['s of zero and the neutral point', 'sha512', digest, Buffer.concat([Buffer.from([1]), Buffer.alloc(63)])],
  ])('rejects %s', (_, hash, over, signature) => {
    expect(verifyDigest(key, hash, over, signature, freshCost())).toBe(false)
  })

  test('rejects Ed25519ph where the message itself is signed', () => {
    expect(verifyMessage(key, 'sha512', message, prehashed, freshCost())).toBe(false)
  })

  test('caps the rate of Ed25519ph, and lets it through again later', () => {
    let now = 0
    const cost = { budget: new CheckBudget(), ed25519ph: rateCap(2, () => now) }
    const check = () => verifyDigest(key, 'sha512', digest, prehashed, cost)
    expect([check(), check()]).toEqual([true, true])
    expect(codeOf(check)).toBe('busy')
    now = 600
    expect(check()).toBe(true)
    expect(codeOf(check)).toBe('busy')
  })
})

describe('limits', () => {
  test('a request may cause sixteen checks and no more', () => {
    const cost = freshCost()
    const key = parseSpki(spkiOf(ecPairs['P-256']))
    const check = () => verifyMessage(key, 'sha256', message, new Uint8Array([0x30, 0]), cost)
    for (let i = 0; i < MAX_CHECKS; i++) expect(check()).toBe(false)
    expect(codeOf(check)).toBe('too_many')
  })

  const rsaKey = (bits: number, exponent = 65537n) =>
    ({ kind: 'rsa', bits, modulus: 1n << BigInt(bits - 1), exponent, spkiDer: new Uint8Array() }) as const

  const ec = (pair: KeyPair) => parseSpki(spkiOf(pair))
  test.each([
    ['P-256 with SHA-256', ec(ecPairs['P-256']), 'sha256'],
    ['P-384 with SHA-384', ec(ecPairs['P-384']), 'sha384'],
    ['P-521 with SHA-512', ec(ecPairs['P-521']), 'sha512'],
    ['RSA 2048 with SHA-256', rsaKey(2048), 'sha256'],
    ['RSA 3072 with SHA-256', rsaKey(3072), 'sha256'],
    ['RSA 4096 with SHA-256', rsaKey(4096), 'sha256'],
    ['Ed25519ph', parseSpki(spkiOf(ed25519)), 'sha512'],
  ] as const)('allows %s', (_, key, hash) => {
    expect(codeOf(() => requireAllowedAlgorithm(key, hash))).toBeUndefined()
  })

  test.each([
    ['P-256 with SHA-384', ec(ecPairs['P-256']), 'sha384'],
    ['P-256 with SHA-512', ec(ecPairs['P-256']), 'sha512'],
    ['P-384 with SHA-256', ec(ecPairs['P-384']), 'sha256'],
    ['P-384 with SHA-512', ec(ecPairs['P-384']), 'sha512'],
    ['P-521 with SHA-256', ec(ecPairs['P-521']), 'sha256'],
    ['RSA 2048 with SHA-512', rsaKey(2048), 'sha512'],
    ['RSA 1024', rsaKey(1024), 'sha256'],
    ['RSA 2047', rsaKey(2047), 'sha256'],
    ['RSA 8192', rsaKey(8192), 'sha256'],
    ['RSA with exponent 1', rsaKey(2048, 1n), 'sha256'],
    ['RSA with an even exponent', rsaKey(2048, 65536n), 'sha256'],
    ['RSA with a long exponent', rsaKey(2048, (1n << 40n) + 1n), 'sha256'],
    ['Ed25519 with SHA-256', parseSpki(spkiOf(ed25519)), 'sha256'],
  ] as const)('refuses %s', (_, key, hash) => {
    expect(codeOf(() => requireAllowedAlgorithm(key, hash))).toBe('unsupported_algorithm')
  })

  test('keys of envelopes have bounds only', () => {
    expect(codeOf(() => requireBoundedKey(rsaKey(2560)))).toBeUndefined()
    expect(codeOf(() => requireBoundedKey(rsaKey(4097)))).toBe('unsupported_algorithm')
    expect(codeOf(() => requireBoundedKey(rsaKey(1024)))).toBe('unsupported_algorithm')
  })
})

/** ASN.1 DER of (r, s), by hand: the writer under test's feet must not make its own vectors. */
function derSignature(r: bigint, s: bigint): Uint8Array {
  const part = (value: bigint): Buffer => {
    let hex = value.toString(16)
    if (hex.length % 2 === 1) hex = `0${hex}`
    if (Number.parseInt(hex.slice(0, 2), 16) >= 0x80) hex = `00${hex}`
    const bytes = Buffer.from(hex, 'hex')
    return Buffer.concat([Buffer.from([2, bytes.length]), bytes])
  }
  const content = Buffer.concat([part(r), part(s)])
  const header = content.length < 0x80 ? [0x30, content.length] : [0x30, 0x81, content.length]
  return Buffer.concat([Buffer.from(header), content])
}
