import { execFileSync } from 'node:child_process'
import { createPrivateKey, generateKeyPairSync, sign } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import {
  assembleCertificate,
  decodePem,
  encodeFulcioExtensions,
  encodePem,
  makeIssuer,
  parseCsr,
  parsePublicKeyPem,
  prepareCertificate,
  serializeSct,
  verifyCsr,
} from '#x509'

const folder = mkdtempSync(join(tmpdir(), 'x509-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function openssl(...args: readonly string[]): string {
  return execFileSync('openssl', args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

function derOf(file: string): Uint8Array {
  const [block] = decodePem(readFileSync(join(folder, file), 'utf8'))
  if (block === undefined) throw new Error(`${file} is empty`)
  return block.der
}

describe('openssl', () => {
  test.each([
    ['P-256', 'ecdsa-sha256', 'sha256', ['ecparam', '-name', 'P-256', '-genkey', '-noout']],
    ['P-384', 'ecdsa-sha384', 'sha384', ['ecparam', '-name', 'P-384', '-genkey', '-noout']],
    ['RSA-2048', 'rsa-sha256', 'sha256', ['genrsa', '2048']],
  ] as const)(
    'accepts a certificate under a %s issuer with -x509_strict, and refuses it spoiled',
    (_, algorithm, hash, [command, ...how]) => {
      openssl(command, '-out', 'ca.key', ...how)
      const usages = [
        'basicConstraints=critical,CA:TRUE,pathlen:0',
        'keyUsage=critical,keyCertSign,cRLSign',
        'extendedKeyUsage=codeSigning',
      ]
      openssl(
        'req',
        '-x509',
        '-new',
        '-key',
        'ca.key',
        '-subj',
        '/O=Chancery/CN=issuing',
        '-days',
        '2',
        '-out',
        'ca.pem',
        ...usages.flatMap((usage) => ['-addext', usage]),
      )
      const key = createPrivateKey(readFileSync(join(folder, 'ca.key')))
      const issuer = makeIssuer(derOf('ca.pem'))
      const notBefore = issuer.certificate.notBefore
      const prepared = prepareCertificate({
        issuer,
        serial: new Uint8Array(20).fill(0x5a),
        notBefore,
        notAfter: new Date(notBefore.getTime() + 600_000),
        publicKey: parsePublicKeyPem(
          generateKeyPairSync('ec', { namedCurve: 'P-256' })
            .publicKey.export({ format: 'pem', type: 'spki' })
            .toString(),
        ),
        subjectAltName: { type: 'email', value: 'someone@example.com' },
        fulcioExtensions: encodeFulcioExtensions({ issuer: 'https://issuer.example', tokenSubject: 'x' }),
      })
      const signatureDer = Uint8Array.from(sign('sha256', Buffer.of(1), key))
      const tbs = prepared.certificateTbs([
        serializeSct({
          logId: new Uint8Array(32),
          timestampMs: 1_700_000_000_000,
          extensions: new Uint8Array(0),
          signatureDer,
        }),
      ])
      const der = assembleCertificate(tbs, algorithm, sign(hash, tbs, key))
      writeFileSync(join(folder, 'leaf.pem'), encodePem('CERTIFICATE', der))
      const verify = [
        'verify',
        '-x509_strict',
        '-purpose',
        'any',
        '-attime',
        String(notBefore.getTime() / 1000 + 1),
        '-CAfile',
        'ca.pem',
        'leaf.pem',
      ]
      expect(openssl(...verify)).toContain('leaf.pem: OK')
      const text = openssl('x509', '-in', 'leaf.pem', '-noout', '-text')
      expect(text).toContain('email:someone@example.com')
      expect(text).toMatch(/CT Precertificate SCTs: \n\s+Signed Certificate Timestamp/)
      writeFileSync(
        join(folder, 'leaf.pem'),
        encodePem(
          'CERTIFICATE',
          der.map((octet, at) => (at === 30 ? octet ^ 1 : octet)),
        ),
      )
      expect(() => openssl(...verify)).toThrow()
    },
  )

  test.each([
    ['Ed25519', ['genpkey', '-algorithm', 'ed25519']],
    ['P-521', ['ecparam', '-name', 'secp521r1', '-genkey', '-noout']],
    ['RSA-1024', ['genpkey', '-algorithm', 'rsa', '-pkeyopt', 'rsa_keygen_bits:1024']],
  ] as const)('makes no issuer of an authority with a key of %s', (_, [command, ...how]) => {
    openssl(command, '-out', 'other.key', ...how)
    const usages = ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign']
    const request = ['-x509', '-new', '-key', 'other.key', '-subj', '/CN=other', '-out', 'other.pem']
    openssl('req', ...request, ...usages.flatMap((usage) => ['-addext', usage]))
    expect(() => makeIssuer(derOf('other.pem'))).toThrow('issuer key is not')
  })

  test('makes CSRs that are read', () => {
    for (const [name, ...args] of [
      ['ec', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'],
      ['rsa', '-newkey', 'rsa:2048'],
      ['ed', '-newkey', 'ed25519'],
    ]) {
      openssl('req', '-new', ...args, '-nodes', '-keyout', `${name}.key`, '-subj', '/CN=ignored', '-out', `${name}.csr`)
      verifyCsr(parseCsr(derOf(`${name}.csr`)))
    }
  })
})
