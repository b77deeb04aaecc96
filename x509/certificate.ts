/**
 * A signing certificate from profile to bytes, in the order of RFC 6962 §3.1: `prepareCertificate` builds and lints;
 * what comes out is redeemed once for the precertificate and, with the log's SCT, once for the certificate.
 *
 * The parts that both have in common are encoded once and copied, so the two cannot differ in anything but poison and
 * SCT list.
 */
import {
  ascii,
  bitString,
  boolean,
  concatBytes,
  contextConstructed,
  contextPrimitive,
  equalBytes,
  integer,
  nullValue,
  objectIdentifier,
  octetString,
  sequence,
  time,
  utf8String,
} from './der.ts'
import { parseCertificate, parseTbsCertificate } from './certificate-parser.ts'
import type { ParsedCertificate, ParsedTbsCertificate, SubjectAltName } from './certificate-parser.ts'
import { X509Error } from './errors.ts'
import { keyIdentifier, sha256, verifySignature } from './key-object.ts'
import { OID } from './oids.ts'
import { encodeSctList, type SctEntry } from './sct.ts'
import type { PublicKey } from './spki.ts'

export type IssuerSignatureAlgorithm = 'ecdsa-sha256' | 'ecdsa-sha384' | 'rsa-sha256'

/** A CA certificate with what every certificate under it repeats, encoded once. */
export interface CertificateIssuer {
  readonly certificate: ParsedCertificate
  readonly signatureAlgorithm: IssuerSignatureAlgorithm
  /** SHA-256 of the issuer's SPKI, 32 bytes (RFC 6962 §3.2). */
  readonly keyHash: Uint8Array
  /** Extension in DER. */
  readonly authorityKeyIdentifierDer: Uint8Array
}

/** What varies from one signing certificate to the next. */
export interface CertificateProfile {
  readonly issuer: CertificateIssuer
  /** 20 random bytes, the top bit clear. */
  readonly serial: Uint8Array
  /** Whole seconds. */
  readonly notBefore: Date
  readonly notAfter: Date
  readonly publicKey: PublicKey
  /** `email`, `uri` or `otherName`. */
  readonly subjectAltName: SubjectAltName
  /** Of `encodeFulcioExtensions`. */
  readonly fulcioExtensions: Uint8Array
}

/** A certificate that passed the linter. Each form can be taken once: nothing is signed twice from one preparation. */
export interface PreparedCertificate {
  /** TBSCertificate with the poison last; throws `profile` when taken again. */
  precertificateTbs(): Uint8Array
  /** What the log signs: the same certificate without the poison. */
  sctInput(): Extract<SctEntry, { type: 'precert' }>
  /** TBSCertificate with the SCT list last; `scts` are serialised, at least one. Throws `profile` when taken again. */
  certificateTbs(scts: readonly Uint8Array[]): Uint8Array
}

const SIGNATURE_ALGORITHM_DER: Readonly<Record<IssuerSignatureAlgorithm, Uint8Array>> = {
  'ecdsa-sha256': sequence(objectIdentifier(OID.ecdsaWithSha256)),
  'ecdsa-sha384': sequence(objectIdentifier(OID.ecdsaWithSha384)),
  // RFC 4055 §5: the parameters are NULL, and must be there.
  'rsa-sha256': sequence(objectIdentifier(OID.sha256WithRsaEncryption), nullValue()),
}
const SIGNATURE_ALGORITHM_OID: Readonly<Record<IssuerSignatureAlgorithm, string>> = {
  'ecdsa-sha256': OID.ecdsaWithSha256,
  'ecdsa-sha384': OID.ecdsaWithSha384,
  'rsa-sha256': OID.sha256WithRsaEncryption,
}

const RSA_BITS: ReadonlySet<number> = new Set([2048, 3072, 4096])

