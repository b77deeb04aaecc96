/**
 * The bytes of a timestamp token: TSTInfo (RFC 3161 §2.4.2) in CMS SignedData (RFC 5652), by hand. What every token of
 * one authority has in common is encoded once.
 */
import { hash } from 'node:crypto'
import {
  OID,
  contextConstructed,
  generalizedTime,
  integer,
  nullValue,
  objectIdentifier,
  octetString,
  sequence,
  setOf,
  time,
  tlv,
  type ParsedCertificate,
} from '#x509'
import type { ImprintHash, TimestampRequest } from './request.ts'

export const OID_SIGNED_DATA = '1.2.840.113549.1.7.2'
export const OID_TST_INFO = '1.2.840.113549.1.9.16.1.4'
export const OID_CONTENT_TYPE = '1.2.840.113549.1.9.3'
export const OID_MESSAGE_DIGEST = '1.2.840.113549.1.9.4'
export const OID_SIGNING_TIME = '1.2.840.113549.1.9.5'
export const OID_SIGNING_CERTIFICATE_V2 = '1.2.840.113549.1.9.16.2.47'

/** What tokens state; also how far the clock may be off before none are made. */
export const ACCURACY_SECONDS = 1

/** The NULL is there as every peer writes and expects it in an imprint. */
const IMPRINT_ALGORITHM: Readonly<Record<ImprintHash, Uint8Array>> = {
  sha256: sequence(objectIdentifier('2.16.840.1.101.3.4.2.1'), nullValue()),
  sha384: sequence(objectIdentifier('2.16.840.1.101.3.4.2.2'), nullValue()),
  sha512: sequence(objectIdentifier('2.16.840.1.101.3.4.2.3'), nullValue()),
}
/** In CMS without parameters (RFC 5754 §2). */
const SHA256 = sequence(objectIdentifier('2.16.840.1.101.3.4.2.1'))
const ECDSA_SHA256 = sequence(objectIdentifier(OID.ecdsaWithSha256))
const VERSION_1 = integer(1)
const VERSION_3 = integer(3)
const ACCURACY = sequence(integer(ACCURACY_SECONDS))
const MESSAGE_DIGEST = objectIdentifier(OID_MESSAGE_DIGEST)
const SIGNING_TIME = objectIdentifier(OID_SIGNING_TIME)
const TST_INFO = objectIdentifier(OID_TST_INFO)
const SIGNED_DATA = objectIdentifier(OID_SIGNED_DATA)
const CONTENT_TYPE_ATTRIBUTE = sequence(objectIdentifier(OID_CONTENT_TYPE), setOf(TST_INFO))
/** PKIStatusInfo granted: the only status that clients take. */
const GRANTED = sequence(integer(0))

/** Parts that all tokens of a signer share, encoded once. */
export interface TokenParts {
  /** `tsa` of TSTInfo. */
  readonly tsa: Uint8Array
  readonly issuerAndSerial: Uint8Array
  readonly signingCertificateAttribute: Uint8Array
  readonly certificates: Uint8Array
}

export function tokenParts(leaf: ParsedCertificate): TokenParts {
  const serial = tlv(0x02, leaf.serial)
  // ESSCertIDv2 (RFC 5035 §4): SHA-256 is the default, so it is left out.
  const issuerSerial = sequence(sequence(contextConstructed(4, leaf.issuerDer)), serial)
  const certificateId = sequence(octetString(hash('sha256', leaf.der, 'buffer')), issuerSerial)
  return {
    tsa: contextConstructed(0, contextConstructed(4, leaf.subjectDer)),
    issuerAndSerial: sequence(leaf.issuerDer, serial),
    signingCertificateAttribute: sequence(
      objectIdentifier(OID_SIGNING_CERTIFICATE_V2),
      setOf(sequence(sequence(certificateId))),
    ),
    certificates: contextConstructed(0, leaf.der),
  }
}

/** TSTInfo in DER. `serial`: unsigned big-endian. `genTime`: whole seconds. No ordering, no extensions. */
export function encodeTstInfo(
  parts: TokenParts,
  request: TimestampRequest,
  own: { readonly policyDer: Uint8Array; readonly serial: Uint8Array; readonly genTime: Date },
): Uint8Array {
  const { nonce } = request
  const nonceDer = nonce === undefined ? [] : [typeof nonce === 'bigint' ? integer(nonce) : tlv(0x02, nonce)]
  return sequence(
    VERSION_1,
    own.policyDer,
    sequence(IMPRINT_ALGORITHM[request.hash], octetString(request.digest)),
    integer(own.serial),
    generalizedTime(own.genTime),
    ACCURACY,
    ...nonceDer,
    parts.tsa,
  )
}

/** SignedAttributes as the SET OF that is signed (RFC 5652 §5.4), sorted. */
export function encodeSignedAttributes(parts: TokenParts, tstInfoDer: Uint8Array, genTime: Date): Uint8Array {
  return setOf(
    CONTENT_TYPE_ATTRIBUTE,
    sequence(MESSAGE_DIGEST, setOf(octetString(hash('sha256', tstInfoDer, 'buffer')))),
    sequence(SIGNING_TIME, setOf(time(genTime))),
    parts.signingCertificateAttribute,
  )
}

/** TimeStampResp with status granted around a token with one signer. */
export function encodeResponse(
  parts: TokenParts,
  token: {
    readonly tstInfoDer: Uint8Array
    readonly signedAttributesDer: Uint8Array
    readonly signatureDer: Uint8Array
    readonly withCertificate: boolean
  },
): Uint8Array {
  // In the SignerInfo the same attributes are [0] IMPLICIT: the identifier octet is all that differs.
  const attributes = Uint8Array.from(token.signedAttributesDer)
  attributes[0] = 0xa0
  const signerInfo = sequence(
    VERSION_1,
    parts.issuerAndSerial,
    SHA256,
    attributes,
    ECDSA_SHA256,
    octetString(token.signatureDer),
  )
  const signedData = sequence(
    VERSION_3,
    setOf(SHA256),
    sequence(TST_INFO, contextConstructed(0, octetString(token.tstInfoDer))),
    ...(token.withCertificate ? [parts.certificates] : []),
    setOf(signerInfo),
  )
  return sequence(GRANTED, sequence(SIGNED_DATA, contextConstructed(0, signedData)))
}
