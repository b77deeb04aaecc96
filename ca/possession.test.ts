import 'reflect-metadata'
import { generateKeyPairSync, type KeyObject, sign, webcrypto } from 'node:crypto'
import * as peculiar from '@peculiar/x509'
import { describe, expect, test } from 'vitest'
import { bitString, integer, objectIdentifier, sequence } from '#x509'
import { parseRequestedKey, requirePermittedAlgorithm, requirePossession } from './possession.ts'

const CHALLENGE = 'jo@example.com'
const ec = (namedCurve: string) => generateKeyPairSync('ec', { namedCurve })
const rsa = (modulusLength: number, publicExponent = 65_537) =>
  generateKeyPairSync('rsa', { modulusLength, publicExponent })

const P256 = ec('P-256')
const P384 = ec('P-384')
const P521 = ec('P-521')
const RSA2048 = rsa(2048)
const ED25519 = generateKeyPairSync('ed25519')

const pem = (key: KeyObject, type: 'spki' | 'pkcs1' = 'spki') => Buffer.from(key.export({ format: 'pem', type }))
const der = (key: KeyObject) => Uint8Array.from(key.export({ format: 'der', type: 'spki' }))

async function check(encoded: Uint8Array, proof: Uint8Array, challenge = CHALLENGE): Promise<string> {
  try {
    const key = parseRequestedKey({ kind: 'publicKey', encoded, proof })
    await requirePossession(key, challenge)
    requirePermittedAlgorithm(key)
    return 'accepted'
  } catch (error) {
    return (error as { code?: string }).code ?? String(error)
  }
}

async function checkCsr(csr: Uint8Array): Promise<string> {
  try {
    const key = parseRequestedKey({ kind: 'csr', pem: csr })
    await requirePossession(key, CHALLENGE)
    requirePermittedAlgorithm(key)
    return 'accepted'
  } catch (error) {
    return (error as { code?: string }).code ?? String(error)
  }
}

const proofOf = (key: KeyObject, hash: string | null = 'sha256', challenge = CHALLENGE) =>
  sign(hash, Buffer.from(challenge), key)

describe('accepts', () => {
  test.each<[string, KeyObject, KeyObject, string | null]>([
    ['P-256 with SHA-256', P256.publicKey, P256.privateKey, 'sha256'],
    ['P-384 with SHA-384', P384.publicKey, P384.privateKey, 'sha384'],
    ['P-521 with SHA-512', P521.publicKey, P521.privateKey, 'sha512'],
    ['RSA 2048 with SHA-256', RSA2048.publicKey, RSA2048.privateKey, 'sha256'],
    ['Ed25519', ED25519.publicKey, ED25519.privateKey, null],
  ])('%s, as PEM and as DER', async (_, publicKey, privateKey, hash) => {
    expect(await check(pem(publicKey), proofOf(privateKey, hash))).toBe('accepted')
    expect(await check(der(publicKey), proofOf(privateKey, hash))).toBe('accepted')
  })

  test('PKCS#1', async () => {
    expect(await check(pem(RSA2048.publicKey, 'pkcs1'), proofOf(RSA2048.privateKey))).toBe('accepted')
  })

  test('a proof as r and s side by side', async () => {
    const proof = sign('sha384', Buffer.from(CHALLENGE), { key: P384.privateKey, dsaEncoding: 'ieee-p1363' })
    expect(await check(pem(P384.publicKey), proof)).toBe('accepted')
  })

  test.each(['CERTIFICATE REQUEST', 'NEW CERTIFICATE REQUEST'])('a CSR labelled %s', async (label) => {
    expect(await checkCsr(await csr(label))).toBe('accepted')
  })
})

