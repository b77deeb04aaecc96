import { encodeEntryBundle, type MerkleTree, TILE_WIDTH } from '#tlog'
import { LogError, type ProvenEntry, type SealedEntry, type SealedHead } from './log.ts'
import type { LogStore, StoredEntry } from './store.ts'

/** Entries just sealed are the ones asked for next (each reply to an upload holds its entry); both bounds keep it small. */
const RECENT_ENTRIES = 1024
const RECENT_BYTES = 16 * 1024 * 1024

/** Most entries or indexes that one call returns. */
const READ_LIMIT = 1024

/**
 * The reading half of a log: everything at or below the newest sealed head, nothing above it. The tree and the store
 * may hold more, committed and not yet sealed; each method compares with the sealed size before it looks.
 */
export class SealedLog {
  readonly #store: LogStore
  readonly #tree: MerkleTree
  #head: SealedHead | undefined
  readonly #recent = new Map<number, SealedEntry>()
  #recentBytes = 0

  constructor(store: LogStore, tree: MerkleTree) {
    this.#store = store
    this.#tree = tree
  }

  /** Shows a new head; called once its seal is stored. `entries` are kept at hand for the replies about to be written. */
  publish(head: SealedHead, entries: readonly SealedEntry[]): void {
    this.#head = head
    for (const entry of entries) {
      this.#recent.set(entry.index, entry)
      this.#recentBytes += sizeOf(entry)
    }
    for (const [index, entry] of this.#recent) {
      if (this.#recent.size <= RECENT_ENTRIES && this.#recentBytes <= RECENT_BYTES) break
      this.#recent.delete(index)
      this.#recentBytes -= sizeOf(entry)
    }
  }

  /** The newest sealed head; undefined only while a new log is being opened. */
  get newest(): SealedHead | undefined {
    return this.#head
  }

  head(): SealedHead {
    if (this.#head === undefined) throw new LogError('unavailable', 'the log has no signed head yet')
    return this.#head
  }

  async prove(index: number): Promise<ProvenEntry | undefined> {
    // Head and proof are of one moment, whatever is sealed while the entry is read.
    const head = this.head()
    if (!isIndex(index, head.size)) return undefined
    const inclusionProof = this.#tree.inclusionProof(index, head.size)
    const entry = await this.entry(index)
    return entry === undefined ? undefined : { entry, head, inclusionProof }
  }

  async entry(index: number): Promise<SealedEntry | undefined> {
    if (!isIndex(index, this.head().size)) return undefined
    return this.#recent.get(index) ?? (await this.entries(index, 1))[0]
  }

  async entries(start: number, limit: number): Promise<readonly SealedEntry[]> {
    const { size } = this.head()
    if (!isIndex(start, size)) return []
    const stored = await this.#store.entries(start, Math.min(clampLimit(limit), size - start))
    return stored.map((entry) => this.#sealed(entry))
  }

  async indexOfLeafHash(leafHash: Uint8Array): Promise<number | undefined> {
    const { size } = this.head()
    if (leafHash.length !== 32) return undefined
    const index = await this.#store.indexOfLeafHash(leafHash)
    return index !== undefined && index < size ? index : undefined
  }

  inclusionProof(index: number, size: number): readonly Uint8Array[] {
    const sealed = this.head().size
    if (!isIndex(size - 1, sealed) || !isIndex(index, size)) {
      throw new LogError(
        'out_of_range',
        `no proof of entry ${index} in a tree of ${size}: the log has ${sealed} entries`,
      )
    }
    return this.#tree.inclusionProof(index, size)
  }

  consistencyProof(first: number, second: number): readonly Uint8Array[] {
    const sealed = this.head().size
    if (!isIndex(second, sealed + 1) || !isIndex(first, second + 1)) {
      throw new LogError('out_of_range', `no proof from size ${first} to ${second}: the log has ${sealed} entries`)
    }
    return this.#tree.consistencyProof(first, second)
  }

  tile(level: number, n: number, width: number): Uint8Array | undefined {
    return this.#tree.tile(level, n, width, this.head().size)
  }

  async entryBundle(n: number, width: number): Promise<Uint8Array | undefined> {
    const { size } = this.head()
    if (!isIndex(n, size) || !isIndex(width - 1, TILE_WIDTH) || n * TILE_WIDTH + width > size) return undefined
    return encodeEntryBundle(await this.#store.tileData(n * TILE_WIDTH, width))
  }

  async lookup(searchKey: string, options: { beforeIndex?: number; limit: number }): Promise<readonly number[]> {
    const { size } = this.head()
    const before = Math.min(options.beforeIndex ?? size, size)
    return before > 0 ? this.#store.lookup(searchKey, before, clampLimit(options.limit)) : []
  }

  async backupRows(start: number, limit: number): Promise<Uint8Array> {
    const { size } = this.head()
    if (!isIndex(start, size)) return new Uint8Array(0)
    return await this.#store.backupRows(start, Math.min(clampLimit(limit), size - start))
  }

  #sealed(entry: StoredEntry): SealedEntry {
    return { ...entry, leafHash: this.#tree.leaf(entry.index) }
  }
}

function isIndex(index: number, bound: number): boolean {
  return Number.isSafeInteger(index) && index >= 0 && index < bound
}

function clampLimit(limit: number): number {
  return Math.max(0, Math.min(Math.trunc(limit), READ_LIMIT))
}

function sizeOf(entry: SealedEntry): number {
  return entry.leaf.length + entry.tileData.length + (entry.attachment?.length ?? 0)
}
