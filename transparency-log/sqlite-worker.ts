/**
 * The thread that owns one SQLite file. `sqlite-store.ts` starts it and speaks `Request` and `Reply` with it, several in
 * one message; each request is answered once, in order. Kept apart so that waiting for the disk never holds up the event
 * loop.
 */
import { hash } from 'node:crypto'
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { DatabaseFiles } from '#hsm/database-files'
import { SyncedWrites, SyncError } from '#hsm/synced-writes'
import Database from 'better-sqlite3'
import { encodeBackupRow } from './backup-row.ts'
import { inspectionOf } from './inspection.ts'
import type {
  Batch,
  CommittedHead,
  LogIdentity,
  LogStore,
  NewEntry,
  Place,
  StoreErrorCode,
  StoredEntry,
  StoredSeal,
} from './store.ts'

type Operations = Omit<LogStore, 'close'>

/** One call of a method of `LogStore`. */
export type Request = {
  [M in keyof Operations]: { readonly id: number; readonly method: M; readonly args: Parameters<Operations[M]> }
}[keyof Operations]

/** `id` 0 answers the opening itself. */
export type Reply =
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: { readonly code: StoreErrorCode; readonly message: string } }

/** What the thread is started with. The identity is stored in a new file and compared in an old one. */
export interface WorkerStart {
  readonly path: string
  readonly identity: LogIdentity
}

/** `PRAGMA application_id` of our files ("CHcy"), so that a foreign database is never taken for a log. */
const APPLICATION_ID = 0x43486379

/** How long opening waits for a process that is just ending to let go of the file; a rival is told of within a second. */
const LOCK_WAIT_MS = 800

/** Leaf hashes per row, as in a C2SP tile of level 0. */
const HASHES_PER_ROW = 256

/**
 * Rows are only ever added at the end, but for the last `leaf_hashes` row. The three key tables are the only random
 * writes, so they are narrow: 8 bytes of a hash and the index, no row id; `entry` holds what is needed to check a hit.
 */
const FIRST_SCHEMA = `
  CREATE TABLE identity (id INTEGER PRIMARY KEY CHECK (id = 1), kind TEXT NOT NULL, origin TEXT NOT NULL, spki BLOB NOT NULL) STRICT;
  CREATE TABLE committed_head (id INTEGER PRIMARY KEY CHECK (id = 1), size INTEGER NOT NULL, root BLOB NOT NULL, timestamp_ms INTEGER NOT NULL) STRICT;
  CREATE TABLE sealed_head (id INTEGER PRIMARY KEY CHECK (id = 1), size INTEGER NOT NULL, root BLOB NOT NULL, timestamp_ms INTEGER NOT NULL, note TEXT NOT NULL, signature BLOB NOT NULL) STRICT;
  CREATE TABLE entry (
    idx INTEGER PRIMARY KEY,
    timestamp_ms INTEGER NOT NULL,
    leaf BLOB, -- NULL when it is the tile data
    tile_data BLOB NOT NULL,
    dedupe_key BLOB NOT NULL,
    search_hashes BLOB NOT NULL -- SHA-256 of each search key, joined
  ) STRICT;
  CREATE TABLE attachment (idx INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
  CREATE TABLE entry_signature (idx INTEGER PRIMARY KEY, signature BLOB NOT NULL) STRICT;
  CREATE TABLE delivered (idx INTEGER PRIMARY KEY) STRICT;
  CREATE TABLE leaf_hashes (n INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT;
  CREATE TABLE by_dedupe_key (prefix INTEGER NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (prefix, idx)) WITHOUT ROWID, STRICT;
  CREATE TABLE by_leaf_hash (prefix INTEGER NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (prefix, idx)) WITHOUT ROWID, STRICT;
  CREATE TABLE by_search_key (prefix INTEGER NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (prefix, idx)) WITHOUT ROWID, STRICT;
`

/**
 * Entry n leads from `PRAGMA user_version` n to n + 1; a file of any age gets those that it has not seen, in one
 * transaction. A published entry is never edited.
 */
