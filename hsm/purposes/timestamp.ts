/** RFC 3161 timestamps: the signature is over CMS SignedAttributes whose digest is of a TSTInfo that was read here. */
import { DerReader, readSequence } from '#x509'
import { signatureOver } from './certificate.ts'
import { equal, FUTURE_TOLERANCE_MS, refuse, sha256, type Check } from './purpose.ts'

/** A request that had to wait for a session may be this old; a timestamp that is older dates back. */
const PAST_TOLERANCE_MS = 15_000

const OID_CONTENT_TYPE = '1.2.840.113549.1.9.3'
const OID_MESSAGE_DIGEST = '1.2.840.113549.1.9.4'
const OID_SIGNING_TIME = '1.2.840.113549.1.9.5'
const OID_SIGNING_CERTIFICATE = '1.2.840.113549.1.9.16.2.12'
const OID_SIGNING_CERTIFICATE_V2 = '1.2.840.113549.1.9.16.2.47'
const OID_TST_INFO = '1.2.840.113549.1.9.16.1.4'

const KNOWN_ATTRIBUTES: ReadonlySet<string> = new Set([
  OID_CONTENT_TYPE,
  OID_MESSAGE_DIGEST,
  OID_SIGNING_TIME,
  OID_SIGNING_CERTIFICATE,
  OID_SIGNING_CERTIFICATE_V2,
])

const GENERALIZED_TIME = 0x18

export const checkTimestamp: Check = (request, { nowMs }) => {
  const tstInfoDer = request.bytes('tstInfoDer')
  const signedAttributesDer = request.bytes('signedAttributesDer')
  request.end()
  const genTimeMs = readGenTime(tstInfoDer)
  if (genTimeMs > nowMs + FUTURE_TOLERANCE_MS || genTimeMs < nowMs - PAST_TOLERANCE_MS) {
    refuse('gen_time_far', 'genTime is not near the clock')
  }
  checkSignedAttributes(signedAttributesDer, sha256(tstInfoDer))
  return signatureOver(signedAttributesDer)
}

/** genTime of a well-formed TSTInfo (RFC 3161 §2.4.2), milliseconds. */
function readGenTime(tstInfoDer: Uint8Array): number {
  const info = readSequence(tstInfoDer)
  if (info.integer() !== 1n) refuse('malformed', 'TSTInfo is not version 1')
  info.oid()
  const imprint = info.sequence()
  const algorithm = imprint.sequence()
  algorithm.oid()
  if (algorithm.remaining > 0) algorithm.null()
  algorithm.end()
  imprint.octetString()
  imprint.end()
  if (info.integer() <= 0n) refuse('malformed', 'serial number of TSTInfo is not positive')
  const genTimeMs = parseGenTime(Buffer.from(info.read(GENERALIZED_TIME)).toString('latin1'))
  if (info.peekTag() === 0x30) info.sequence()
  if (info.peekTag() === 0x01) info.boolean()
  if (info.peekTag() === 0x02) info.integer()
  info.optional(0xa0)
  info.optional(0xa1)
  info.end()
  return genTimeMs
}

/** RFC 3161 §2.4.2: GeneralizedTime in UTC, with a fraction that does not end in 0. */
function parseGenTime(text: string): number {
  const parts = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\.\d{0,8}[1-9])?Z$/.exec(text)
  if (parts === null) return refuse('malformed', 'genTime is not a UTC time')
  const [, year, month, day, hour, minute, second, fraction] = parts
  return Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`) + Math.floor(Number(fraction ?? 0) * 1000)
}

/** SignedAttributes as a SET OF in DER: content type TSTInfo, the digest, the signing certificate, each once. */
function checkSignedAttributes(der: Uint8Array, digest: Uint8Array): void {
  const reader = new DerReader(der)
  const set = reader.set()
  reader.end()
  const values = new Map<string, Uint8Array>()
  while (set.remaining > 0) {
    const attribute = set.sequence()
    const oid = attribute.oid()
    const value = attribute.set()
    const raw = value.raw()
    value.end()
    attribute.end()
    if (!KNOWN_ATTRIBUTES.has(oid) || values.has(oid))
      refuse('unknown_attribute', `signed attribute ${oid} is not expected`)
    values.set(oid, raw)
  }
  const contentType = values.get(OID_CONTENT_TYPE)
  if (contentType === undefined || new DerReader(contentType).oid() !== OID_TST_INFO) {
    refuse('wrong_content_type', 'content type is not TSTInfo')
  }
  const messageDigest = values.get(OID_MESSAGE_DIGEST)
  if (messageDigest === undefined || !equal(new DerReader(messageDigest).octetString(), digest)) {
    refuse('digest_mismatch', 'message digest is not that of the TSTInfo')
  }
  if (!values.has(OID_SIGNING_CERTIFICATE) && !values.has(OID_SIGNING_CERTIFICATE_V2)) {
    refuse('no_signing_certificate', 'signing certificate attribute is missing')
  }
}
