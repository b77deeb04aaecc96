/** Reads certificates (RFC 5280 §4.1) strictly; needs nothing of Node, so that the browser's verifier runs the same code. */
import {
  DerReader,
  contextConstructed,
  decodeOid,
  equalBytes,
  readSequence,
  sequence,
  objectIdentifier,
} from './der.ts'
import { X509Error, readingAs } from './errors.ts'
import { decodeUtf8, readString } from './names.ts'
import { OID } from './oids.ts'
import { parseSpki, type PublicKey } from './spki.ts'

export interface Extension {
  readonly oid: string
  readonly critical: boolean
  /** Content of the extnValue OCTET STRING. */
  readonly value: Uint8Array
}

/** One name of a subject alternative name. An `otherName` has its type in `oid`; an `ip` is in its usual text form. */
export interface SubjectAltName {
  readonly type: 'email' | 'uri' | 'dns' | 'ip' | 'otherName'
  readonly value: string
  readonly oid?: string
}

/** Names of RFC 5280 §4.2.1.3 by bit number. */
const KEY_USAGES = [
  'digitalSignature',
  'nonRepudiation',
  'keyEncipherment',
  'dataEncipherment',
  'keyAgreement',
  'keyCertSign',
  'cRLSign',
  'encipherOnly',
  'decipherOnly',
] as const
export type KeyUsage = (typeof KEY_USAGES)[number]

export interface ParsedTbsCertificate {
  readonly tbsDer: Uint8Array
  readonly version: 1 | 2 | 3
  /** Content octets of the INTEGER: big-endian, a leading zero if the next bit is set. */
  readonly serial: Uint8Array
  readonly signatureAlgorithmOid: string
  readonly issuerDer: Uint8Array
  readonly subjectDer: Uint8Array
  readonly notBefore: Date
  readonly notAfter: Date
  readonly publicKey: PublicKey
  readonly extensions: readonly Extension[]
  /** The extension with this object identifier; there is never more than one. */
  extension(oid: string): Extension | undefined
  /** Empty without the extension. Kinds of names other than those of `SubjectAltName` are left out. */
  readonly subjectAltNames: readonly SubjectAltName[]
  readonly basicConstraints: { readonly ca: boolean; readonly pathLength?: number } | undefined
  /** Undefined without the extension. */
  readonly keyUsage: ReadonlySet<KeyUsage> | undefined
  readonly extKeyUsage: readonly string[] | undefined
  /** Subject key identifier. */
  readonly ski: Uint8Array | undefined
  /** Key identifier of the authority key identifier. */
  readonly aki: Uint8Array | undefined
}

export interface ParsedCertificate extends ParsedTbsCertificate {
  readonly der: Uint8Array
  /** ECDSA: ASN.1 DER. */
  readonly signature: Uint8Array
}

/** Parses a certificate; throws `malformed_certificate`, or `unsupported_key` for a key of an unknown kind. */
export function parseCertificate(der: Uint8Array): ParsedCertificate {
  return readingAs('malformed_certificate', 'certificate', () => {
    const reader = readSequence(der)
    const tbsDer = reader.raw()
    const algorithm = reader.raw()
    const signature = reader.bitOctets()
    reader.end()
    const { parsed, algorithmDer } = parseTbs(tbsDer)
    if (!equalBytes(algorithm, algorithmDer)) {
      throw new X509Error('malformed_certificate', 'certificate: signature algorithm inside and outside differ')
    }
    return { ...parsed, der, signature }
  })
}

/** Parses a TBSCertificate, as sent for signing; throws as `parseCertificate`. */
export function parseTbsCertificate(tbsDer: Uint8Array): ParsedTbsCertificate {
  return readingAs('malformed_certificate', 'certificate', () => parseTbs(tbsDer).parsed)
}

