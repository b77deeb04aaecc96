/**
 * What the sequencer needs of a database. One `LogStore` is bound to one log; every implementation passes
 * `store.contract-suite.ts`.
 *
 * **Durable.** When `commit` has answered `committed`, and when `seal` has resolved, what they wrote survives the loss
 * of power. `markDelivered` is the only lazy write: it may be lost in a crash.
 *
 * **Atomic.** `commit` and `seal` happen whole or not at all, also when the process is killed within them. When one
 * rejects, it is unknown which: the caller asks `head` again.
 *
 * **Compare-and-swap.** `commit` writes only if the stored head equals `expected` in size and root, `seal` only if the
 * head to seal is the committed one; otherwise they answer `conflict` and change nothing. So two sequencers can never
 * both extend the same head, whatever else protects the store.
 *
 * **Owned.** Only the sequencer calls `commit` and `seal`, one at a time. Reads may run at any time and see committed
 * entries, sealed or not: keeping unsealed ones from readers is the sequencer's work, which compares with the sealed size.
 *
 * **A thief** of the store reads what the log publishes anyway, and the hashes of its search keys; no key and no secret
 * lies here. Someone who can write to it can lose entries or stop the log, but cannot get a second history signed: the
 * agent's guard remembers the last sealed head outside the store and asks for a proof from it.
 */

/** A head that is durable with its leaves, but neither guarded nor signed. */
export interface CommittedHead {
  readonly size: number
  /** 32 bytes. */
  readonly rootHash: Uint8Array
  /** Of the newest batch, never before that of an earlier one. */
  readonly timestampMs: number
}

/** What was stored of the newest seal. */
export interface StoredSeal {
  readonly size: number
  readonly rootHash: Uint8Array
  readonly timestampMs: number
  readonly note: string
  readonly signature: Uint8Array
  /** Set with the last head of a log: after it the store takes no batch and no other seal. */
  readonly frozenAtMs?: number
}

/** An entry on its way into the store; its index is `expected.size` plus its place in the batch. */
export interface NewEntry {
  /** 32 bytes. */
  readonly dedupeKey: Uint8Array
  /** 32 bytes. */
  readonly leafHash: Uint8Array
  readonly leaf: Uint8Array
  readonly tileData: Uint8Array
  readonly searchKeys: readonly string[]
  readonly attachment?: Uint8Array
  /** Only for an entry that is restored: what the store had for it. */
  readonly kept?: KeptOfEntry
}

/** What a store keeps of an entry beside its content, as a backup gives it back. */
export interface KeptOfEntry {
  /** Its own time: a restored batch is made of many. */
  readonly timestampMs: number
  /** In place of `searchKeys`: SHA-256 of each, joined. */
  readonly searchHashes?: Uint8Array
  readonly entrySignature?: Uint8Array
  readonly delivered?: boolean
}

/** Entries that become the log's newest, with the head that they lead to. */
export interface Batch {
  /** All entries of a batch share its time. */
  readonly head: CommittedHead
  readonly entries: readonly NewEntry[]
}

export interface StoredEntry {
  readonly index: number
  readonly timestampMs: number
  readonly leaf: Uint8Array
  readonly tileData: Uint8Array
  readonly attachment?: Uint8Array
  /** Empty before the entry is sealed, and for logs without entry signatures. */
  readonly entrySignature: Uint8Array
}

/** Where a stored entry is. */
export interface Place {
  readonly index: number
  readonly timestampMs: number
  readonly delivered: boolean
}