const MIGRATIONS: readonly string[] = [
  FIRST_SCHEMA,
  `CREATE TABLE frozen (id INTEGER PRIMARY KEY CHECK (id = 1), at_ms INTEGER NOT NULL) STRICT;`,
]

const SCHEMA_VERSION = MIGRATIONS.length

/** Known failures of opening and of the contents; anything else is SQLite's own and becomes `failed`. */
class WorkerError extends Error {
  readonly code: StoreErrorCode
  constructor(code: StoreErrorCode, message: string) {
    super(message)
    this.code = code
  }
}

interface EntryRow {
  idx: number
  timestamp_ms: number
  leaf: Uint8Array | null
  tile_data: Uint8Array
  bytes: Uint8Array | null
  signature: Uint8Array | null
}

interface BackupColumns {
  dedupe_key: Uint8Array
  search_hashes: Uint8Array
  delivered: number | null
}

function openDatabase({ path, identity }: WorkerStart): Database.Database {
  const db = new Database(path, { timeout: LOCK_WAIT_MS })
  try {
    // Before the first read, so that the lock is held from then on; a second owner gets SQLITE_BUSY.
    db.pragma('locking_mode = EXCLUSIVE')
    refuseForeign(db, path)
    if (db.pragma('journal_mode = WAL', { simple: true }) !== 'wal') {
      throw new WorkerError('failed', `${path}: write-ahead logging is not possible here`)
    }
    // better-sqlite3 re-opens a WAL database with synchronous=NORMAL, which loses commits at power loss.
    db.pragma('synchronous = FULL')
    if (db.pragma('synchronous', { simple: true }) !== 2) {
      throw new WorkerError('failed', `${path}: synchronous=FULL was not accepted`)
    }
    db.transaction(() => prepareSchema(db, path, identity)).immediate()
    return db
  } catch (error) {
    db.close()
    throw error
  }
}

function refuseForeign(db: Database.Database, path: string): void {
  const version = Number(db.pragma('user_version', { simple: true }))
  const application = Number(db.pragma('application_id', { simple: true }))
  const tables = db.prepare<[], { n: number }>('SELECT count(*) AS n FROM sqlite_schema').get()
  if (tables?.n === 0 && version === 0) return
  if (application !== APPLICATION_ID) throw new WorkerError('other_log', `${path} is not the database of a log`)
  if (version > SCHEMA_VERSION) {
    throw new WorkerError(
      'newer_schema',
      `${path} has schema version ${version}, this program knows ${SCHEMA_VERSION}: run the version that wrote it`,
    )
  }
}

function prepareSchema(db: Database.Database, path: string, identity: LogIdentity): void {
  const version = Number(db.pragma('user_version', { simple: true }))
  for (const step of MIGRATIONS.slice(version)) db.exec(step)
  if (version < SCHEMA_VERSION) db.pragma(`user_version = ${SCHEMA_VERSION}`)
  if (version === 0) {
    db.pragma(`application_id = ${APPLICATION_ID}`)
    db.prepare('INSERT INTO identity VALUES (1, ?, ?, ?)').run(identity.kind, identity.origin, identity.spkiDer)
    db.prepare('INSERT INTO committed_head VALUES (1, 0, ?, 0)').run(hash('sha256', '', 'buffer'))
    return
  }
  const stored = db
    .prepare<[], { kind: string; origin: string; spki: Uint8Array }>('SELECT kind, origin, spki FROM identity')
    .get()
  const differs =
    stored?.kind !== identity.kind
      ? `kind ${stored?.kind}`
      : stored.origin !== identity.origin
        ? `origin ${JSON.stringify(stored.origin)}`
        : Buffer.compare(stored.spki, identity.spkiDer) !== 0
          ? 'another public key'
          : undefined
  if (differs !== undefined) throw new WorkerError('other_log', `${path} belongs to a log with ${differs}`)
}

