import { createHash, createPublicKey, generateKeyPairSync, generatePrimeSync, sign } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { bitString, integer, nullValue, objectIdentifier, sequence } from './der.ts'
import { X509Error } from './errors.ts'
import { keyIdentifier, toKeyObject } from './key-object.ts'
import { checkKeyStrength } from './key-strength.ts'
import { encodePem } from './pem.ts'
import {
  ecdsaDerToP1363,
  ecdsaP1363ToDer,
  parseEcdsaSignature,
  parsePublicKeyPem,
  parseSpki,
  type NamedCurve,
} from './spki.ts'

const spkiOf = (key: { export(options: { format: 'der'; type: 'spki' }): Buffer }): Uint8Array =>
  Uint8Array.from(key.export({ format: 'der', type: 'spki' }))

function codeOf(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof X509Error) return error.code
    throw error
  }
  return 'accepted'
}

const bigToBytes = (value: bigint): Uint8Array =>
  Uint8Array.from(Buffer.from(value.toString(16).padStart(2 * Math.ceil(value.toString(16).length / 2), '0'), 'hex'))
const rsaSpki = (modulus: bigint, exponent = 65537n): Uint8Array =>
  sequence(
    sequence(objectIdentifier('1.2.840.113549.1.1.1'), nullValue()),
    bitString(sequence(integer(modulus), integer(exponent))),
  )
const prime = (bits: number): bigint => generatePrimeSync(bits, { bigint: true })

function nextPrime(from: bigint): bigint {
  let candidate = from | 1n
  while (!isProbablePrime(candidate)) candidate += 2n
  return candidate
}

function isProbablePrime(value: bigint): boolean {
  let result = 1n
  for (let base = 2n, exponent = value - 1n; exponent > 0n; exponent >>= 1n, base = (base * base) % value) {
    if ((exponent & 1n) === 1n) result = (result * base) % value
  }
  return result === 1n
}

/** A modulus of the requested length as the Infineon library made them: primes k·M + (65537^a mod M). */
function rocaModulus(): bigint {
  const primorial = [
    2n,
    3n,
    5n,
    7n,
    11n,
    13n,
    17n,
    19n,
    23n,
    29n,
    31n,
    37n,
    41n,
    43n,
    47n,
    53n,
    59n,
    61n,
    67n,
    71n,
    73n,
    79n,
    83n,
    89n,
    97n,
    101n,
    103n,
    107n,
    109n,
    113n,
    127n,
    131n,
    137n,
    139n,
    149n,
    151n,
    157n,
    163n,
    167n,
  ].reduce((a, b) => a * b, 1n)
  const make = (power: number): bigint => {
    let residue = 1n
    for (let i = 0; i < power; i++) residue = (residue * 65537n) % primorial
    return ((2n ** 1024n * 3n) / 4n / primorial) * primorial + residue + primorial * BigInt(power)
  }
  return make(1234) * make(777)
}

