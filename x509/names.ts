/** Distinguished names (RFC 5280 §4.1.2.4), as far as the authorities of a private Sigstore have them. */
import {
  DerReader,
  TAG,
  ia5String,
  objectIdentifier,
  printableString,
  readSequence,
  sequence,
  setOf,
  utf8String,
} from './der.ts'
import { X509Error } from './errors.ts'

/** One attribute of a name; `type` is a short name (`CN`, `O`, …) or dotted decimals. */
export interface NameAttribute {
  readonly type: string
  readonly value: string
}

const SHORT_NAMES: Readonly<Record<string, string>> = {
  CN: '2.5.4.3',
  SERIALNUMBER: '2.5.4.5',
  C: '2.5.4.6',
  L: '2.5.4.7',
  ST: '2.5.4.8',
  STREET: '2.5.4.9',
  O: '2.5.4.10',
  OU: '2.5.4.11',
  POSTALCODE: '2.5.4.17',
  DC: '0.9.2342.19200300.100.1.25',
  E: '1.2.840.113549.1.9.1',
}
const BY_OID = new Map(Object.entries(SHORT_NAMES).map(([name, oid]) => [oid, name]))

/** The attributes of a Name in DER, in order; those of a multi-valued RDN one after the other. Throws `malformed_der`. */
export function parseName(der: Uint8Array): readonly NameAttribute[] {
  const attributes: NameAttribute[] = []
  const rdns = readSequence(der)
  while (rdns.remaining > 0) {
    const rdn = rdns.set()
    if (rdn.remaining === 0) throw new X509Error('malformed_der', 'name has an empty part')
    while (rdn.remaining > 0) {
      const attribute = rdn.sequence()
      const oid = attribute.oid()
      const value = readString(attribute)
      attribute.end()
      attributes.push({ type: BY_OID.get(oid) ?? oid, value })
    }
  }
  return attributes
}

/** A Name with one attribute in each RDN, in the given order; throws `profile` for an unknown type or an empty value. */
export function encodeName(attributes: readonly NameAttribute[]): Uint8Array {
  return sequence(
    ...attributes.map(({ type, value }) => {
      const oid = SHORT_NAMES[type] ?? (/^\d+\./.test(type) ? type : undefined)
      if (oid === undefined) throw new X509Error('profile', `name attribute ${type} is not known`)
      if (value === '') throw new X509Error('profile', `name attribute ${type} is empty`)
      return setOf(sequence(objectIdentifier(oid), encodeValue(type, value)))
    }),
  )
}

/** A character string of any of the types that RFC 5280 allows in a name, as text; throws `malformed_der`. */
export function readString(reader: DerReader): string {
  const { tag, value } = reader.readAny()
  switch (tag) {
    case TAG.utf8String:
      return decodeUtf8(value)
    case TAG.printableString:
    case TAG.ia5String: {
      if (value.some((octet) => octet > 0x7f)) throw new X509Error('malformed_der', 'string is not ASCII')
      return decodeUtf8(value)
    }
    case TAG.teletexString:
      return new TextDecoder('latin1').decode(value)
    case TAG.bmpString:
      if (value.length % 2 !== 0) throw new X509Error('malformed_der', 'BMPString is cut off')
      return new TextDecoder('utf-16be').decode(value)
    default:
      throw new X509Error('malformed_der', `identifier octet 0x${tag.toString(16)} is not a string`)
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Text of UTF-8 bytes; throws `malformed_der` rather than replace what is not UTF-8. */
export function decodeUtf8(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes)
  } catch (error) {
    throw new X509Error('malformed_der', 'string is not UTF-8', { cause: error })
  }
}

/** RFC 5280 appendix A: country and serial number are PrintableString, domain component and e-mail IA5String. */
function encodeValue(type: string, value: string): Uint8Array {
  if (type === 'C' || type === 'SERIALNUMBER') return printableString(value)
  if (type === 'DC' || type === 'E') return ia5String(value)
  return utf8String(value)
}
