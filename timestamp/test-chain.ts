/** A chain and a signer in memory for the tests of this folder; what the HSM's agent does is tested where it runs. */
import 'reflect-metadata'
import { createHash, sign, webcrypto } from 'node:crypto'
import * as x509 from '@peculiar/x509'
import type { KeyDescription, TimestampRequest } from '#hsm'
import { OID, parseCertificate } from '#x509'

export interface LeafChanges {
  readonly curve?: 'P-256' | 'P-384'
  readonly name?: string
  readonly extensions?: readonly x509.Extension[]
  readonly notAfter?: Date
}

/** The agent as far as an authority needs it. */
export interface TestSigner {
  readonly chain: readonly Uint8Array[]
  readonly privateKey: Uint8Array
  readonly requests: TimestampRequest[]
  readonly key: (name: string) => Promise<KeyDescription>
  readonly timestamp: (request: TimestampRequest) => Promise<Uint8Array>
}

export const PROFILE: readonly x509.Extension[] = [
  new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
  new x509.ExtendedKeyUsageExtension([OID.timeStamping], true),
]

/** Root and timestamping leaf, valid from a day before `now` to 30 days after. */
export async function makeSigner(now: Date, changes: LeafChanges = {}): Promise<TestSigner> {
  const curve = changes.curve ?? 'P-256'
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
  const generate = (namedCurve: string): Promise<webcrypto.CryptoKeyPair> =>
    webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve }, true, ['sign', 'verify'])
  const [rootKeys, leafKeys] = await Promise.all([generate('P-256'), generate(curve)])
  const validity = {
    notBefore: new Date(now.getTime() - 86_400_000),
    notAfter: changes.notAfter ?? new Date(now.getTime() + 30 * 86_400_000),
  }
  const root = await x509.X509CertificateGenerator.createSelfSigned({
    ...validity,
    serialNumber: '01',
    name: 'O=Chancery, CN=timestamp root',
    keys: rootKeys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 1, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(rootKeys.publicKey),
    ],
  })
  const leaf = await x509.X509CertificateGenerator.create({
    ...validity,
    serialNumber: '7102030405060708090a0b0c0d0e0f1011121314',
    subject: changes.name ?? 'O=Chancery, CN=timestamp authority',
    issuer: root.subject,
    publicKey: leafKeys.publicKey,
    signingKey: rootKeys.privateKey,
    signingAlgorithm: algorithm,
    extensions: [
      ...(changes.extensions ?? PROFILE),
      await x509.SubjectKeyIdentifierExtension.create(leafKeys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(rootKeys.publicKey),
    ],
  })
  const chain = [leaf, root].map(({ rawData }) => new Uint8Array(rawData))
  const spkiDer = parseCertificate(chain[0] ?? new Uint8Array(0)).publicKey.spkiDer
  const pkcs8 = new Uint8Array(await webcrypto.subtle.exportKey('pkcs8', leafKeys.privateKey))
  const requests: TimestampRequest[] = []
  return {
    chain,
    privateKey: pkcs8,
    requests,
    key: async (name) => ({
      name,
      kind: curve,
      spkiDer,
      keyId: Uint8Array.from(createHash('sha256').update(spkiDer).digest()),
      purposes: ['timestamp'],
    }),
    timestamp: async (request) => {
      requests.push(request)
      const key = { key: Buffer.from(pkcs8), format: 'der', type: 'pkcs8' } as const
      return Uint8Array.from(sign('sha256', request.signedAttributesDer, key))
    },
  }
}