function parseTbs(tbsDer: Uint8Array): { parsed: ParsedTbsCertificate; algorithmDer: Uint8Array } {
  const reader = readSequence(tbsDer)
  const version = readVersion(reader)
  const serial = reader.integerBytes()
  const algorithmDer = reader.raw()
  const signatureAlgorithmOid = readSequence(algorithmDer).oid()
  const issuerDer = readName(reader)
  const validity = reader.sequence()
  const notBefore = validity.time()
  const notAfter = validity.time()
  validity.end()
  const subjectDer = readName(reader)
  const publicKey = parseSpki(reader.raw())
  // issuerUniqueID and subjectUniqueID: obsolete, and nothing of ours writes or trusts them.
  reader.optional(0x81)
  reader.optional(0x82)
  const extensions = readExtensions(reader, version)
  reader.end()
  const byOid = new Map(extensions.map((extension) => [extension.oid, extension]))
  if (byOid.size !== extensions.length) throw malformed('an extension occurs twice')
  const parsed: ParsedTbsCertificate = {
    tbsDer,
    version,
    serial,
    signatureAlgorithmOid,
    issuerDer,
    subjectDer,
    notBefore,
    notAfter,
    publicKey,
    extensions,
    extension: (oid) => byOid.get(oid),
    subjectAltNames: readAltNames(byOid.get(OID.subjectAltName)),
    basicConstraints: readBasicConstraints(byOid.get(OID.basicConstraints)),
    keyUsage: readKeyUsage(byOid.get(OID.keyUsage)),
    extKeyUsage: readExtKeyUsage(byOid.get(OID.extKeyUsage)),
    ski: readSki(byOid.get(OID.subjectKeyIdentifier)),
    aki: readAki(byOid.get(OID.authorityKeyIdentifier)),
  }
  return { parsed, algorithmDer }
}

/**
 * The TBSCertificate without the extension, every other byte as it was: what RFC 6962 §3.2 has a log sign. The same
 * bytes if there is none; the whole extensions field goes with its last extension. Throws `malformed_certificate`.
 */
export function withoutExtension(tbsDer: Uint8Array, oid: string): Uint8Array {
  return replaceExtension(tbsDer, oid)
}

/** The same with another extension, in DER, in its place. */
export function replaceExtension(tbsDer: Uint8Array, oid: string, replacement?: Uint8Array): Uint8Array {
  const unwanted = objectIdentifier(oid)
  return readingAs('malformed_certificate', 'certificate', () => {
    const reader = readSequence(tbsDer)
    const fields: Uint8Array[] = []
    while (reader.remaining > 0) {
      const { tag, value, raw } = reader.readAny()
      if (tag !== 0xa3) {
        fields.push(raw)
        continue
      }
      const list = readSequence(value)
      const kept: Uint8Array[] = []
      while (list.remaining > 0) {
        const extension = list.readAny()
        const type = new DerReader(extension.value).raw()
        if (!equalBytes(type, unwanted)) kept.push(extension.raw)
        else if (replacement !== undefined) kept.push(replacement)
      }
      if (kept.length > 0) fields.push(contextConstructed(3, sequence(...kept)))
    }
    return sequence(...fields)
  })
}

function readVersion(reader: DerReader): 1 | 2 | 3 {
  const explicit = reader.optional(0xa0)
  if (explicit === undefined) return 1
  const inner = reader.inside(explicit)
  const version = inner.integer()
  inner.end()
  // DER leaves a default out, so version 1 is never written.
  if (version === 1n) return 2
  if (version === 2n) return 3
  throw malformed('version is not 2 or 3')
}

/** A Name as it stands; its inside is only checked to be a SEQUENCE (`parseName` reads it when it is asked for). */
function readName(reader: DerReader): Uint8Array {
  if (reader.peekTag() !== 0x30) throw malformed('name is not a sequence')
  return reader.raw()
}

