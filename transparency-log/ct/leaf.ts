import type { SctEntry } from '#x509'
import { LogError } from '../log.ts'

/** What a MerkleTreeLeaf of this log says. */
export interface Leaf {
  readonly entry: SctEntry
  readonly timestampMs: number
}

/**
 * Reads a MerkleTreeLeaf (RFC 6962 §3.4) as this log writes it: version 1, timestamped entry, no extensions. Throws
 * `invalid_entry` for anything else.
 */
export function parseLeaf(leaf: Uint8Array): Leaf {
  const bytes = Buffer.from(leaf.buffer, leaf.byteOffset, leaf.byteLength)
  // Version and leaf type, time, entry type: 12 bytes; the shortest rest is an empty vector and no extensions.
  if (bytes.length < 17 || bytes.readUInt16BE(0) !== 0) throw malformed()
  const timestampMs = Number(bytes.readBigUInt64BE(2))
  const type = bytes.readUInt16BE(10)
  if (type > 1 || !Number.isSafeInteger(timestampMs)) throw malformed()
  const start = type === 1 ? 12 + 32 : 12
  if (bytes.length < start + 5) throw malformed()
  const length = bytes.readUIntBE(start, 3)
  const end = start + 3 + length
  if (bytes.length !== end + 2 || bytes.readUInt16BE(end) !== 0) throw malformed()
  const signed = new Uint8Array(leaf.subarray(start + 3, end))
  const entry: SctEntry =
    type === 1
      ? { type: 'precert', issuerKeyHash: new Uint8Array(leaf.subarray(12, 44)), tbsDer: signed }
      : { type: 'x509', certificateDer: signed }
  return { entry, timestampMs }
}

function malformed(): LogError {
  return new LogError('invalid_entry', 'not a leaf of this log')
}