/** The operations, each synchronous on this thread, with its statements prepared once. */
function operationsOn(db: Database.Database, files: DatabaseFiles) {
  const writes = new SyncedWrites(db)
  const readCommitted = db.prepare<[], { size: number; root: Uint8Array; timestamp_ms: number }>(
    'SELECT size, root, timestamp_ms FROM committed_head',
  )
  const readSealed = db.prepare<
    [],
    { size: number; root: Uint8Array; timestamp_ms: number; note: string; signature: Uint8Array }
  >('SELECT size, root, timestamp_ms, note, signature FROM sealed_head')
  const readFrozen = db.prepare<[], number>('SELECT at_ms FROM frozen').pluck()
  const writeFrozen = db.prepare('INSERT OR IGNORE INTO frozen VALUES (1, ?)')
  const writeCommitted = db.prepare('UPDATE committed_head SET size = ?, root = ?, timestamp_ms = ?')
  const writeSealed = db.prepare('INSERT OR REPLACE INTO sealed_head VALUES (1, ?, ?, ?, ?, ?)')
  const insertEntry = db.prepare('INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)')
  const insertAttachment = db.prepare('INSERT INTO attachment VALUES (?, ?)')
  const insertSignature = db.prepare('INSERT OR REPLACE INTO entry_signature VALUES (?, ?)')
  const insertDelivered = db.prepare('INSERT OR IGNORE INTO delivered VALUES (?)')
  const readHashes = db.prepare<[number], Uint8Array>('SELECT hashes FROM leaf_hashes WHERE n = ?').pluck()
  const writeHashes = db.prepare('INSERT OR REPLACE INTO leaf_hashes VALUES (?, ?)')
  const byDedupeKey = keyTable(db, 'by_dedupe_key')
  const byLeafHash = keyTable(db, 'by_leaf_hash')
  const bySearchKey = keyTable(db, 'by_search_key')
  const readPlace = db.prepare<
    [number],
    { idx: number; timestamp_ms: number; dedupe_key: Uint8Array; delivered: number | null }
  >(
    'SELECT entry.idx, timestamp_ms, dedupe_key, delivered.idx AS delivered FROM entry LEFT JOIN delivered USING (idx) WHERE entry.idx = ?',
  )
  const readSearchHashes = db.prepare<[number], Uint8Array>('SELECT search_hashes FROM entry WHERE idx = ?').pluck()
  const readEntries = db.prepare<[number, number], EntryRow>(
    `SELECT idx, timestamp_ms, leaf, tile_data, bytes, signature FROM entry
     LEFT JOIN attachment USING (idx) LEFT JOIN entry_signature USING (idx)
     WHERE idx >= ? ORDER BY idx LIMIT ?`,
  )
  const readTileData = db
    .prepare<[number, number], Uint8Array>('SELECT tile_data FROM entry WHERE idx >= ? ORDER BY idx LIMIT ?')
    .pluck()

  function committedHead(): CommittedHead {
    const row = readCommitted.get()
    if (row === undefined) throw new WorkerError('damaged', 'the database has no head')
    return { size: row.size, rootHash: row.root, timestampMs: row.timestamp_ms }
  }

  function head(): { committed: CommittedHead; sealed?: StoredSeal } {
    const sealed = readSealed.get()
    if (sealed === undefined) return { committed: committedHead() }
    const { size, root, timestamp_ms, note, signature } = sealed
    const frozenAtMs = readFrozen.get()
    return {
      committed: committedHead(),
      sealed: {
        size,
        rootHash: root,
        timestampMs: timestamp_ms,
        note,
        signature,
        ...(frozenAtMs === undefined ? {} : { frozenAtMs }),
      },
    }
  }

  const commit = db.transaction((batch: Batch, expected: CommittedHead): 'committed' | 'conflict' => {
    if (!sameHead(committedHead(), expected)) return 'conflict'
    if (readFrozen.get() !== undefined) throw new WorkerError('failed', 'the log is frozen')
    if (batch.head.size !== expected.size + batch.entries.length) {
      throw new WorkerError('damaged', 'a batch whose head does not count its entries')
    }
    const { timestampMs } = batch.head
    const searchRows: [bigint, number][] = []
    batch.entries.forEach((entry, place) => {
      const index = expected.size + place
      const { kept } = entry
      const hashes =
        kept?.searchHashes === undefined
          ? [...new Set(entry.searchKeys)].map((key) => hash('sha256', key, 'buffer'))
          : splitHashes(kept.searchHashes)
      const leaf = Buffer.compare(entry.leaf, entry.tileData) === 0 ? null : entry.leaf
      insertEntry.run(
        index,
        kept?.timestampMs ?? timestampMs,
        leaf,
        entry.tileData,
        entry.dedupeKey,
        Buffer.concat(hashes),
      )
      if (entry.attachment !== undefined) insertAttachment.run(index, entry.attachment)
      if (kept?.entrySignature !== undefined) insertSignature.run(index, kept.entrySignature)
      if (kept?.delivered === true) insertDelivered.run(index)
      for (const searchHash of hashes) searchRows.push([prefixOf(searchHash), index])
    })
    const rowsOf = (pick: (entry: NewEntry) => Uint8Array): [bigint, number][] =>
      batch.entries.map((entry, place) => [prefixOf(pick(entry)), expected.size + place])
    byDedupeKey.insert(rowsOf((entry) => entry.dedupeKey))
    byLeafHash.insert(rowsOf((entry) => entry.leafHash))
    bySearchKey.insert(searchRows)
    appendLeafHashes(expected.size, Buffer.concat(batch.entries.map((entry) => entry.leafHash)))
    writeCommitted.run(batch.head.size, batch.head.rootHash, timestampMs)
    return 'committed'
  })

  function appendLeafHashes(start: number, hashes: Uint8Array): void {
    let n = Math.floor(start / HASHES_PER_ROW)
    const before = start % HASHES_PER_ROW
    const held = before === 0 ? new Uint8Array(0) : (readHashes.get(n) ?? new Uint8Array(0))
    if (held.length !== before * 32) throw new WorkerError('damaged', `leaf hashes end before entry ${start}`)
    const all = Buffer.concat([held, hashes])
    for (let at = 0; at < all.length; at += HASHES_PER_ROW * 32) {
      writeHashes.run(n++, all.subarray(at, at + HASHES_PER_ROW * 32))
    }
  }

  const seal = db.transaction((sealed: StoredSeal, signatures: readonly { index: number; signature: Uint8Array }[]) => {
    const committed = committedHead()
    if (sealed.size !== committed.size || Buffer.compare(sealed.rootHash, committed.rootHash) !== 0) return 'conflict'
    if (readFrozen.get() !== undefined) throw new WorkerError('failed', 'the log is frozen')
    for (const { index, signature } of signatures) insertSignature.run(index, signature)
    if (sealed.frozenAtMs !== undefined) writeFrozen.run(sealed.frozenAtMs)
    writeSealed.run(sealed.size, sealed.rootHash, sealed.timestampMs, sealed.note, sealed.signature)
    return 'sealed'
  })

  function placeOf(dedupeKey: Uint8Array): Place | undefined {
    for (const index of byDedupeKey.find(prefixOf(dedupeKey))) {
      const row = readPlace.get(index)
      if (row !== undefined && Buffer.compare(row.dedupe_key, dedupeKey) === 0) {
        return { index, timestampMs: row.timestamp_ms, delivered: row.delivered !== null }
      }
    }
    return undefined
  }

  function leafHashAt(index: number): Uint8Array | undefined {
    const at = (index % HASHES_PER_ROW) * 32
    return readHashes.get(Math.floor(index / HASHES_PER_ROW))?.subarray(at, at + 32)
  }

  function indexOfLeafHash(leafHash: Uint8Array): number | undefined {
    return byLeafHash.find(prefixOf(leafHash)).find((index) => {
      const held = leafHashAt(index)
      return held !== undefined && Buffer.compare(held, leafHash) === 0
    })
  }

  function lookup(searchKey: string, beforeIndex: number, limit: number): number[] {
    const searched = hash('sha256', searchKey, 'buffer')
    const found: number[] = []
    for (const index of bySearchKey.newestFirst(prefixOf(searched), beforeIndex)) {
      if (found.length >= limit) break
      if (holdsHash(readSearchHashes.get(index) ?? new Uint8Array(0), searched)) found.push(index)
    }
    return found
  }

  function entries(start: number, limit: number): StoredEntry[] {
    return readEntries.all(start, limit).map((row) => ({
      index: row.idx,
      timestampMs: row.timestamp_ms,
      leaf: row.leaf ?? row.tile_data,
      tileData: row.tile_data,
      ...(row.bytes === null ? {} : { attachment: row.bytes }),
      entrySignature: row.signature ?? new Uint8Array(0),
    }))
  }

  const readBackupRows = db.prepare<[number, number], EntryRow & BackupColumns>(
    `SELECT idx, timestamp_ms, leaf, tile_data, bytes, signature, dedupe_key, search_hashes, delivered.idx AS delivered
     FROM entry LEFT JOIN attachment USING (idx) LEFT JOIN entry_signature USING (idx) LEFT JOIN delivered USING (idx)
     WHERE entry.idx >= ? ORDER BY entry.idx LIMIT ?`,
  )

  function backupRows(start: number, limit: number): Uint8Array {
    const lines = readBackupRows.all(start, limit).map((row) =>
      encodeBackupRow({
        index: row.idx,
        timestampMs: row.timestamp_ms,
        leaf: row.leaf ?? row.tile_data,
        tileData: row.tile_data,
        dedupeKey: row.dedupe_key,
        searchHashes: row.search_hashes,
        ...(row.bytes === null ? {} : { attachment: row.bytes }),
        ...(row.signature === null ? {} : { entrySignature: row.signature }),
        delivered: row.delivered !== null,
      }),
    )
    return new TextEncoder().encode(lines.join(''))
  }

  const markDelivered = db.transaction((indexes: readonly number[]) => {
    for (const index of indexes) insertDelivered.run(index)
  })

  function check(options?: { readonly afterOwnWrite: boolean }): void {
    const fault = files.fault(options)
    if (fault !== undefined) throw new WorkerError('replaced', fault)
  }

  /** What is written into a file that no restart will find must be told to nobody as durable. */
  function written<T>(write: () => T): T {
    check()
    try {
      return writes.run(write)
    } finally {
      // One that failed has changed the files as well.
      check({ afterOwnWrite: true })
      files.remember()
    }
  }

  return {
    head,
    // IMMEDIATE: the write lock is held from the comparison on, whoever else might have the file open.
    commit: (batch: Batch, expected: CommittedHead) => written(() => commit.immediate(batch, expected)),
    seal: (sealed: StoredSeal, signatures: readonly { index: number; signature: Uint8Array }[]) =>
      written(() => seal.immediate(sealed, signatures)),
    placesOf: (keys: readonly Uint8Array[]) => keys.map(placeOf),
    entries,
    leafHashes: (start: number) => readHashes.get(start / HASHES_PER_ROW) ?? new Uint8Array(0),
    tileData: (start: number, count: number) => readTileData.all(start, count),
    indexOfLeafHash,
    lookup,
    backupRows,
    ...inspectionOf(db, { head, leafHashAt, prefixOf }),
    markDelivered: (indexes: readonly number[]) => written(() => markDelivered(indexes)),
    check: () => check(),
    settle: () => written(() => undefined),
  }
}

