/** What the checks make of a submitted entry, in either version: plain data, so that a worker can hand it over. */
import { leafHash } from '#tlog'
import type { PendingEntry } from '../log.ts'

/** An entry whose structure, algorithms and signatures hold. */
export interface CheckedEntry {
  readonly kind: string
  readonly version: string
  /** Canonical body: RFC 8785 JSON, the leaf of the log. */
  readonly leaf: Uint8Array
  /** 32 bytes: SHA-256(0x00 ‖ leaf). */
  readonly leafHash: Uint8Array
  readonly searchKeys: readonly string[]
  /** in-toto statement of a Rekor v1 intoto entry, at most `MAX_ATTESTATION_BYTES`. */
  readonly attachment?: Uint8Array
}

/** Puts together what the checks of a kind found. */
export function checkedEntry(entry: Omit<CheckedEntry, 'leafHash'>): CheckedEntry {
  return { ...entry, leafHash: leafHash(entry.leaf) }
}

/** The entry as the sequencer takes it: identical leaves are one entry (Trillian's rule and Tessera's). */
export function pendingEntry(entry: CheckedEntry): PendingEntry {
  const content = {
    leaf: entry.leaf,
    tileData: entry.leaf,
    searchKeys: entry.searchKeys,
    ...(entry.attachment === undefined ? {} : { attachment: entry.attachment }),
  }
  return { dedupeKey: entry.leafHash, at: () => content }
}
