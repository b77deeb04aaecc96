/**
 * Reads a TimeStampResp with a general ASN.1 library, not with the reader whose writer made it: an encoding mistake
 * that both of our halves share would otherwise be seen first by the clients, in tokens that nobody can verify.
 */
import * as asn1js from 'asn1js'
import { TimestampError } from './error.ts'
import {
  OID_CONTENT_TYPE,
  OID_MESSAGE_DIGEST,
  OID_SIGNED_DATA,
  OID_SIGNING_CERTIFICATE_V2,
  OID_SIGNING_TIME,
  OID_TST_INFO,
} from './token.ts'

/** What a timestamp response says; nothing of it is verified. */
export interface InspectedTimestamp {
  readonly status: number
  readonly policyOid: string
  readonly hashOid: string
  readonly digest: Uint8Array
  readonly serial: Uint8Array
  readonly genTime: Date
  /** Content octets of the INTEGER. */
  readonly nonce: Uint8Array | undefined
  /** TSTInfo, DER. */
  readonly tstInfoDer: Uint8Array
  /** As SET OF, DER: what the signature covers. */
  readonly signedAttributesDer: Uint8Array
  readonly messageDigest: Uint8Array
  readonly signingTime: Date
  /** SHA-256 of the signer's certificate by ESSCertIDv2. */
  readonly certificateHash: Uint8Array
  readonly signatureDer: Uint8Array
  /** Certificates in the token, DER. */
  readonly certificates: readonly Uint8Array[]
}

/** Throws `TimestampError` `internal` if the bytes are not a granted response with one signer. */
export function inspectTimestampResponse(der: Uint8Array): InspectedTimestamp {
  const [statusInfo, contentInfo] = partsOf(decode(der))
  const [signedDataOid, explicitSignedData] = partsOf(contentInfo)
  if (oidOf(signedDataOid) !== OID_SIGNED_DATA) throw unreadable('content is not signed data')
  const [, , encapsulated, ...rest] = partsOf(partsOf(explicitSignedData)[0])
  const [contentOid, explicitContent] = partsOf(encapsulated)
  if (oidOf(contentOid) !== OID_TST_INFO) throw unreadable('signed content is not TSTInfo')
  const tstInfoDer = octetsOf(partsOf(explicitContent)[0])
  const [signerInfo, ...otherSigners] = partsOf(rest.at(-1))
  if (otherSigners.length > 0) throw unreadable('more than one signer')
  const [, , , attributeSet, , signature] = partsOf(signerInfo)
  const signedAttributesDer = bytesOf(attributeSet)
  signedAttributesDer[0] = 0x31
  return {
    status: numberOf(partsOf(statusInfo)[0]),
    ...inspectTstInfo(tstInfoDer),
    tstInfoDer,
    signedAttributesDer,
    ...inspectAttributes(attributeSet),
    signatureDer: octetsOf(signature),
    certificates: rest.length === 2 ? partsOf(rest[0]).map(bytesOf) : [],
  }
}

function inspectTstInfo(
  der: Uint8Array,
): Pick<InspectedTimestamp, 'policyOid' | 'hashOid' | 'digest' | 'serial' | 'genTime' | 'nonce'> {
  const [, policy, imprint, serial, genTime, ...optional] = partsOf(decode(der))
  const [algorithm, digest] = partsOf(imprint)
  if (!(genTime instanceof asn1js.GeneralizedTime)) throw unreadable('genTime is missing')
  const nonce = optional.find((part) => part instanceof asn1js.Integer)
  return {
    policyOid: oidOf(policy),
    hashOid: oidOf(partsOf(algorithm)[0]),
    digest: octetsOf(digest),
    serial: integerOctets(serial),
    genTime: genTime.toDate(),
    nonce: nonce === undefined ? undefined : integerOctets(nonce),
  }
}

function inspectAttributes(
  attributeSet: asn1js.AsnType | undefined,
): Pick<InspectedTimestamp, 'messageDigest' | 'signingTime' | 'certificateHash'> {
  const values = new Map<string, asn1js.AsnType | undefined>()
  for (const attribute of partsOf(attributeSet)) {
    const [type, set] = partsOf(attribute)
    values.set(oidOf(type), partsOf(set)[0])
  }
  if (oidOf(values.get(OID_CONTENT_TYPE)) !== OID_TST_INFO) throw unreadable('content type attribute is wrong')
  const signingTime = values.get(OID_SIGNING_TIME)
  if (!(signingTime instanceof asn1js.UTCTime)) throw unreadable('signing time is missing')
  const certificateId = partsOf(partsOf(values.get(OID_SIGNING_CERTIFICATE_V2))[0])[0]
  return {
    messageDigest: octetsOf(values.get(OID_MESSAGE_DIGEST)),
    signingTime: signingTime.toDate(),
    certificateHash: octetsOf(partsOf(certificateId)[0]),
  }
}

function decode(der: Uint8Array): asn1js.AsnType {
  const { offset, result } = asn1js.fromBER(Uint8Array.from(der).buffer)
  if (offset !== der.length) throw unreadable('not one ASN.1 value')
  return result
}

function partsOf(value: asn1js.AsnType | undefined): asn1js.AsnType[] {
  // Constructed alone covers the tagged types; asn1js derives SEQUENCE and SET from it.
  if (!(value instanceof asn1js.Constructed)) throw unreadable('a constructed value is missing')
  return value.valueBlock.value
}

function octetsOf(value: asn1js.AsnType | undefined): Uint8Array {
  if (!(value instanceof asn1js.OctetString)) throw unreadable('an octet string is missing')
  return new Uint8Array(value.getValue())
}

function integerOctets(value: asn1js.AsnType | undefined): Uint8Array {
  if (!(value instanceof asn1js.Integer)) throw unreadable('an integer is missing')
  return Uint8Array.from(value.valueBlock.valueHexView)
}

function numberOf(value: asn1js.AsnType | undefined): number {
  return Number(BigInt(`0x${Buffer.from(integerOctets(value)).toString('hex')}`))
}

function oidOf(value: asn1js.AsnType | undefined): string {
  if (!(value instanceof asn1js.ObjectIdentifier)) throw unreadable('an object identifier is missing')
  return value.getValue()
}

function bytesOf(value: asn1js.AsnType | undefined): Uint8Array {
  if (value === undefined) throw unreadable('a value is missing')
  return new Uint8Array(value.toBER())
}

function unreadable(message: string): TimestampError {
  return new TimestampError('internal', `timestamp response: ${message}`)
}