/** A narrow table from the first 8 bytes of a hash to indexes. Batches are written in key order: fewer pages are touched. */
function keyTable(db: Database.Database, table: 'by_dedupe_key' | 'by_leaf_hash' | 'by_search_key') {
  const add = db.prepare<[bigint, number]>(`INSERT OR IGNORE INTO ${table} VALUES (?, ?)`)
  const find = db.prepare<[bigint], number>(`SELECT idx FROM ${table} WHERE prefix = ? ORDER BY idx`).pluck()
  const newestFirst = db
    .prepare<[bigint, number], number>(`SELECT idx FROM ${table} WHERE prefix = ? AND idx < ? ORDER BY idx DESC`)
    .pluck()
  return {
    insert(rows: readonly [bigint, number][]): void {
      const inOrder = rows.toSorted((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] - b[1]))
      for (const [prefix, index] of inOrder) add.run(prefix, index)
    },
    find: (prefix: bigint): number[] => find.all(prefix),
    newestFirst: (prefix: bigint, before: number): IterableIterator<number> => newestFirst.iterate(prefix, before),
  }
}

function prefixOf(hashBytes: Uint8Array): bigint {
  return new DataView(hashBytes.buffer, hashBytes.byteOffset, hashBytes.byteLength).getBigInt64(0)
}

