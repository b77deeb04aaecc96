/**
 * What a certificate of an authority must be, before it is signed and after: the profile that clients take (see
 * `hsm/ceremony.ts`), the names and the key that were asked for, and a validity within its issuer's. Pure, and beside the
 * library that writes these certificates: this one only reads.
 */
import type { AuthorityName, AuthorityProfile } from '#hsm/ceremony'
import {
  encodeName,
  equalBytes,
  keyIdentifier,
  type KeyUsage,
  OID,
  parseName,
  type ParsedCertificate,
  type ParsedTbsCertificate,
} from '#x509'

/** What was asked for. */
export interface AuthorityExpectation {
  readonly profile: AuthorityProfile
  readonly name: AuthorityName
  /** SubjectPublicKeyInfo, DER, of the key that gets the certificate. */
  readonly spkiDer: Uint8Array
  /** Of the key that signs; missing for a root. */
  readonly issuer?: ParsedCertificate
  readonly validityYears: number
}

const YEAR_MS = 365.25 * 24 * 60 * 60 * 1000

/** Leap seconds and rounding to whole seconds, and the minute by which it begins early. */
const VALIDITY_SLACK_MS = 120_000

interface Profile {
  readonly basicConstraints: { readonly ca: boolean; readonly pathLength?: number } | undefined
  readonly keyUsage: readonly KeyUsage[]
  readonly extKeyUsage: { readonly oid: string; readonly critical: boolean } | undefined
}

const PROFILES: Readonly<Record<AuthorityProfile, Profile>> = {
  root: {
    basicConstraints: { ca: true, pathLength: 1 },
    keyUsage: ['keyCertSign', 'cRLSign'],
    extKeyUsage: undefined,
  },
  issuing: {
    basicConstraints: { ca: true, pathLength: 0 },
    keyUsage: ['keyCertSign', 'cRLSign'],
    extKeyUsage: { oid: OID.codeSigning, critical: false },
  },
  timestamp: {
    basicConstraints: undefined,
    keyUsage: ['digitalSignature'],
    extKeyUsage: { oid: OID.timeStamping, critical: true },
  },
}

/** What is wrong with it, in words; empty if nothing is. */
export function lintAuthority(found: ParsedTbsCertificate, wanted: AuthorityExpectation): string[] {
  const faults: string[] = []
  const must = (holds: boolean, fault: string): void => {
    if (!holds) faults.push(fault)
  }
  const { issuer } = wanted
  must(found.version === 3, 'version is not 3')
  // CA/Browser Forum §7.1: at least 64 random bits; ours are 20 octets, positive.
  must(found.serial.length === 20 && (found.serial[0] ?? 0xff) < 0x80, 'serial number is not 20 octets, positive')
  must(equalBytes(found.publicKey.spkiDer, wanted.spkiDer), 'public key is not the one that was asked for')
  must(equalBytes(found.subjectDer, nameDer(found.subjectDer, wanted.name)), 'subject is not the name asked for')
  must(equalBytes(found.issuerDer, issuer?.subjectDer ?? found.subjectDer), 'issuer is not the name of the issuer')
  must(
    found.signatureAlgorithmOid === algorithmOf(issuer ?? found),
    'signature algorithm is not that of the key of the issuer',
  )
  lintValidity(found, wanted, must)
  lintExtensions(found, wanted, must)
  return faults
}

type Must = (holds: boolean, fault: string) => void

/** Strings of a name may be of several types; the one found counts if it reads the same. */
function nameDer(found: Uint8Array, { organization, commonName }: AuthorityName): Uint8Array {
  const attributes = [
    { type: 'O', value: organization },
    { type: 'CN', value: commonName },
  ]
  const same = JSON.stringify(parseName(found)) === JSON.stringify(attributes)
  return same ? found : encodeName(attributes)
}

function algorithmOf({ publicKey }: Pick<ParsedTbsCertificate, 'publicKey'>): string | undefined {
  if (publicKey.kind === 'rsa') return OID.sha256WithRsaEncryption
  if (publicKey.kind !== 'ecdsa') return undefined
  return publicKey.curve === 'P-256'
    ? OID.ecdsaWithSha256
    : publicKey.curve === 'P-384'
      ? OID.ecdsaWithSha384
      : undefined
}

function lintValidity(found: ParsedTbsCertificate, { validityYears, issuer }: AuthorityExpectation, must: Must): void {
  const lengthMs = found.notAfter.getTime() - found.notBefore.getTime()
  must(Math.abs(lengthMs - validityYears * YEAR_MS) <= VALIDITY_SLACK_MS, `validity is not ${validityYears} years`)
  if (issuer === undefined) return
  must(found.notBefore >= issuer.notBefore, 'validity begins before that of the issuer')
  must(found.notAfter <= issuer.notAfter, `validity ends after that of the issuer (${issuer.notAfter.toISOString()})`)
}

function lintExtensions(found: ParsedTbsCertificate, { profile, issuer }: AuthorityExpectation, must: Must): void {
  const { basicConstraints, keyUsage, extKeyUsage } = PROFILES[profile]
  must(
    found.basicConstraints?.ca === basicConstraints?.ca &&
      found.basicConstraints?.pathLength === basicConstraints?.pathLength,
    'basic constraints are not those of the profile',
  )
  must(basicConstraints === undefined || isCritical(found, OID.basicConstraints), 'basic constraints are not critical')
  const usages = found.keyUsage
  must(
    usages !== undefined && usages.size === keyUsage.length && keyUsage.every((usage) => usages.has(usage)),
    `key usage is not ${keyUsage.join(' and ')}`,
  )
  must(isCritical(found, OID.keyUsage), 'key usage is not critical')
  must(
    extKeyUsage === undefined
      ? found.extKeyUsage === undefined
      : found.extKeyUsage?.length === 1 &&
          found.extKeyUsage[0] === extKeyUsage.oid &&
          isCritical(found, OID.extKeyUsage) === extKeyUsage.critical,
    'extended key usage is not that of the profile',
  )
  must(
    found.ski !== undefined && equalBytes(found.ski, keyIdentifier(found.publicKey.spkiDer)),
    'subject key identifier is not that of the key',
  )
  const authority = issuer?.ski ?? found.ski
  must(
    (issuer === undefined && found.aki === undefined) ||
      (found.aki !== undefined && authority !== undefined && equalBytes(found.aki, authority)),
    'authority key identifier is not that of the issuer',
  )
  for (const { oid } of found.extensions) must(KNOWN.has(oid), `extension ${oid} is not part of the profile`)
}

const KNOWN: ReadonlySet<string> = new Set([
  OID.basicConstraints,
  OID.keyUsage,
  OID.extKeyUsage,
  OID.subjectKeyIdentifier,
  OID.authorityKeyIdentifier,
])

function isCritical(found: ParsedTbsCertificate, oid: string): boolean {
  return found.extension(oid)?.critical === true
}
