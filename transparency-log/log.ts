/**
 * A log as its faces (Rekor v1, Rekor v2, CT) and the CA see it. `Sequencer` is the implementation; the stores below
 * it speak `LogStore` (store.ts).
 */

import type { LogStore } from './store.ts'

/** The stored log as `fsck.ts` reads it. */
export type Inspection = Pick<LogStore, 'inspectHeads' | 'inspectEntries' | 'inspectKeys'>

/** An entry that was checked and is ready to be given its place. */
export interface PendingEntry {
  /** 32 bytes; two entries with the same key are one entry. */
  readonly dedupeKey: Uint8Array
  /** Called once, in the log's order, with the entry's place and time. Must be pure and quick. */
  at(index: number, timestampMs: number): EntryContent
}

export interface EntryContent {
  /** The bytes that are hashed as RFC 6962 leaf: SHA-256(0x00 ‖ leaf). */
  readonly leaf: Uint8Array
  /** What the entry bundle holds for it; at most 65 535 bytes for a tiled log. For Rekor the leaf itself. */
  readonly tileData: Uint8Array
  /** Search keys, at most 128, as text: `hash:sha256:…`, `email:…`, `key:…`, `subject:…`; stored hashed and narrow. */
  readonly searchKeys: readonly string[]
  /** Kept beside the entry, outside the tree (Rekor v1 intoto attestations; CT extra_data). */
  readonly attachment?: Uint8Array
}

export interface Added {
  readonly index: number
  readonly timestampMs: number
  /** 32 bytes. */
  readonly leafHash: Uint8Array
  /** True if the entry was in the log before this call. */
  readonly duplicate: boolean
  /**
   * True if a reply for this entry was delivered before (`markDelivered`). A duplicate that is not is a retry of a
   * request whose reply was lost, and is answered as the first would have been.
   */
  readonly delivered: boolean
}

/** A head that is durable, guarded and signed. Every size that a reader may see is one of these. */
export interface SealedHead {
  readonly size: number
  /** 32 bytes. */
  readonly rootHash: Uint8Array
  readonly timestampMs: number
  /** The signed checkpoint; empty for CT. */
  readonly note: string
  /** `SignedTreeHead.witnessNote`; missing for a head that an earlier process sealed. Not stored: it is signed again. */
  readonly witnessNote?: string
  /** DER; for CT over the RFC 6962 tree head. */
  readonly signature: Uint8Array
  /** Set on a log's last head: no other follows. */
  readonly frozenAtMs?: number
}

export interface SealedEntry {
  readonly index: number
  readonly timestampMs: number
  readonly leaf: Uint8Array
  readonly leafHash: Uint8Array
  readonly tileData: Uint8Array
  readonly attachment?: Uint8Array
  /** The entry's own signature made when it was sealed (Rekor v1: SET; CT: SCT signature), DER; empty if the log has none. */
  readonly entrySignature: Uint8Array
}

/** An entry with its proof, all of one sealed head. */
export interface ProvenEntry {
  readonly entry: SealedEntry
  readonly head: SealedHead
  /** 32-byte hashes, leaf to root. */
  readonly inclusionProof: readonly Uint8Array[]
}

export type LogErrorCode =
  /** The pool is full or the log cannot be written just now; retriable with Retry-After. */
  | 'pool_full'
  | 'unavailable'
  /** The guard refused: the log is read-only until an operator acts (docs/runbook.md). */
  | 'fork_refused'
  /** An anchor remembers more than this log has, or another history: likewise. */
  | 'anchor_ahead'
  | 'anchor_disagrees'
  /** The agent remembers less than it has signed for this log: its state is lost or was rolled back. */
  | 'guard_behind'
  /** The log's files were exchanged, deleted or written by somebody else. */
  | 'store_replaced'
  /** Another server writes this log with the same agent; may pass. */
  | 'origin_in_use'
  /** The disk failed to keep what was written: the log is read-only until the server is started again. */
  | 'disk_io_error'
  | 'frozen'
  | 'not_found'
  | 'out_of_range'
  /** The entry cannot be stored as it is, e.g. over 65 535 bytes. */
  | 'invalid_entry'