function sameHead(a: CommittedHead, b: CommittedHead): boolean {
  return a.size === b.size && Buffer.compare(a.rootHash, b.rootHash) === 0
}

function splitHashes(joined: Uint8Array): Uint8Array[] {
  return Array.from({ length: joined.length / 32 }, (_, at) => joined.subarray(32 * at, 32 * at + 32))
}

function holdsHash(joined: Uint8Array, searched: Uint8Array): boolean {
  for (let at = 0; at < joined.length; at += 32) {
    if (Buffer.compare(joined.subarray(at, at + 32), searched) === 0) return true
  }
  return false
}

function describe(error: unknown): { code: StoreErrorCode; message: string } {
  if (error instanceof WorkerError) return { code: error.code, message: error.message }
  if (error instanceof SyncError) return { code: 'disk_io_error', message: error.message }
  const code = error instanceof Database.SqliteError ? error.code : ''
  const message = error instanceof Error ? error.message : String(error)
  if (code === 'SQLITE_BUSY') {
    return { code: 'in_use', message: 'the database is open in another process or log; stop that one first' }
  }
  if (code === 'SQLITE_NOTADB') return { code: 'other_log', message: 'the file is not a database' }
  if (code.startsWith('SQLITE_CORRUPT')) return { code: 'damaged', message }
  return { code: 'failed', message: code === '' ? message : `${code}: ${message}` }
}