describe('refuses', () => {
  test.each<[string, () => [Uint8Array, Uint8Array], string]>([
    ['no key', () => [new Uint8Array(), proofOf(P256.privateKey)], 'invalid_public_key'],
    ['text', () => [Buffer.from('key'), proofOf(P256.privateKey)], 'invalid_public_key'],
    [
      'PEM with broken base64',
      () => [Buffer.from(String(pem(P256.publicKey)).replace('M', '*')), proofOf(P256.privateKey)],
      'invalid_public_key',
    ],
    ['PEM cut off', () => [pem(P256.publicKey).subarray(0, 90), proofOf(P256.privateKey)], 'invalid_public_key'],
    [
      'two PEM keys',
      () => [Buffer.concat([pem(P256.publicKey), pem(P384.publicKey)]), proofOf(P256.privateKey)],
      'invalid_public_key',
    ],
    [
      'a private key',
      () => [Buffer.from(P256.privateKey.export({ format: 'pem', type: 'pkcs8' })), proofOf(P256.privateKey)],
      'invalid_public_key',
    ],
    ['DER cut off', () => [der(P256.publicKey).subarray(0, -1), proofOf(P256.privateKey)], 'invalid_public_key'],
    [
      'DER with a byte more',
      () => [Buffer.concat([der(P256.publicKey), Buffer.from([0])]), proofOf(P256.privateKey)],
      'invalid_public_key',
    ],
    [
      'DER of indefinite length',
      () => [Uint8Array.from([0x30, 0x80, 0, 0]), proofOf(P256.privateKey)],
      'invalid_public_key',
    ],
    ['a point off the curve', () => [flip(der(P256.publicKey)), proofOf(P256.privateKey)], 'insecure_public_key'],
    ['P-224', () => weakProof(ec('secp224r1')), 'insecure_public_key'],
    ['secp256k1', () => weakProof(ec('secp256k1')), 'insecure_public_key'],
    ['RSA 1024', () => weakProof(rsa(1024)), 'insecure_public_key'],
    ['RSA 2050', () => weakProof(rsa(2050)), 'insecure_public_key'],
    ['RSA with e = 3', () => weakProof(rsa(2048, 3)), 'insecure_public_key'],
    ['RSA with a small factor', () => [rsaKey(3n * (2n ** 2047n - 1n)), new Uint8Array(256)], 'insecure_public_key'],
    ['RSA of 16384 bits', () => [rsaKey(2n ** 16_383n + 1n), new Uint8Array(2048)], 'insecure_public_key'],
    ['X25519', () => [der(generateKeyPairSync('x25519').publicKey), new Uint8Array(64)], 'insecure_public_key'],
    ['Ed448', () => weakProof(generateKeyPairSync('ed448'), null), 'insecure_public_key'],
    ['RSA-PSS keys', () => weakProof(generateKeyPairSync('rsa-pss', { modulusLength: 2048 })), 'insecure_public_key'],
    ['no proof', () => [pem(P256.publicKey), new Uint8Array()], 'invalid_signature'],
    ['a proof of another key', () => [pem(P256.publicKey), proofOf(ec('P-256').privateKey)], 'invalid_signature'],
    [
      'a proof over another subject',
      () => [pem(P256.publicKey), proofOf(P256.privateKey, 'sha256', 'root@example.com')],
      'invalid_signature',
    ],
    ['a proof over nothing', () => [pem(P256.publicKey), proofOf(P256.privateKey, 'sha256', '')], 'invalid_signature'],
    ['a proof with another hash', () => [pem(P384.publicKey), proofOf(P384.privateKey, 'sha256')], 'invalid_signature'],
    [
      'a proof with a byte more',
      () => [pem(P256.publicKey), Buffer.concat([proofOf(P256.privateKey), Buffer.from([0])])],
      'invalid_signature',
    ],
    ['a flipped proof', () => [pem(P256.publicKey), flip(proofOf(P256.privateKey))], 'invalid_signature'],
    ['r = s = 0', () => [pem(P256.publicKey), new Uint8Array(64)], 'invalid_signature'],
    [
      'an RSA proof of another length',
      () => [pem(RSA2048.publicKey), proofOf(RSA2048.privateKey).subarray(1)],
      'invalid_signature',
    ],
    ['an Ed25519 proof of another length', () => [pem(ED25519.publicKey), new Uint8Array(63)], 'invalid_signature'],
  ])('%s', async (_, make, code) => {
    const [encoded, proof] = make()
    expect(await check(encoded, proof)).toBe(code)
  })

  test.each<[string, () => Promise<Uint8Array>, string]>([
    ['nothing', () => Promise.resolve(new Uint8Array()), 'invalid_csr'],
    ['DER where PEM belongs', async () => (await request()).rawData as unknown as Uint8Array, 'invalid_csr'],
    ['a certificate', () => csr('CERTIFICATE'), 'invalid_csr'],
    ['a CSR cut off', async () => (await csr()).subarray(0, 200), 'invalid_csr'],
    ['two CSRs', async () => Buffer.concat([await csr(), await csr()]), 'invalid_csr'],
    ['a CSR signed by another key', forgedCsr, 'invalid_signature'],
    ['P-384 with SHA-256', () => csr('CERTIFICATE REQUEST', 'P-384', 'SHA-256'), 'algorithm_not_permitted'],
    ['P-256 with SHA-512', () => csr('CERTIFICATE REQUEST', 'P-256', 'SHA-512'), 'algorithm_not_permitted'],
    ['RSA-PSS', pssCsr, 'algorithm_not_permitted'],
    ['RSA 1024', weakCsr, 'insecure_public_key'],
  ])('a CSR: %s', async (_, make, code) => {
    expect(await checkCsr(Buffer.from(await make()))).toBe(code)
  })
})

