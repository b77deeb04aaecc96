/**
 * Leaf certificates of the issuing authority. What remains possible to a thief of the CA's process: a code-signing leaf
 * for any identity, minutes long, at the capped rate, each one in the CT log before it is final.
 */
import { createPublicKey, verify, type KeyObject } from 'node:crypto'
import {
  decodeSctList,
  OID,
  parseSct,
  parseTbsCertificate,
  readSequence,
  sctSignatureInput,
  withoutExtension,
  type ParsedTbsCertificate,
} from '#x509'
import { KIND_RULES } from '../key-kinds.ts'
import { capOf } from '../raise-cap.ts'
import { HsmError } from '../signing.ts'
import { equal, refuse, sha256, type Check, type CheckContext, type Statement } from './purpose.ts'

/** Ten minutes are usual (Fulcio); an hour is the most that anybody has asked for. */
const DEFAULT_VALIDITY_SECONDS = 3600

/** notBefore is the time of issue; some authorities date back a little for clients whose clocks are behind. */
const NOT_BEFORE_PAST_MS = 300_000
const NOT_BEFORE_FUTURE_MS = 60_000

/** RFC 5280 §4.1.2.2: at most 20 octets, here with the leading zero of a positive number. */
const MAX_SERIAL_BYTES = 21

/** Extensions that may be critical; any other would make clients refuse what they do not know. */
const CRITICAL: ReadonlySet<string> = new Set([OID.keyUsage, OID.subjectAltName, OID.ctPoison, OID.extKeyUsage])

const POISON_VALUE = Uint8Array.of(5, 0)

export const checkCertificate: Check = (request, context) => {
  const tbsDer = request.bytes('tbsDer')
  request.end()
  const tbs = parseTbsCertificate(tbsDer)
  checkIssuer(tbs, context)
  checkLeafProfile(tbs)
  checkValidity(tbs, context)
  const kind = checkTransparency(tbs, context)
  const { perMinute } = capOf(context.key, context.state, context.nowMs)
  if (!context.state.takeQuota(`${context.key.name}/${kind}`, perMinute, context.nowMs)) {
    throw new HsmError('busy', 'rate_capped', `key ${context.key.name} has signed its ${kind}s of this minute`)
  }
  return signatureOver(tbsDer)
}

/** A statement whose reply is the signature alone. */
export function signatureOver(message: Uint8Array): Statement {
  return { message, release: (signatureDer) => signatureDer }
}

/** The algorithm inside the TBS must be the one that the key will use. */
export function checkSignatureAlgorithm(tbs: ParsedTbsCertificate, context: CheckContext): void {
  const wanted = KIND_RULES[context.key.kind].certificateAlgorithm
  if (tbs.version !== 3) refuse('not_version_3', 'certificate is not version 3')
  if (tbs.signatureAlgorithmOid !== wanted) refuse('wrong_algorithm', 'signature algorithm is not that of the key')
  const { serial } = tbs
  if (serial.length > MAX_SERIAL_BYTES || (serial[0] ?? 0) >= 0x80 || serial.every((octet) => octet === 0)) {
    refuse('bad_serial', 'serial number is not positive or longer than 20 octets')
  }
}

function checkIssuer(tbs: ParsedTbsCertificate, context: CheckContext): void {
  checkSignatureAlgorithm(tbs, context)
  const pinned = context.key.issuer?.certificate
  if (pinned === undefined) refuse('no_issuer', 'key has no issuer certificate configured')
  if (!equal(tbs.issuerDer, pinned.subjectDer)) refuse('wrong_issuer', "issuer is not this key's certificate")
  if (!equal(tbs.aki, pinned.ski)) refuse('wrong_issuer', "authority key identifier is not this key's")
  if (equal(tbs.publicKey.spkiDer, context.key.spkiDer)) refuse('own_key', "subject's key is the issuer's")
}

