import 'reflect-metadata'
import { generateKeyPairSync, type webcrypto } from 'node:crypto'
import * as oracle from '@peculiar/x509'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { X509Error, decodePem, parseCsr, parsePublicKeyPem, verifyCsr } from '#x509'

const ALGORITHMS = {
  'P-256': { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' },
  'P-384': { name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-384' },
  'P-521': { name: 'ECDSA', namedCurve: 'P-521', hash: 'SHA-512' },
  RSA: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256', publicExponent: Uint8Array.of(1, 0, 1), modulusLength: 2048 },
  PSS: {
    name: 'RSA-PSS',
    saltLength: 32,
    hash: 'SHA-256',
    publicExponent: Uint8Array.of(1, 0, 1),
    modulusLength: 2048,
  },
  Ed25519: { name: 'Ed25519' },
} as const

async function makeCsr(kind: keyof typeof ALGORITHMS): Promise<{ der: Uint8Array; spkiDer: Uint8Array }> {
  const algorithm = ALGORITHMS[kind]
  const keys = (await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair // all of these make pairs
  const csr = await oracle.Pkcs10CertificateRequestGenerator.create({
    keys,
    signingAlgorithm: algorithm,
    extensions: [new oracle.BasicConstraintsExtension(false)],
  })
  return {
    der: new Uint8Array(csr.rawData),
    spkiDer: new Uint8Array(await crypto.subtle.exportKey('spki', keys.publicKey)),
  }
}

function codeOf(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof X509Error) return error.code
    throw error
  }
  return 'accepted'
}

describe('csr', () => {
  test.each([
    ['P-256', 'sha256'],
    ['P-384', 'sha384'],
    ['P-521', 'sha512'],
    ['RSA', 'sha256'],
    ['Ed25519', undefined],
  ] as const)('of a %s key is read and verified', async (kind, hash) => {
    const { der, spkiDer } = await makeCsr(kind)
    const csr = parseCsr(der)
    expect(csr.publicKey.spkiDer).toEqual(spkiDer)
    expect(csr.hash).toBe(hash)
    verifyCsr(csr)
  })

  test('signed with PSS is not supported', async () => {
    const { der } = await makeCsr('PSS')
    expect(codeOf(() => verifyCsr(parseCsr(der)))).toBe('unsupported_key')
  })

  test('with any byte changed is refused', async () => {
    const { der } = await makeCsr('P-256')
    fc.assert(
      fc.property(fc.nat(der.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const mutated = der.map((octet, index) => (index === at ? octet ^ change : octet))
        expect(codeOf(() => verifyCsr(parseCsr(mutated)))).not.toBe('accepted')
      }),
    )
    expect(codeOf(() => parseCsr(der.subarray(0, 50)))).toBe('malformed_csr')
    expect(codeOf(() => parseCsr(Uint8Array.of(...der, 0)))).toBe('malformed_csr')
  })

  test('is not a key', () => {
    const pem = generateKeyPairSync('ec', { namedCurve: 'P-256' })
      .publicKey.export({ format: 'pem', type: 'spki' })
      .toString()
    expect(codeOf(() => parseCsr(decodePem(pem)[0]?.der ?? new Uint8Array(0)))).toBe('malformed_csr')
    expect(parsePublicKeyPem(pem).kind).toBe('ecdsa')
  })
})