const VERSION_3 = contextConstructed(0, integer(2))
const EMPTY_NAME = sequence()
const KEY_USAGE = extensionDer(OID.keyUsage, true, bitString(Uint8Array.of(0x80), 7))
const EXT_KEY_USAGE = extensionDer(OID.extKeyUsage, false, sequence(objectIdentifier(OID.codeSigning)))
const POISON = extensionDer(OID.ctPoison, true, nullValue())
const SKI_OID = objectIdentifier(OID.subjectKeyIdentifier)
const SAN_OID = objectIdentifier(OID.subjectAltName)
const SCT_LIST_OID = objectIdentifier(OID.sctList)
const CRITICAL = boolean(true)

/**
 * Reads a CA certificate that issues signing certificates; throws `profile` if it is not one: ECDSA P-256 or P-384 or
 * RSA of 2048, 3072 or 4096 bits, CA, may sign certificates, has a subject key identifier, and no extended key usage that shuts out code signing.
 */
export function makeIssuer(certificateDer: Uint8Array): CertificateIssuer {
  const certificate = parseCertificate(certificateDer)
  const { publicKey, basicConstraints, keyUsage, extKeyUsage, ski } = certificate
  const signatureAlgorithm = algorithmOf(publicKey)
  if (basicConstraints?.ca !== true) throw profile('issuer is not a CA')
  if (keyUsage?.has('keyCertSign') !== true) throw profile('issuer must not sign certificates by its key usage')
  const mayCodeSign =
    extKeyUsage === undefined || extKeyUsage.some((oid) => oid === OID.codeSigning || oid === OID.anyExtendedKeyUsage)
  if (!mayCodeSign) throw profile('issuer has an extended key usage without code signing')
  // sigstore-python refuses leaves without AKI, and the AKI is the issuer's SKI.
  if (ski === undefined || ski.length === 0) throw profile('issuer has no subject key identifier')
  return {
    certificate,
    signatureAlgorithm,
    keyHash: sha256(publicKey.spkiDer),
    authorityKeyIdentifierDer: extensionDer(OID.authorityKeyIdentifier, false, sequence(contextPrimitive(0, ski))),
  }
}

/** SHA-256 with RSA of every size, as Fulcio. Not Ed25519: sigstore-python refuses it as an issuer. */
function algorithmOf(key: PublicKey): IssuerSignatureAlgorithm {
  if (key.kind === 'ecdsa' && key.curve === 'P-256') return 'ecdsa-sha256'
  if (key.kind === 'ecdsa' && key.curve === 'P-384') return 'ecdsa-sha384'
  if (key.kind === 'rsa' && RSA_BITS.has(key.bits)) return 'rsa-sha256'
  throw profile('issuer key is not ECDSA P-256 or P-384 or RSA of 2048, 3072 or 4096 bits')
}

/** Builds and lints a signing certificate; throws `profile` if what came out is not what this authority issues. */
export function prepareCertificate(wanted: CertificateProfile): PreparedCertificate {
  const { issuer, publicKey } = wanted
  const head = concatBytes(
    VERSION_3,
    integer(wanted.serial),
    SIGNATURE_ALGORITHM_DER[issuer.signatureAlgorithm],
    issuer.certificate.subjectDer,
    sequence(time(wanted.notBefore), time(wanted.notAfter)),
    EMPTY_NAME,
    publicKey.spkiDer,
  )
  const extensions = concatBytes(
    KEY_USAGE,
    EXT_KEY_USAGE,
    sequence(SKI_OID, octetString(octetString(keyIdentifier(publicKey.spkiDer)))),
    issuer.authorityKeyIdentifierDer,
    sequence(SAN_OID, CRITICAL, octetString(sequence(encodeAltName(wanted.subjectAltName)))),
    wanted.fulcioExtensions,
  )
  const assemble = (...last: readonly Uint8Array[]): Uint8Array =>
    sequence(head, contextConstructed(3, sequence(extensions, ...last)))

  const precertificate = assemble(POISON)
  lintTbs(parseTbsCertificate(precertificate), { ...wanted, stage: 'precertificate' })
  return {
    precertificateTbs: once('precertificate', () => precertificate),
    sctInput: () => ({ type: 'precert', issuerKeyHash: issuer.keyHash, tbsDer: assemble() }),
    certificateTbs: once('certificate', (scts: readonly Uint8Array[]) =>
      assemble(sequence(SCT_LIST_OID, octetString(encodeSctList(scts)))),
    ),
  }
}

