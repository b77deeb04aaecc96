/** Signed certificate timestamps and the TLS structures around them: RFC 6962 §3. */
import { concatBytes, octetString, DerReader } from './der.ts'
import { X509Error, readingAs } from './errors.ts'

/** What a log signs and stores for a certificate; the same shape as `SctRequest['entry']` of the agent. */
export type SctEntry =
  /** `issuerKeyHash`: SHA-256 of the issuer's SPKI, 32 bytes. `tbsDer`: without poison and SCT list. */
  | { readonly type: 'precert'; readonly issuerKeyHash: Uint8Array; readonly tbsDer: Uint8Array }
  | { readonly type: 'x509'; readonly certificateDer: Uint8Array }

/** A version 1 SCT signed with ECDSA and SHA-256. */
export interface Sct {
  /** SHA-256 of the log's SPKI, 32 bytes. */
  readonly logId: Uint8Array
  readonly timestampMs: number
  /** CtExtensions, at most 65 535 bytes; usually none. */
  readonly extensions: Uint8Array
  /** ECDSA signature, ASN.1 DER. */
  readonly signatureDer: Uint8Array
}

const VERSION_1 = 0
const SIGNATURE_TYPE_CERTIFICATE_TIMESTAMP = 0
const SIGNATURE_TYPE_TREE_HASH = 1
const LEAF_TYPE_TIMESTAMPED_ENTRY = 0
const ENTRY_TYPE_X509 = 0
const ENTRY_TYPE_PRECERT = 1
/** RFC 5246 §7.4.1.4.1. */
const HASH_SHA256 = 4
const SIGNATURE_ECDSA = 3

/** SignedCertificateTimestamp (RFC 6962 §3.2). */
export function serializeSct(sct: Sct): Uint8Array {
  if (sct.logId.length !== 32) throw malformed('log id is not 32 bytes')
  return concatBytes(
    Uint8Array.of(VERSION_1),
    sct.logId,
    uint64(sct.timestampMs),
    vector(2, sct.extensions),
    digitallySigned(sct.signatureDer),
  )
}

/** Reads one SignedCertificateTimestamp of version 1 with ECDSA and SHA-256; throws `malformed_sct`. */
export function parseSct(bytes: Uint8Array): Sct {
  const reader = new TlsReader(bytes)
  if (reader.uint(1) !== VERSION_1) throw malformed('version is not 1')
  const logId = reader.take(32)
  const timestampMs = reader.uint64()
  const extensions = reader.vector(2)
  const signatureDer = reader.digitallySigned()
  reader.end()
  return { logId, timestampMs, extensions, signatureDer }
}

/** Value of the SCT list extension: OCTET STRING around the TLS list of serialised SCTs; at least one (RFC 6962 §3.3). */
export function encodeSctList(scts: readonly Uint8Array[]): Uint8Array {
  if (scts.length === 0 || scts.some((sct) => sct.length === 0)) throw malformed('list or a part of it is empty')
  return octetString(vector(2, concatBytes(...scts.map((sct) => vector(2, sct)))))
}

/** The serialised SCTs of an SCT list extension's value, at least one; throws `malformed_sct`. */
export function decodeSctList(value: Uint8Array): Uint8Array[] {
  const list = readingAs('malformed_sct', 'sct list', () => {
    const outer = new DerReader(value)
    const content = outer.octetString()
    outer.end()
    return content
  })
  const outer = new TlsReader(list)
  const reader = new TlsReader(outer.vector(2))
  outer.end()
  const scts: Uint8Array[] = []
  while (reader.remaining > 0) scts.push(reader.vector(2))
  if (scts.length === 0 || scts.some((sct) => sct.length === 0)) throw malformed('list or a part of it is empty')
  return scts
}

/** What an SCT's signature covers: the digitally-signed struct of RFC 6962 §3.2. */
export function sctSignatureInput(entry: SctEntry, timestampMs: number, extensions: Uint8Array): Uint8Array {
  return concatBytes(
    Uint8Array.of(VERSION_1, SIGNATURE_TYPE_CERTIFICATE_TIMESTAMP),
    ...timestampedEntry(entry, timestampMs, extensions),
  )
}

