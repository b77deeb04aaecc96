/**
 * A certificate authority and a CT log with keys in software, for what ours never does: certificates without an SCT,
 * or with one that proves nothing. What such a certificate signs goes into the real logs and under the real timestamp
 * authority, so that a verifier who is told to trust this authority too finds no fault but that of the SCT.
 */
import 'reflect-metadata'
import { createHash, generateKeyPairSync, KeyObject, randomBytes, sign, webcrypto } from 'node:crypto'
import * as x509 from '@peculiar/x509'
import { encodeSctList, parseCertificate, sctSignatureInput, serializeSct, utf8String } from '#x509'

const P256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const HOUR_MS = 3_600_000
const SCT_LIST = '1.3.6.1.4.1.11129.2.4.2'
/** Fulcio's extensions with the issuer of the identity: its text as it is, and as a UTF8String. */
const ISSUER_V1 = '1.3.6.1.4.1.57264.1.1'
const ISSUER_V2 = '1.3.6.1.4.1.57264.1.8'

export interface HostileAuthority {
  /** DER of its self-signed certificate, which issues the leaves itself. */
  readonly certificateDer: Uint8Array
  readonly issue: (request: CertificateRequest) => Promise<IssuedCertificate>
}

export interface CertificateRequest {
  readonly identity: string
  readonly issuer: string
  /** Makes the serialised SCT of the entry; the certificate gets none if there is no such function. */
  readonly sct?: (entry: PrecertificateEntry) => Uint8Array
}

/** What an SCT is signed over (RFC 6962 §3.2). */
export interface PrecertificateEntry {
  readonly issuerKeyHash: Uint8Array
  readonly tbsDer: Uint8Array
}

export interface IssuedCertificate {
  readonly der: Uint8Array
  readonly privateKey: KeyObject
}

/** An authority of the shape of Fulcio's. */
export async function hostileAuthority(): Promise<HostileAuthority> {
  const keys = await webcrypto.subtle.generateKey(P256, true, ['sign', 'verify'])
  const now = Date.now()
  const authority = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: '01',
    name: 'CN=Authority of the tests,O=Example',
    notBefore: new Date(now - HOUR_MS),
    notAfter: new Date(now + 24 * HOUR_MS),
    keys,
    signingAlgorithm: P256,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  })
  const issuerKeyHash = createHash('sha256').update(Buffer.from(authority.publicKey.rawData)).digest()
  return {
    certificateDer: new Uint8Array(authority.rawData),
    async issue({ identity, issuer, sct }) {
      const leafKeys = await webcrypto.subtle.generateKey(P256, true, ['sign', 'verify'])
      const profile = {
        serialNumber: `01${randomBytes(15).toString('hex')}`,
        issuer: authority.subject,
        notBefore: new Date(Math.floor(now / 1000) * 1000 - 60_000),
        notAfter: new Date(now + HOUR_MS),
        publicKey: leafKeys.publicKey,
        signingKey: keys.privateKey,
        signingAlgorithm: P256,
      }
      const extensions = [
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.codeSigning]),
        await x509.SubjectKeyIdentifierExtension.create(leafKeys.publicKey),
        await x509.AuthorityKeyIdentifierExtension.create(keys.publicKey),
        new x509.SubjectAlternativeNameExtension([{ type: 'email', value: identity }], true),
        new x509.Extension(ISSUER_V1, false, Buffer.from(issuer)),
        new x509.Extension(ISSUER_V2, false, Buffer.from(utf8String(issuer))),
      ]
      const bare = await x509.X509CertificateGenerator.create({ ...profile, extensions })
      const { tbsDer } = parseCertificate(new Uint8Array(bare.rawData))
      const withSct =
        sct === undefined
          ? bare
          : await x509.X509CertificateGenerator.create({
              ...profile,
              extensions: [
                ...extensions,
                new x509.Extension(SCT_LIST, false, Buffer.from(encodeSctList([sct({ issuerKeyHash, tbsDer })]))),
              ],
            })
      return { der: new Uint8Array(withSct.rawData), privateKey: KeyObject.from(leafKeys.privateKey) }
    },
  }
}

/** A CT log that logs nothing and promises everything. */
export interface HostileCtLog {
  readonly spkiDer: Uint8Array
  readonly logId: Uint8Array
  /** The serialised SCT of now, by this log's key; `logId` is the log that it claims to be of. */
  readonly sct: (entry: PrecertificateEntry, logId?: Uint8Array) => Uint8Array
}

export function hostileCtLog(): HostileCtLog {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const spkiDer = new Uint8Array(publicKey.export({ type: 'spki', format: 'der' }))
  const ownLogId = new Uint8Array(createHash('sha256').update(spkiDer).digest())
  return {
    spkiDer,
    logId: ownLogId,
    sct: (entry, logId = ownLogId) => {
      const timestampMs = Date.now()
      const extensions = new Uint8Array()
      const input = sctSignatureInput({ type: 'precert', ...entry }, timestampMs, extensions)
      const signatureDer = new Uint8Array(sign('sha256', input, privateKey))
      return serializeSct({ logId, timestampMs, extensions, signatureDer })
    },
  }
}

/** A trusted root (JSON) that trusts this authority and this CT log beside its own. */
export function trustingToo(trustedRoot: string, authority: HostileAuthority, ctLog: HostileCtLog): string {
  const root = JSON.parse(trustedRoot) as { certificateAuthorities: unknown[]; ctlogs: unknown[] }
  const validFor = { start: new Date(Date.now() - HOUR_MS).toISOString() }
  root.certificateAuthorities.push({
    subject: { organization: 'Example', commonName: 'Authority of the tests' },
    uri: 'https://authority.example',
    certChain: { certificates: [{ rawBytes: base64(authority.certificateDer) }] },
    validFor,
  })
  root.ctlogs.push({
    baseUrl: 'https://ct.example',
    hashAlgorithm: 'SHA2_256',
    publicKey: { rawBytes: base64(ctLog.spkiDer), keyDetails: 'PKIX_ECDSA_P256_SHA_256', validFor },
    logId: { keyId: base64(ctLog.logId) },
  })
  return JSON.stringify(root)
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}