/** Certificate from its TBS and the issuer's signature (ECDSA in ASN.1 DER, RSA PKCS#1 v1.5). The signature is not checked here. */
export function assembleCertificate(
  tbsDer: Uint8Array,
  signatureAlgorithm: IssuerSignatureAlgorithm,
  signatureDer: Uint8Array,
): Uint8Array {
  return sequence(tbsDer, SIGNATURE_ALGORITHM_DER[signatureAlgorithm], bitString(signatureDer))
}

/** True if the issuer's key signed the certificate; false also for a signature algorithm that is not the key's. */
export function verifyCertificateSignature(certificate: ParsedCertificate, issuerPublicKey: PublicKey): boolean {
  return verifySignature(certificate.signatureAlgorithmOid, issuerPublicKey, certificate.tbsDer, certificate.signature)
}

/**
 * Holds a finished certificate against what was asked for: profile, names, dates, exactly one SCT list, and the
 * issuer's signature. Throws `profile`, or `bad_signature`.
 */
export function lintIssuedLeaf(
  certificate: ParsedCertificate,
  issuer: CertificateIssuer,
  wanted: Omit<CertificateProfile, 'issuer'>,
): void {
  lintTbs(certificate, { ...wanted, issuer, stage: 'certificate' })
  if (!verifyCertificateSignature(certificate, issuer.certificate.publicKey)) {
    throw new X509Error('bad_signature', 'certificate is not signed by its issuer')
  }
}

/** Extension identifiers that must come first, in this order, with their criticality. */
const LEADING_EXTENSIONS: readonly (readonly [oid: string, critical: boolean])[] = [
  [OID.keyUsage, true],
  [OID.extKeyUsage, false],
  [OID.subjectKeyIdentifier, false],
  [OID.authorityKeyIdentifier, false],
  [OID.subjectAltName, true],
]

type LintExpectations = CertificateProfile & { readonly stage: 'precertificate' | 'certificate' }

function lintTbs(found: ParsedTbsCertificate, wanted: LintExpectations): void {
  lintFields(found, wanted)
  lintExtensionOrder(found, wanted.stage)
  const { keyUsage, extKeyUsage } = found
  if (keyUsage?.size !== 1 || !keyUsage.has('digitalSignature'))
    throw profile('key usage is not digitalSignature alone')
  if (extKeyUsage?.length !== 1 || extKeyUsage[0] !== OID.codeSigning)
    throw profile('extended key usage is not code signing alone')
  const spkiDer = wanted.publicKey.spkiDer
  if (found.ski === undefined || !equalBytes(found.ski, keyIdentifier(spkiDer)))
    throw profile('subject key identifier is wrong')
  const issuerSki = wanted.issuer.certificate.ski
  if (found.aki === undefined || issuerSki === undefined || !equalBytes(found.aki, issuerSki)) {
    throw profile('authority key identifier is not that of the issuer')
  }
  lintAltName(found, wanted.subjectAltName)
}

function lintFields(found: ParsedTbsCertificate, wanted: LintExpectations): void {
  const { issuer, serial } = wanted
  if (found.version !== 3) throw profile('version is not 3')
  // RFC 5280 §4.1.2.2: positive, at most 20 octets; the top bit clear keeps the encoding at 20.
  if (serial.length !== 20 || (serial[0] ?? 0xff) >= 0x80 || serial.subarray(0, 8).every((octet) => octet === 0)) {
    throw profile('serial is not 20 random bytes with the top bit clear')
  }
  if (!equalBytes(integer(serial).subarray(2), found.serial)) throw profile('serial is not the wanted one')
  if (found.signatureAlgorithmOid !== SIGNATURE_ALGORITHM_OID[issuer.signatureAlgorithm])
    throw profile('signature algorithm is not that of the issuer')
  if (!equalBytes(found.issuerDer, issuer.certificate.subjectDer))
    throw profile('issuer name is not that of the issuer')
  if (!equalBytes(found.subjectDer, EMPTY_NAME)) throw profile('subject is not empty')
  if (!equalBytes(found.publicKey.spkiDer, wanted.publicKey.spkiDer)) throw profile('public key is not the wanted one')
  if (
    found.notBefore.getTime() !== wanted.notBefore.getTime() ||
    found.notAfter.getTime() !== wanted.notAfter.getTime()
  ) {
    throw profile('validity is not the wanted one in whole seconds')
  }
  if (found.notBefore.getTime() >= found.notAfter.getTime()) throw profile('validity is empty')
  if (found.notBefore < issuer.certificate.notBefore || found.notAfter > issuer.certificate.notAfter) {
    throw profile('validity is not within that of the issuer')
  }
}