export class LogError extends Error {
  readonly code: LogErrorCode
  constructor(code: LogErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'LogError'
    this.code = code
  }
}

export interface Log {
  readonly name: string
  readonly origin: string
  /** SubjectPublicKeyInfo of the log's key, DER. */
  readonly spkiDer: Uint8Array
  /** SHA-256 of `spkiDer`, 32 bytes. */
  readonly logId: Uint8Array
  /** Resolves once the entry is durable, integrated and covered by a sealed head; also for a duplicate. Rejects with `LogError`. */
  add(entry: PendingEntry): Promise<Added>
  /** Notes that a reply for this entry reached the connection; written lazily, lost at most in a crash. */
  markDelivered(index: number): void
  /** The newest sealed head. */
  head(): SealedHead
  /** The entry with its proof in the newest sealed head; undefined if there is none. */
  prove(index: number): Promise<ProvenEntry | undefined>
  entry(index: number): Promise<SealedEntry | undefined>
  /** Consecutive entries from `start`, at most `limit`, only sealed ones. */
  entries(start: number, limit: number): Promise<readonly SealedEntry[]>
  /** The sealed entry with this leaf hash (32 bytes). */
  indexOfLeafHash(leafHash: Uint8Array): Promise<number | undefined>
  /** Rejects `out_of_range` unless index < size ≤ sealed size. */
  inclusionProof(index: number, size: number): Promise<readonly Uint8Array[]>
  /** Rejects `out_of_range` unless 0 ≤ first ≤ second ≤ sealed size. */
  consistencyProof(first: number, second: number): Promise<readonly Uint8Array[]>
  /** C2SP tlog-tiles bytes of a hash tile; width 1 to 256; undefined when the sealed tree has no such tile. */
  tile(level: number, n: number, width: number): Promise<Uint8Array | undefined>
  /** C2SP tlog-tiles entry bundle: per leaf a uint16 length and the bytes of `tileData`. */
  entryBundle(n: number, width: number): Promise<Uint8Array | undefined>
  /** Sealed indexes that carry this search key, newest first, below `beforeIndex` if given, at most `limit`. */
  lookup(searchKey: string, options: { beforeIndex?: number; limit: number }): Promise<readonly number[]>
  /** Sealed entries from `start` on, at most `limit`, with all that is kept of them: lines of `backup-row.ts`. */
  backupRows(start: number, limit: number): Promise<Uint8Array>
  /** Callers of `add` that are not answered yet. */
  pending(): number
  /** Why writes are refused just now (`LogErrorCode` and prose), or undefined. */
  fault(): { code: LogErrorCode; message: string } | undefined
  /** From now on every new entry is refused with this error, and nothing makes the log take one again but a restart. */
  halt(reason: LogError): void
  /** Everything that is stored, for `checkLog`. */
  readonly inspection: Inspection
  /** Ends the log: no new entry, a last head that is signed as such. Rejects with `LogError`; may be asked for again. */
  freeze(): Promise<void>
  /**
   * Takes no new entry (`frozen`) until the returned function is called or the process ends; resolves when all that was
   * accepted is sealed, so that the size stays. Rejects with `LogError` if it cannot be sealed now: then nothing has
   * changed. At once for a log that may not be written any more.
   */
  hold(): Promise<() => void>
  /**
   * The log's key leaves the agent: takes nothing any more and asks the agent for nothing. What is sealed is read as before;
   * the next time it is to be opened with `retiredSpkiDer`.
   */
  retire(): void
  /** Looks again after an operator has acted on what had ended the writing; resolves with the fault that is left. */
  resume(): Promise<LogError | undefined>
  /** Stops taking entries, finishes what was accepted, closes the store. */
  close(): Promise<void>
}

/** Signs what belongs to one entry when its head is sealed; given by the face that owns the log. */
export type SignEntry = (content: EntryContent, index: number, timestampMs: number) => Promise<Uint8Array>