/** MerkleTreeLeaf (RFC 6962 §3.4): the leaf input of a CT log. */
export function merkleTreeLeaf(entry: SctEntry, timestampMs: number, extensions: Uint8Array): Uint8Array {
  return concatBytes(
    Uint8Array.of(VERSION_1, LEAF_TYPE_TIMESTAMPED_ENTRY),
    ...timestampedEntry(entry, timestampMs, extensions),
  )
}

/** What a signed tree head's signature covers (RFC 6962 §3.5). `root`: 32 bytes. */
export function treeHeadSignatureInput(size: number, timestampMs: number, root: Uint8Array): Uint8Array {
  if (root.length !== 32) throw malformed('root hash is not 32 bytes')
  return concatBytes(Uint8Array.of(VERSION_1, SIGNATURE_TYPE_TREE_HASH), uint64(timestampMs), uint64(size), root)
}

/** TLS DigitallySigned with SHA-256 and ECDSA (RFC 5246 §4.7). */
export function digitallySigned(signatureDer: Uint8Array): Uint8Array {
  return concatBytes(Uint8Array.of(HASH_SHA256, SIGNATURE_ECDSA), vector(2, signatureDer))
}

/** The signature inside a DigitallySigned with SHA-256 and ECDSA; throws `malformed_sct`. */
export function parseDigitallySigned(bytes: Uint8Array): Uint8Array {
  const reader = new TlsReader(bytes)
  const signatureDer = reader.digitallySigned()
  reader.end()
  return signatureDer
}

function timestampedEntry(entry: SctEntry, timestampMs: number, extensions: Uint8Array): Uint8Array[] {
  const [type, ...signed] =
    entry.type === 'precert'
      ? [ENTRY_TYPE_PRECERT, checkedHash(entry.issuerKeyHash), vector(3, entry.tbsDer)]
      : [ENTRY_TYPE_X509, vector(3, entry.certificateDer)]
  return [uint64(timestampMs), Uint8Array.of(0, type), ...signed, vector(2, extensions)]
}

function checkedHash(hash: Uint8Array): Uint8Array {
  if (hash.length !== 32) throw malformed('issuer key hash is not 32 bytes')
  return hash
}

function uint64(value: number): Uint8Array {
  if (!Number.isSafeInteger(value) || value < 0) throw malformed(`${value} is not a count or a time`)
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value))
  return bytes
}

/** TLS vector: big-endian length of `lengthBytes` octets, then the content. */
function vector(lengthBytes: 2 | 3, content: Uint8Array): Uint8Array {
  const length = content.length
  if (length >= 256 ** lengthBytes) throw malformed(`${length} bytes do not fit their vector`)
  const prefix =
    lengthBytes === 2
      ? Uint8Array.of(length >> 8, length & 0xff)
      : Uint8Array.of(length >> 16, (length >> 8) & 0xff, length & 0xff)
  return concatBytes(prefix, content)
}

class TlsReader {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  get remaining(): number {
    return this.#bytes.length - this.#at
  }

  take(length: number): Uint8Array {
    if (this.remaining < length) throw malformed('structure is cut off')
    this.#at += length
    return this.#bytes.subarray(this.#at - length, this.#at)
  }

  uint(length: number): number {
    return this.take(length).reduce((value, octet) => value * 256 + octet, 0)
  }

  uint64(): number {
    const value = this.uint(8)
    if (!Number.isSafeInteger(value)) throw malformed('time is out of range')
    return value
  }

  vector(lengthBytes: 2 | 3): Uint8Array {
    return this.take(this.uint(lengthBytes))
  }

  digitallySigned(): Uint8Array {
    const hash = this.uint(1)
    const signature = this.uint(1)
    if (hash !== HASH_SHA256 || signature !== SIGNATURE_ECDSA)
      throw malformed(`signature algorithm ${hash},${signature} is not supported`)
    return this.vector(2)
  }

  end(): void {
    if (this.remaining !== 0) throw malformed(`${this.remaining} bytes too many`)
  }
}

function malformed(message: string): X509Error {
  return new X509Error('malformed_sct', `sct: ${message}`)
}