/** Order and criticality of fulcio.md §4: clients differ in what they forgive, none forgives everything. */
function lintExtensionOrder(found: ParsedTbsCertificate, stage: LintExpectations['stage']): void {
  const last = stage === 'precertificate' ? OID.ctPoison : OID.sctList
  const middle = found.extensions.slice(LEADING_EXTENSIONS.length, -1)
  for (const [at, [oid, critical]] of LEADING_EXTENSIONS.entries()) {
    const extension = found.extensions[at]
    if (extension?.oid !== oid || extension.critical !== critical) throw profile(`extension ${oid} is not in its place`)
  }
  let previous = 0
  for (const { oid, critical } of middle) {
    const arc = oid.startsWith(`${OID.fulcio}.`) ? Number(oid.slice(OID.fulcio.length + 1)) : Number.NaN
    if (critical || !Number.isInteger(arc) || arc === 7 || arc <= previous)
      throw profile(`extension ${oid} is not allowed in its place`)
    previous = arc
  }
  if (!middle.some(({ oid }) => oid === `${OID.fulcio}.8`)) throw profile('issuer extension is missing')
  const end = found.extensions.at(-1)
  if (end?.oid !== last || end.critical !== (stage === 'precertificate'))
    throw profile(`extension ${last} is not the last`)
  if (stage === 'precertificate' && !equalBytes(end.value, nullValue())) throw profile('poison is not null')
}

function lintAltName(found: ParsedTbsCertificate, wanted: SubjectAltName): void {
  const [name, ...others] = found.subjectAltNames
  if (name === undefined || others.length > 0) throw profile('subject alternative name is not exactly one')
  if (name.type !== wanted.type || name.value !== wanted.value || name.oid !== wanted.oid) {
    throw profile('subject alternative name is not the wanted one')
  }
}

function encodeAltName({ type, value, oid }: SubjectAltName): Uint8Array {
  // A control character in a name would be a line of its own in many a log and policy; none of the peers allows it.
  if (value === '' || /\p{Cc}/u.test(value))
    throw profile('subject alternative name is empty or has control characters')
  if (type === 'email') return contextPrimitive(1, asciiName(value))
  if (type === 'uri') return contextPrimitive(6, asciiName(value))
  if (type === 'otherName' && oid !== undefined) {
    return contextConstructed(0, objectIdentifier(oid), contextConstructed(0, utf8String(value)))
  }
  throw profile(`subject alternative name of type ${type} is not issued`)
}

function asciiName(value: string): Uint8Array {
  try {
    return ascii(value)
  } catch (error) {
    throw new X509Error('profile', 'subject alternative name is not ASCII', { cause: error })
  }
}

function extensionDer(oid: string, critical: boolean, value: Uint8Array): Uint8Array {
  return critical
    ? sequence(objectIdentifier(oid), boolean(true), octetString(value))
    : sequence(objectIdentifier(oid), octetString(value))
}

function once<Arguments extends readonly unknown[]>(
  what: string,
  make: (...given: Arguments) => Uint8Array,
): (...given: Arguments) => Uint8Array {
  let taken = false
  return (...given) => {
    if (taken) throw profile(`${what} was already taken from this preparation`)
    taken = true
    return make(...given)
  }
}

function profile(message: string): X509Error {
  return new X509Error('profile', message)
}