function readExtensions(reader: DerReader, version: number): Extension[] {
  const explicit = reader.optional(0xa3)
  if (explicit === undefined) return []
  if (version !== 3) throw malformed('extensions in a certificate that is not version 3')
  const outer = reader.inside(explicit)
  const list = outer.sequence()
  outer.end()
  const extensions: Extension[] = []
  while (list.remaining > 0) {
    const extension = list.sequence()
    const oid = extension.oid()
    let critical = false
    if (extension.peekTag() === 0x01) {
      critical = extension.boolean()
      if (!critical) throw malformed('default value of critical is written out')
    }
    const value = extension.octetString()
    extension.end()
    extensions.push({ oid, critical, value })
  }
  if (extensions.length === 0) throw malformed('list of extensions is empty')
  return extensions
}

function readAltNames(extension: Extension | undefined): SubjectAltName[] {
  if (extension === undefined) return []
  const reader = readSequence(extension.value)
  if (reader.remaining === 0) throw malformed('subject alternative name is empty')
  const names: SubjectAltName[] = []
  while (reader.remaining > 0) {
    const { tag, value } = reader.readAny()
    if (tag === 0x81) names.push({ type: 'email', value: asciiText(value) })
    else if (tag === 0x82) names.push({ type: 'dns', value: asciiText(value) })
    else if (tag === 0x86) names.push({ type: 'uri', value: asciiText(value) })
    else if (tag === 0x87) names.push({ type: 'ip', value: ipText(value) })
    else if (tag === 0xa0) names.push(readOtherName(reader.inside(value)))
  }
  return names
}

/** OtherName ::= SEQUENCE { type-id, value [0] EXPLICIT ANY }, implicitly tagged. */
function readOtherName(reader: DerReader): SubjectAltName {
  const oid = reader.oid()
  const explicit = reader.enter(0xa0)
  reader.end()
  const value = readString(explicit)
  explicit.end()
  return { type: 'otherName', oid, value }
}

function readBasicConstraints(extension: Extension | undefined): { ca: boolean; pathLength?: number } | undefined {
  if (extension === undefined) return undefined
  const reader = readSequence(extension.value)
  const ca = reader.peekTag() === 0x01
  if (ca && !reader.boolean()) throw malformed('default value of a CA flag is written out')
  if (!ca && reader.remaining !== 0) throw malformed('basic constraints of a certificate that is no CA are not empty')
  const pathLength = reader.remaining > 0 ? reader.smallInteger() : undefined
  reader.end()
  return pathLength === undefined ? { ca } : { ca, pathLength }
}

function readKeyUsage(extension: Extension | undefined): ReadonlySet<KeyUsage> | undefined {
  if (extension === undefined) return undefined
  const reader = new DerReader(extension.value)
  const { bytes } = reader.bitString()
  reader.end()
  return new Set(KEY_USAGES.filter((_, bit) => ((bytes[bit >> 3] ?? 0) & (0x80 >> (bit & 7))) !== 0))
}

function readExtKeyUsage(extension: Extension | undefined): string[] | undefined {
  if (extension === undefined) return undefined
  const reader = readSequence(extension.value)
  const usages: string[] = []
  while (reader.remaining > 0) usages.push(decodeOid(reader.read(0x06)))
  if (usages.length === 0) throw malformed('extended key usage is empty')
  return usages
}

function readSki(extension: Extension | undefined): Uint8Array | undefined {
  if (extension === undefined) return undefined
  const reader = new DerReader(extension.value)
  const ski = reader.octetString()
  reader.end()
  return ski
}

function readAki(extension: Extension | undefined): Uint8Array | undefined {
  if (extension === undefined) return undefined
  const reader = readSequence(extension.value)
  const keyId = reader.optional(0x80)
  reader.optional(0xa1)
  reader.optional(0x82)
  reader.end()
  return keyId
}

function asciiText(bytes: Uint8Array): string {
  if (bytes.some((octet) => octet > 0x7f)) throw malformed('subject alternative name is not ASCII')
  return decodeUtf8(bytes)
}

function ipText(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join('.')
  if (bytes.length !== 16) throw malformed('ip address is not 4 or 16 bytes')
  const groups = Array.from({ length: 8 }, (_, i) =>
    (((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0)).toString(16),
  )
  return groups.join(':')
}

function malformed(message: string): X509Error {
  return new X509Error('malformed_certificate', `certificate: ${message}`)
}