function checkLeafProfile(tbs: ParsedTbsCertificate): void {
  if (tbs.basicConstraints !== undefined) refuse('basic_constraints', 'a leaf has no basic constraints')
  if (tbs.extKeyUsage?.length !== 1 || tbs.extKeyUsage[0] !== OID.codeSigning) {
    refuse('wrong_eku', 'extended key usage is not code signing alone')
  }
  if (tbs.keyUsage?.size !== 1 || !tbs.keyUsage.has('digitalSignature')) {
    refuse('wrong_key_usage', 'key usage is not digital signature alone')
  }
  const names = tbs.extension(OID.subjectAltName)
  if (names === undefined || !names.critical) refuse('san_not_critical', 'subject alternative name is not critical')
  // Counted in the extension itself: the parser leaves out kinds of names that it does not know.
  if (countElements(names.value) !== 1) refuse('san_not_one', 'certificate does not have exactly one alternative name')
  if (countElements(tbs.subjectDer) !== 0) refuse('subject_not_empty', 'subject is not empty')
  const stranger = tbs.extensions.find(({ critical, oid }) => critical && !CRITICAL.has(oid))
  if (stranger !== undefined) refuse('unknown_critical', `extension ${stranger.oid} is critical`)
}

function checkValidity(tbs: ParsedTbsCertificate, context: CheckContext): void {
  const start = tbs.notBefore.getTime()
  const lengthMs = tbs.notAfter.getTime() - start
  const cap = context.key.maxValiditySeconds ?? DEFAULT_VALIDITY_SECONDS
  if (!(lengthMs > 0 && lengthMs <= cap * 1000)) refuse('validity_over_cap', `validity is not within ${cap} seconds`)
  if (!(start >= context.nowMs - NOT_BEFORE_PAST_MS && start <= context.nowMs + NOT_BEFORE_FUTURE_MS)) {
    refuse('not_before_far', 'notBefore is not near the clock')
  }
}

/** Poison makes it a precertificate; otherwise one SCT of a pinned log over exactly this certificate. */
function checkTransparency(tbs: ParsedTbsCertificate, context: CheckContext): 'precertificate' | 'certificate' {
  const poison = tbs.extension(OID.ctPoison)
  const list = tbs.extension(OID.sctList)
  if (poison !== undefined) {
    if (list !== undefined) refuse('poison_and_sct', 'certificate has both poison and SCT list')
    if (!poison.critical || !equal(poison.value, POISON_VALUE)) refuse('bad_poison', 'poison is not critical NULL')
    return 'precertificate'
  }
  if (list === undefined) refuse('no_sct', 'certificate has neither poison nor SCT list')
  checkSct(tbs, list.value, context)
  return 'certificate'
}

function checkSct(tbs: ParsedTbsCertificate, listValue: Uint8Array, context: CheckContext): void {
  const { ctSpkiDers, issuer } = context.key
  if (ctSpkiDers.length === 0 || issuer === undefined) refuse('no_ct_key', 'key has no CT log configured')
  const [only, ...more] = decodeSctList(listValue)
  if (only === undefined || more.length > 0) refuse('sct_not_one', 'certificate does not have exactly one SCT')
  const sct = parseSct(only)
  const ctSpkiDer = ctSpkiDers.find((spkiDer) => equal(sct.logId, sha256(spkiDer)))
  if (ctSpkiDer === undefined) refuse('sct_of_other_log', 'SCT is of another log')
  const issuerKeyHash = sha256(issuer.certificate.publicKey.spkiDer)
  const signed = sctSignatureInput(
    { type: 'precert', issuerKeyHash, tbsDer: withoutExtension(tbs.tbsDer, OID.sctList) },
    sct.timestampMs,
    sct.extensions,
  )
  if (!verify('sha256', signed, verifierOf(ctSpkiDer), sct.signatureDer)) {
    refuse('sct_does_not_verify', 'SCT does not verify for this certificate')
  }
}

/** Importing a key costs as much as verifying with it, and there are as many keys as logs. */
const verifiers = new Map<string, KeyObject>()

function verifierOf(spkiDer: Uint8Array): KeyObject {
  const name = Buffer.from(spkiDer).toString('base64')
  const known = verifiers.get(name)
  if (known !== undefined) return known
  const key = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
  verifiers.set(name, key)
  return key
}

function countElements(sequenceDer: Uint8Array): number {
  const reader = readSequence(sequenceDer)
  let count = 0
  for (; reader.remaining > 0; count++) reader.raw()
  return count
}
