import type { KeyDescription } from '#hsm'
import {
  type CertificateIssuer,
  makeIssuer,
  type ParsedCertificate,
  parseCertificate,
  verifyCertificateSignature,
} from '#x509'
import { CaError } from './error.ts'

/** The CA's own certificates, checked once at start. */
export interface IssuingChain {
  readonly issuer: CertificateIssuer
  /** DER, the issuing certificate first, the root last. */
  readonly certificates: readonly Uint8Array[]
  /** The earliest end of validity in the chain. */
  readonly notAfter: Date
}

/**
 * Checks that the chain leads from a certificate of the HSM's key to a self-signed root, and that each may issue the
 * one before (RFC 5280 §6.1.4, what applies here). Throws `internal` with what is wrong: a faulty chain must stop the
 * start, not the first client.
 */
export function checkIssuingChain(
  certificates: readonly Uint8Array[],
  key: KeyDescription,
  nowMs: number,
): IssuingChain {
  const [issuingDer] = certificates
  if (issuingDer === undefined) throw faulty('it is empty')
  const issuer = makeIssuer(issuingDer)
  const parsed = certificates.map((der) => parseCertificate(der))
  if (Buffer.compare(issuer.certificate.publicKey.spkiDer, key.spkiDer) !== 0) {
    throw faulty(`the issuing certificate is not for the key ${key.name} of the HSM`)
  }
  if (!key.purposes.includes('certificate')) throw faulty(`the key ${key.name} may not sign certificates`)
  for (const [index, certificate] of parsed.entries()) {
    checkAuthority(certificate, index, nowMs)
    // The root is its own parent.
    const parent = parsed[index + 1] ?? certificate
    const named = Buffer.compare(certificate.issuerDer, parent.subjectDer) === 0
    if (!named || !verifyCertificateSignature(certificate, parent.publicKey)) {
      throw faulty(`certificate ${index + 1} is not issued by the next one, or the last is not a root`)
    }
  }
  return { issuer, certificates, notAfter: new Date(Math.min(...parsed.map(({ notAfter }) => notAfter.getTime()))) }
}

function checkAuthority(certificate: ParsedCertificate, certificatesBelow: number, nowMs: number): void {
  const { basicConstraints, keyUsage, notBefore, notAfter } = certificate
  if (basicConstraints?.ca !== true || keyUsage?.has('keyCertSign') !== true) {
    throw faulty(`certificate ${certificatesBelow + 1} is not a CA's`)
  }
  if ((basicConstraints.pathLength ?? certificatesBelow) < certificatesBelow) {
    throw faulty(`the path length of certificate ${certificatesBelow + 1} is too short`)
  }
  if (notBefore.getTime() > nowMs || notAfter.getTime() <= nowMs) {
    throw faulty(`certificate ${certificatesBelow + 1} is not valid now`)
  }
}

function faulty(how: string): CaError {
  return new CaError('internal', `the chain of the certificate authority is faulty: ${how}`)
}