/** A log's file, open on this thread. */
export interface OpenFile {
  /** Answers at once; never throws. */
  answer(request: Request): Reply
  /** Also moves the write-ahead log into the file. */
  close(): void
}

/** Opens the file as the thread does, which is all that uses this but for tests. Throws what `describe` tells. */
export function openFile(start: WorkerStart): OpenFile {
  const db = openDatabase(start)
  const operations = operationsOn(db, new DatabaseFiles(start.path))
  return {
    answer: (request) => {
      try {
        const operation = operations[request.method] as (...args: unknown[]) => unknown // the pair was typed by `Request`
        return { id: request.id, value: operation(...request.args) }
      } catch (error) {
        return { id: request.id, error: describe(error) }
      }
    },
    close: () => db.close(),
  }
}

function serve(port: MessagePort, start: WorkerStart): void {
  const send = (replies: readonly Reply[]): void => port.postMessage(replies)
  let file: OpenFile
  try {
    file = openFile(start)
  } catch (error) {
    send([{ id: 0, error: describe(error) }])
    port.close()
    return
  }
  send([{ id: 0, value: undefined }])
  port.on('message', (requests: readonly Request[] | 'close') => {
    if (requests === 'close') {
      file.close()
      port.close()
      return
    }
    let replies: Reply[] = []
    for (const request of requests) {
      // Who reads does not wait for the disk that a later request waits for.
      if (WRITES.has(request.method) && replies.length > 0) {
        send(replies)
        replies = []
      }
      replies.push(file.answer(request))
    }
    send(replies)
  })
}

const WRITES: ReadonlySet<string> = new Set(['commit', 'seal', 'markDelivered', 'settle'] satisfies Request['method'][])

// The cast: sqlite-store.ts starts this thread. Where it is only imported there is nobody to serve.
const started = workerData as Partial<WorkerStart> | null
if (parentPort !== null && started?.path !== undefined && started.identity !== undefined) {
  serve(parentPort, { path: started.path, identity: started.identity })
}
