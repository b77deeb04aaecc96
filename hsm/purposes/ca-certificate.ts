/** Certificates of authorities: the root itself, intermediates below it, timestamping leaves. Admin channel only. */
import { OID, parseTbsCertificate, type KeyUsage, type ParsedTbsCertificate } from '#x509'
import type { PinnedAuthority } from '../agent-state.ts'
import { checkSignatureAlgorithm, signatureOver } from './certificate.ts'
import { equal, refuse, type Check, type CheckContext } from './purpose.ts'

/** Ten years with their leap days. */
const DEFAULT_VALIDITY_SECONDS = 3653 * 24 * 60 * 60

/** A ceremony prepares its certificates on the day on which it signs them. */
const NOT_BEFORE_WINDOW_MS = 24 * 60 * 60 * 1000

export const checkCaCertificate: Check = (request, context) => {
  const tbsDer = request.bytes('tbsDer')
  request.end()
  const tbs = parseTbsCertificate(tbsDer)
  checkSignatureAlgorithm(tbs, context)
  checkValidity(tbs, context)
  if (tbs.ski === undefined) refuse('no_ski', 'certificate has no subject key identifier')
  const poisoned = tbs.extension(OID.ctPoison) ?? tbs.extension(OID.sctList)
  if (poisoned !== undefined) refuse('ct_extension', 'certificate of an authority has a CT extension')
  const isCa = tbs.basicConstraints?.ca === true
  if (isCa) checkCaProfile(tbs)
  else checkTimestampProfile(tbs)
  if (equal(tbs.publicKey.spkiDer, context.key.spkiDer)) {
    if (!isCa) refuse('own_key', "subject's key is the issuer's")
    checkSelfSigned(tbs, context)
    context.state.setAuthority(context.keyId, { subjectDer: tbs.subjectDer, ski: tbs.ski })
  } else {
    checkIssuer(tbs, context)
    // Only the self-signed root has authorities below it: what it issues signs leaves.
    if (isCa && tbs.basicConstraints?.pathLength !== 0) refuse('path_length', 'path length of an intermediate is not 0')
  }
  return signatureOver(tbsDer)
}

function checkCaProfile(tbs: ParsedTbsCertificate): void {
  if (tbs.extension(OID.basicConstraints)?.critical !== true)
    refuse('not_critical', 'basic constraints are not critical')
  if (!allWithin(tbs.keyUsage, ['keyCertSign', 'cRLSign']) || tbs.keyUsage?.has('keyCertSign') !== true) {
    refuse('wrong_key_usage', 'key usage of an authority is not certificate and CRL signing')
  }
  const usages = tbs.extKeyUsage ?? [OID.codeSigning]
  if (usages.length !== 1 || (usages[0] !== OID.codeSigning && usages[0] !== OID.timeStamping)) {
    refuse('wrong_eku', 'extended key usage of an authority is not code signing or timestamping')
  }
}

/** RFC 3161 §2.3: critical, and timestamping alone. */
function checkTimestampProfile(tbs: ParsedTbsCertificate): void {
  const usage = tbs.extension(OID.extKeyUsage)
  if (usage?.critical !== true || tbs.extKeyUsage?.length !== 1 || tbs.extKeyUsage[0] !== OID.timeStamping) {
    refuse('wrong_eku', 'certificate is neither of an authority nor for timestamping alone')
  }
  if (!allWithin(tbs.keyUsage, ['digitalSignature']) || tbs.keyUsage?.size !== 1) {
    refuse('wrong_key_usage', 'key usage of a timestamp authority is not digital signature alone')
  }
}

function checkSelfSigned(tbs: ParsedTbsCertificate, context: CheckContext): void {
  const pinned = pinnedAuthority(context)
  if (!equal(tbs.issuerDer, tbs.subjectDer)) refuse('wrong_issuer', 'a key issues to itself under one name only')
  if (tbs.aki !== undefined && !equal(tbs.aki, tbs.ski)) refuse('wrong_issuer', 'key identifiers differ')
  // A renewed root keeps its name; another name would be another authority with the same key.
  if (pinned !== undefined && !equal(tbs.subjectDer, pinned.subjectDer)) {
    refuse('other_authority', 'this key is already the authority of another name')
  }
}

function checkIssuer(tbs: ParsedTbsCertificate, context: CheckContext): void {
  const pinned = pinnedAuthority(context)
  if (pinned === undefined) refuse('no_issuer', 'this key has no certificate of its own yet')
  if (!equal(tbs.issuerDer, pinned.subjectDer) || !equal(tbs.aki, pinned.ski)) {
    refuse('wrong_issuer', "issuer is not this key's certificate")
  }
}

/** The configured certificate of this key, or the root that it signed for itself here. */
function pinnedAuthority({ key, state, keyId }: CheckContext): PinnedAuthority | undefined {
  const configured = key.issuer?.certificate
  if (configured?.ski !== undefined) return { subjectDer: configured.subjectDer, ski: configured.ski }
  return state.authority(keyId)
}

function checkValidity(tbs: ParsedTbsCertificate, context: CheckContext): void {
  const start = tbs.notBefore.getTime()
  const lengthMs = tbs.notAfter.getTime() - start
  const cap = context.key.maxValiditySeconds ?? DEFAULT_VALIDITY_SECONDS
  if (!(lengthMs > 0 && lengthMs <= cap * 1000)) refuse('validity_over_cap', `validity is not within ${cap} seconds`)
  if (Math.abs(start - context.nowMs) > NOT_BEFORE_WINDOW_MS)
    refuse('not_before_far', 'notBefore is not near the clock')
}

function allWithin(found: ReadonlySet<KeyUsage> | undefined, allowed: readonly KeyUsage[]): boolean {
  return found !== undefined && [...found].every((usage) => allowed.includes(usage))
}
