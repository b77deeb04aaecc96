/**
 * One entry with everything that a store keeps for it, as a line of JSON: what backups are made of. Bytes are base64. An
 * entry that was sealed never changes, so neither does its line, but for `delivered`, a hint that may come later.
 */
import { StoreError } from './store.ts'

export interface BackupRow {
  readonly index: number
  readonly timestampMs: number
  /** What is hashed; left out in the line if it is the tile data. */
  readonly leaf: Uint8Array
  readonly tileData: Uint8Array
  /** 32 bytes. */
  readonly dedupeKey: Uint8Array
  /** SHA-256 of each search key, joined; the keys themselves are not kept. */
  readonly searchHashes: Uint8Array
  readonly attachment?: Uint8Array
  readonly entrySignature?: Uint8Array
  readonly delivered: boolean
}

/** The line, with its newline. */
export function encodeBackupRow(row: BackupRow): string {
  const isTile = Buffer.compare(row.leaf, row.tileData) === 0
  const line = {
    index: row.index,
    timestampMs: row.timestampMs,
    ...(isTile ? {} : { leaf: base64(row.leaf) }),
    tileData: base64(row.tileData),
    dedupeKey: base64(row.dedupeKey),
    searchHashes: base64(row.searchHashes),
    ...(row.attachment === undefined ? {} : { attachment: base64(row.attachment) }),
    ...(row.entrySignature === undefined ? {} : { entrySignature: base64(row.entrySignature) }),
    ...(row.delivered ? { delivered: true } : {}),
  }
  return `${JSON.stringify(line)}\n`
}

/** Reads a line. Throws `StoreError` `damaged`: its file had the right hash, so whoever wrote it is wrong. */
export function decodeBackupRow(line: string): BackupRow {
  let value: Record<string, unknown>
  try {
    value = JSON.parse(line) as Record<string, unknown> // each field is looked at below
  } catch (cause) {
    throw new StoreError('damaged', 'a line of the backup is not JSON', { cause })
  }
  const { index, timestampMs, delivered = false } = value
  if (!isCount(index) || !isCount(timestampMs) || typeof delivered !== 'boolean') {
    throw new StoreError('damaged', 'a line of the backup has no index or time')
  }
  const tileData = bytes(value, 'tileData')
  const [leaf, dedupeKey, searchHashes] = [
    bytes(value, 'leaf'),
    bytes(value, 'dedupeKey'),
    bytes(value, 'searchHashes'),
  ]
  const [attachment, entrySignature] = [bytes(value, 'attachment'), bytes(value, 'entrySignature')]
  if (
    tileData === undefined ||
    dedupeKey?.length !== 32 ||
    searchHashes === undefined ||
    searchHashes.length % 32 !== 0
  ) {
    throw new StoreError('damaged', `line ${index} of the backup lacks a field`)
  }
  return {
    index,
    timestampMs,
    leaf: leaf ?? tileData,
    tileData,
    dedupeKey,
    searchHashes,
    ...(attachment === undefined ? {} : { attachment }),
    ...(entrySignature === undefined ? {} : { entrySignature }),
    delivered,
  }
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function base64(value: Uint8Array): string {
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64')
}

function bytes(line: Record<string, unknown>, name: string): Uint8Array | undefined {
  const value = line[name]
  return typeof value === 'string' ? new Uint8Array(Buffer.from(value, 'base64')) : undefined
}