function weakProof(
  pair: { publicKey: KeyObject; privateKey: KeyObject },
  hash: string | null = 'sha256',
): [Uint8Array, Uint8Array] {
  return [der(pair.publicKey), proofOf(pair.privateKey, hash)]
}

function rsaKey(modulus: bigint): Uint8Array {
  const algorithm = sequence(objectIdentifier('1.2.840.113549.1.1.1'), Uint8Array.of(5, 0))
  return sequence(algorithm, bitString(sequence(integer(modulus), integer(65_537))))
}

function flip(bytes: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(bytes)
  copy[copy.length - 1] = (copy.at(-1) ?? 0) ^ 1
  return copy
}

async function request(namedCurve = 'P-256', hash = 'SHA-256'): Promise<peculiar.Pkcs10CertificateRequest> {
  const algorithm = { name: 'ECDSA', namedCurve, hash }
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  return await peculiar.Pkcs10CertificateRequestGenerator.create({
    keys,
    signingAlgorithm: algorithm,
    name: 'CN=ignored',
  })
}

async function csr(label = 'CERTIFICATE REQUEST', namedCurve = 'P-256', hash = 'SHA-256'): Promise<Uint8Array> {
  return pemOf(label, (await request(namedCurve, hash)).rawData)
}

function pemOf(label: string, bytes: ArrayBuffer | Uint8Array): Uint8Array {
  const base64 = Buffer.from(bytes as Uint8Array)
    .toString('base64')
    .replaceAll(/(.{64})/g, '$1\n')
    .trimEnd()
  return Buffer.from(`-----BEGIN ${label}-----\n${base64}\n-----END ${label}-----\n`)
}

/** The signature of one CSR on the information of another. */
async function forgedCsr(): Promise<Uint8Array> {
  return pemOf('CERTIFICATE REQUEST', flip(new Uint8Array((await request()).rawData)))
}

async function pssCsr(): Promise<Uint8Array> {
  return await rsaCsr('RSA-PSS', 2048)
}

async function weakCsr(): Promise<Uint8Array> {
  return await rsaCsr('RSASSA-PKCS1-v1_5', 1024)
}

async function rsaCsr(name: string, modulusLength: number): Promise<Uint8Array> {
  const algorithm = { name, hash: 'SHA-256', modulusLength, publicExponent: Uint8Array.of(1, 0, 1), saltLength: 32 }
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const made = await peculiar.Pkcs10CertificateRequestGenerator.create({ keys, signingAlgorithm: algorithm })
  return pemOf('CERTIFICATE REQUEST', made.rawData)
}
