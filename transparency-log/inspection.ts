/** Reads a log's database for `fsck.ts`, on the thread that owns it, a little at a time: it keeps serving meanwhile. */
import type Database from 'better-sqlite3'
import type {
  CommittedHead,
  InspectedEntry,
  InspectedHeads,
  InspectedKeys,
  KeyCursor,
  KeyTable,
  StoredSeal,
} from './store.ts'

interface EntryRow {
  idx: number
  timestamp_ms: number
  leaf: Uint8Array | null
  tile_data: Uint8Array
  dedupe_key: Uint8Array
  search_hashes: Uint8Array
  bytes: Uint8Array | null
  signature: Uint8Array | null
}

interface Heads {
  readonly head: () => { readonly committed: CommittedHead; readonly sealed?: StoredSeal }
  readonly leafHashAt: (index: number) => Uint8Array | undefined
  readonly prefixOf: (hashBytes: Uint8Array) => bigint
}

/** Leaf hashes per row, as `sqlite-worker.ts` stores them. */
const HASHES_PER_ROW = 256

/** The `inspect…` methods of `LogStore`. */
export function inspectionOf(db: Database.Database, { head, leafHashAt, prefixOf }: Heads) {
  const readIdentity = db.prepare<[], { kind: string; origin: string; spki: Uint8Array }>(
    'SELECT kind, origin, spki FROM identity',
  )
  const highest = (table: string) => db.prepare<[], number | null>(`SELECT max(idx) FROM ${table}`).pluck().get() ?? -1
  const lastHashes = db.prepare<[], { n: number; bytes: number }>(
    'SELECT n, length(hashes) AS bytes FROM leaf_hashes ORDER BY n DESC LIMIT 1',
  )
  const readEntries = db.prepare<[number, number], EntryRow>(
    `SELECT idx, timestamp_ms, leaf, tile_data, dedupe_key, search_hashes, bytes, signature FROM entry
     LEFT JOIN attachment USING (idx) LEFT JOIN entry_signature USING (idx)
     WHERE idx >= ? ORDER BY idx LIMIT ?`,
  )
  const readKeys = db.prepare<[number], { dedupe_key: Uint8Array; search_hashes: Uint8Array }>(
    'SELECT dedupe_key, search_hashes FROM entry WHERE idx = ?',
  )
  const has = byTable((table) =>
    db.prepare<[bigint, number], number>(`SELECT 1 FROM ${table} WHERE prefix = ? AND idx = ?`).pluck(),
  )
  const first = byTable((table) => keyRows(db, `SELECT prefix, idx FROM ${table} ORDER BY prefix, idx LIMIT ?`))
  const later = byTable((table) =>
    keyRows(db, `SELECT prefix, idx FROM ${table} WHERE (prefix, idx) > (?, ?) ORDER BY prefix, idx LIMIT ?`),
  )

  function inspectHeads(): InspectedHeads {
    const identity = readIdentity.get()
    const { committed, sealed } = head()
    const last = lastHashes.get()
    const stored = last === undefined ? 0 : last.n * HASHES_PER_ROW + last.bytes / 32
    return {
      identity: {
        kind: identity?.kind ?? '',
        origin: identity?.origin ?? '',
        spkiDer: identity?.spki ?? new Uint8Array(0),
      },
      committed,
      ...(sealed === undefined ? {} : { sealed }),
      highest: {
        entry: highest('entry'),
        attachment: highest('attachment'),
        entry_signature: highest('entry_signature'),
        delivered: highest('delivered'),
      },
      surplusHashes: Math.max(0, stored - committed.size),
    }
  }

  function inspectEntries(start: number, limit: number): InspectedEntry[] {
    return readEntries.all(start, limit).map((row) => {
      const leafHash = leafHashAt(row.idx) ?? new Uint8Array(0)
      const leads = (table: KeyTable, hash: Uint8Array) =>
        hash.length >= 8 && has[table].get(prefixOf(hash), row.idx) !== undefined
      const unindexed: KeyTable[] = []
      if (!leads('by_dedupe_key', row.dedupe_key)) unindexed.push('by_dedupe_key')
      if (!leads('by_leaf_hash', leafHash)) unindexed.push('by_leaf_hash')
      if (!split(row.search_hashes).every((hash) => leads('by_search_key', hash))) unindexed.push('by_search_key')
      return {
        index: row.idx,
        timestampMs: row.timestamp_ms,
        leaf: row.leaf ?? row.tile_data,
        tileData: row.tile_data,
        dedupeKey: row.dedupe_key,
        searchHashes: row.search_hashes,
        leafHash,
        unindexed,
        ...(row.bytes === null ? {} : { attachment: row.bytes }),
        entrySignature: row.signature ?? new Uint8Array(0),
      }
    })
  }

  function inspectKeys(table: KeyTable, after: KeyCursor | undefined, limit: number): InspectedKeys {
    const rows =
      after === undefined
        ? first[table].all(BigInt(limit))
        : later[table].all(BigInt(after.prefix), BigInt(after.index), BigInt(limit))
    const strays = rows.filter(({ prefix, idx }) => !accounts(table, prefix, Number(idx))).map(({ idx }) => Number(idx))
    const last = rows.at(-1)
    return {
      rows: rows.length,
      strays,
      ...(rows.length < limit || last === undefined
        ? {}
        : { next: { prefix: String(last.prefix), index: Number(last.idx) } }),
    }
  }

  function accounts(table: KeyTable, prefix: bigint, index: number): boolean {
    if (table === 'by_leaf_hash') {
      const hash = leafHashAt(index)
      return hash?.length === 32 && prefixOf(hash) === prefix
    }
    const keys = readKeys.get(index)
    if (keys === undefined) return false
    const hashes = table === 'by_dedupe_key' ? [keys.dedupe_key] : split(keys.search_hashes)
    return hashes.some((hash) => hash.length >= 8 && prefixOf(hash) === prefix)
  }

  return { inspectHeads, inspectEntries, inspectKeys }
}

function byTable<T>(make: (table: KeyTable) => T): Readonly<Record<KeyTable, T>> {
  return {
    by_dedupe_key: make('by_dedupe_key'),
    by_leaf_hash: make('by_leaf_hash'),
    by_search_key: make('by_search_key'),
  }
}

/** Prefixes are 64-bit numbers, so everything comes as bigint. */
function keyRows(db: Database.Database, sql: string) {
  return db.prepare<bigint[], { prefix: bigint; idx: bigint }>(sql).safeIntegers()
}

function split(joined: Uint8Array): Uint8Array[] {
  return Array.from({ length: Math.ceil(joined.length / 32) }, (_, at) => joined.subarray(32 * at, 32 * at + 32))
}