describe('parseSpki', () => {
  test.each(['P-256', 'P-384', 'P-521'] as const)('reads a %s key', (curve) => {
    const spkiDer = spkiOf(generateKeyPairSync('ec', { namedCurve: curve }).publicKey)
    const key = parseSpki(spkiDer)
    expect(key).toMatchObject({ kind: 'ecdsa', curve, spkiDer })
    expect(codeOf(() => checkKeyStrength(key))).toBe('accepted')
    expect(toKeyObject(key).export({ format: 'jwk' })).toEqual(
      createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' }).export({ format: 'jwk' }),
    )
  })

  test('reads RSA in both PEM forms and Ed25519', () => {
    const { publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
    const fromSpki = parsePublicKeyPem(publicKey.export({ format: 'pem', type: 'spki' }).toString())
    const fromPkcs1 = parsePublicKeyPem(publicKey.export({ format: 'pem', type: 'pkcs1' }).toString())
    expect(fromPkcs1).toEqual(fromSpki)
    expect(fromSpki).toMatchObject({ kind: 'rsa', bits: 2048, exponent: 65537n })
    expect(codeOf(() => checkKeyStrength(fromSpki))).toBe('accepted')
    expect(parseSpki(spkiOf(generateKeyPairSync('ed25519').publicKey)).kind).toBe('ed25519')
  })

  test('hashes the key bits into the identifier', () => {
    const spkiDer = spkiOf(generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey)
    expect(Buffer.from(keyIdentifier(spkiDer))).toEqual(createHash('sha1').update(spkiDer.subarray(26)).digest())
  })

  const p256 = spkiOf(generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey)
  const compressed = sequence(
    sequence(objectIdentifier('1.2.840.10045.2.1'), objectIdentifier('1.2.840.10045.3.1.7')),
    bitString(Uint8Array.of(2, ...p256.subarray(27, 59))),
  )
  test.each([
    ['secp256k1', () => spkiOf(generateKeyPairSync('ec', { namedCurve: 'secp256k1' }).publicKey), 'unsupported_key'],
    ['P-224', () => spkiOf(generateKeyPairSync('ec', { namedCurve: 'P-224' }).publicKey), 'unsupported_key'],
    ['x25519', () => spkiOf(generateKeyPairSync('x25519').publicKey), 'unsupported_key'],
    [
      'explicit curve parameters',
      () => spkiOf(generateKeyPairSync('ec', { namedCurve: 'P-256', paramEncoding: 'explicit' }).publicKey),
      'unsupported_key',
    ],
    ['a compressed point', () => compressed, 'unsupported_key'],
    ['RSA-PSS', () => spkiOf(generateKeyPairSync('rsa-pss', { modulusLength: 2048 }).publicKey), 'unsupported_key'],
    ['trailing bytes', () => Uint8Array.of(...p256, 0), 'malformed_der'],
    ['a cut off key', () => p256.subarray(0, 80), 'malformed_der'],
    [
      'an RSA key without NULL',
      () => sequence(sequence(objectIdentifier('1.2.840.113549.1.1.1')), bitString(sequence(integer(15), integer(3)))),
      'malformed_der',
    ],
    ['a negative modulus', () => rsaSpki(-15n), 'malformed_der'],
    ['an RSA key of 16384 bits', () => rsaSpki(2n ** 16383n + 1n), 'unsupported_key'],
  ] as const)('refuses %s', (_, make, code) => {
    expect(codeOf(() => parseSpki(make()))).toBe(code)
  })

  test('refuses a PEM of another kind', () => {
    expect(codeOf(() => parsePublicKeyPem(encodePem('CERTIFICATE', p256)))).toBe('malformed_pem')
    expect(codeOf(() => parsePublicKeyPem(encodePem('PUBLIC KEY', p256).repeat(2)))).toBe('malformed_pem')
  })
})

describe('checkKeyStrength', () => {
  const p = prime(1024)
  test.each([
    ['1024 bits', '1024 bits', () => prime(512) * prime(512)],
    ['2047 bits', '2047 bits', () => 2n ** 2047n - 1n],
    ['2056 bits', '2056 bits', () => 2n ** 2055n + 1n],
    ['a factor of 3', 'small factor', () => 2n ** 2047n + 2n ** 1000n + (3n - ((2n ** 2047n + 2n ** 1000n) % 3n))],
    ['a factor of 751', 'small factor', () => 751n * (2n ** 2047n / 751n + 1n)],
    ['close primes', 'close primes', () => p * nextPrime(p + 2n)],
    ['a square', 'close primes', () => p * p],
    ['the ROCA fingerprint', 'ROCA', rocaModulus],
  ])('refuses an RSA modulus with %s', (_, why, modulus) => {
    const key = parseSpki(rsaSpki(modulus()))
    expect(codeOf(() => checkKeyStrength(key))).toBe('weak_key')
    expect(() => checkKeyStrength(key)).toThrow(why)
  })

  test.each([3n, 17n, 65539n])('refuses the RSA exponent %i', (exponent) => {
    const key = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey.export({ format: 'jwk' })
    const modulus = BigInt(`0x${Buffer.from(key.n ?? '', 'base64url').toString('hex')}`)
    expect(codeOf(() => checkKeyStrength(parseSpki(rsaSpki(modulus, exponent))))).toBe('weak_key')
  })

  test.each(['P-256', 'P-384', 'P-521'] as const)('refuses a %s point off its curve', (curve) => {
    const spkiDer = spkiOf(generateKeyPairSync('ec', { namedCurve: curve }).publicKey)
    const last = spkiDer.length - 1
    const off = parseSpki(spkiDer.map((octet, at) => (at === last ? octet ^ 1 : octet)))
    expect(codeOf(() => checkKeyStrength(off))).toBe('weak_key')
    expect(codeOf(() => toKeyObject(off))).toBe('weak_key')
    const zero = parseSpki(
      spkiDer.map((octet, at) => (at > last - (curve === 'P-256' ? 64 : curve === 'P-384' ? 96 : 132) ? 0 : octet)),
    )
    expect(codeOf(() => checkKeyStrength(zero))).toBe('weak_key')
    const large = parseSpki(spkiDer.map((octet, at) => (at > last - 32 ? 0xff : octet)))
    expect(codeOf(() => checkKeyStrength(large))).toBe('weak_key')
  })
})

describe('ecdsa signature forms', () => {
  test.each([
    ['P-256', 'sha256'],
    ['P-384', 'sha384'],
    ['P-521', 'sha512'],
  ] as const)('turns %s signatures into both forms', (curve: NamedCurve, hash) => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: curve })
    for (let round = 0; round < 30; round++) {
      const der = Uint8Array.from(sign(hash, Buffer.of(round), privateKey))
      const size = curve === 'P-256' ? 32 : curve === 'P-384' ? 48 : 66
      const rs = ecdsaDerToP1363(der, size)
      expect(ecdsaP1363ToDer(rs)).toEqual(der)
      const both = [parseEcdsaSignature(der, curve), parseEcdsaSignature(rs, curve)]
      expect(both[0]).toEqual(both[1])
    }
  })

  test.each([
    ['nothing', new Uint8Array(0)],
    ['63 bytes', new Uint8Array(63).fill(1)],
    ['65 bytes', new Uint8Array(65).fill(1)],
    ['a negative r', sequence(integer(-5), integer(5))],
    ['an r of 33 bytes', sequence(integer(2n ** 256n), integer(5))],
    ['three numbers', sequence(integer(1), integer(2), integer(3))],
    ['trailing bytes', Uint8Array.of(...sequence(integer(1), integer(2)), 0)],
  ])('refuses %s', (_, bytes) => {
    expect(codeOf(() => parseEcdsaSignature(bytes, 'P-256'))).toBe('bad_signature')
  })

  test('a DER signature has one form', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 64 }), (rs) => {
        expect(ecdsaDerToP1363(ecdsaP1363ToDer(rs), 32)).toEqual(rs)
      }),
    )
  })
  test('odd lengths have no halves', () =>
    expect(codeOf(() => ecdsaP1363ToDer(bigToBytes(123456n)))).toBe('bad_signature'))
})