export interface LogStore {
  /** The committed head (size 0 for a new log) and the newest seal, if there was one. */
  head(): Promise<{ readonly committed: CommittedHead; readonly sealed?: StoredSeal }>
  /** Appends a batch; see the head of this file. */
  commit(batch: Batch, expected: CommittedHead): Promise<'committed' | 'conflict'>
  /**
   * Stores the signatures of a committed head and of entries. A head of the same size as the last sealed one replaces
   * it (a fresh time).
   */
  seal(
    seal: StoredSeal,
    entrySignatures: readonly { readonly index: number; readonly signature: Uint8Array }[],
  ): Promise<'sealed' | 'conflict'>
  /** Where the entries with these dedupe keys (32 bytes each) are, in their order. */
  placesOf(dedupeKeys: readonly Uint8Array[]): Promise<readonly (Place | undefined)[]>
  /** Consecutive entries from `start`, at most `limit`. */
  entries(start: number, limit: number): Promise<readonly StoredEntry[]>
  /** Consecutive leaf hashes from `start`, a multiple of 256, joined; at least one unless the log ends there. For loading. */
  leafHashes(start: number): Promise<Uint8Array>
  /** The `tileData` of [start, start + count), or fewer if the log ends before. */
  tileData(start: number, count: number): Promise<readonly Uint8Array[]>
  /** The oldest entry with this leaf hash (32 bytes). */
  indexOfLeafHash(leafHash: Uint8Array): Promise<number | undefined>
  /** Indexes below `beforeIndex` whose entry carries exactly this search key, newest first, at most `limit`. */
  lookup(searchKey: string, beforeIndex: number, limit: number): Promise<readonly number[]>
  /** Consecutive entries from `start`, at most `limit`, with all that is kept of them: lines of `backup-row.ts`. */
  backupRows(start: number, limit: number): Promise<Uint8Array>
  /** Heads, identity and the ends of the tables, as they are stored: for `fsck.ts`, which believes none of it. */
  inspectHeads(): Promise<InspectedHeads>
  /** Consecutive entries from `start`, at most `limit`, with everything that is stored of them and where it is missing. */
  inspectEntries(start: number, limit: number): Promise<readonly InspectedEntry[]>
  /** Rows of a key table after `after` in its order, at most `limit`; those that no entry accounts for are named. */
  inspectKeys(table: KeyTable, after: KeyCursor | undefined, limit: number): Promise<InspectedKeys>
  /** Notes that replies for these entries were delivered; idempotent. */
  markDelivered(indexes: readonly number[]): Promise<void>
  /**
   * Rejects `replaced` if the store's files are no longer those that were opened: deleted, moved over or written by
   * somebody else. `commit`, `seal` and `markDelivered` look too, before they write and once the write is durable.
   */
  check(): Promise<void>
  /**
   * Makes durable what `head` shows and an earlier owner may not have: after a failed fsync the kernel's cache holds
   * what the disk does not. Called before the first seal of an owner.
   */
  settle(): Promise<void>
  /** Ends all work and releases the store to another owner. */
  close(): Promise<void>
}

/** The tables that lead from a key to entries. */
export const KEY_TABLES = ['by_dedupe_key', 'by_leaf_hash', 'by_search_key'] as const
export type KeyTable = (typeof KEY_TABLES)[number]

export interface InspectedHeads {
  readonly identity: LogIdentity
  readonly committed: CommittedHead
  readonly sealed?: StoredSeal
  /** Highest index in each table of entries; -1 for an empty one. */
  readonly highest: Readonly<Record<'entry' | 'attachment' | 'entry_signature' | 'delivered', number>>
  /** Leaf hashes that are stored beyond the committed size. */
  readonly surplusHashes: number
}

export interface InspectedEntry extends StoredEntry {
  readonly dedupeKey: Uint8Array
  /** SHA-256 of each search key, joined. */
  readonly searchHashes: Uint8Array
  /** Of the stored row of leaf hashes; empty if it ends before. */
  readonly leafHash: Uint8Array
  /** Key tables that do not lead to it as they must. */
  readonly unindexed: readonly KeyTable[]
}

/** A place in a key table; `prefix` is a signed 64-bit number in decimal. */
export interface KeyCursor {
  readonly prefix: string
  readonly index: number
}

export interface InspectedKeys {
  readonly rows: number
  /** Indexes that a row names though their entry has no such key, or is not there. */
  readonly strays: readonly number[]
  /** Missing at the end of the table. */
  readonly next?: KeyCursor
}

export type StoreErrorCode =
  /** Another process, or another log of this one, has the store open. */
  | 'in_use'
  /** Written by a newer version of this program. */
  | 'newer_schema'
  /** Holds something else: another log, or no log at all. */
  | 'other_log'
  /** What is stored contradicts itself. */
  | 'damaged'
  /** The disk failed to keep what was written; nothing more is written until the store is opened again. */
  | 'disk_io_error'
  /** Its files were exchanged, deleted or written by somebody else while it was open. */
  | 'replaced'
  /** The disk is full, an input or output failed, the worker died; may pass. */
  | 'failed'

/** A failure of the store; only `failed` may pass by itself. */
export class StoreError extends Error {
  readonly code: StoreErrorCode
  constructor(code: StoreErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'StoreError'
    this.code = code
  }
}

/** What a store is bound to when it is made, and compared with when it is opened again. */
export interface LogIdentity {
  readonly kind: string
  readonly origin: string
  /** SubjectPublicKeyInfo of the log's key, DER. */
  readonly spkiDer: Uint8Array
}
