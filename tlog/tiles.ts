/**
 * C2SP tlog-tiles (c2sp.org/tlog-tiles): the log as static files. A hash tile of level L holds up to 256 hashes of
 * complete subtrees of 256^L leaves; an entry bundle holds the leaves themselves, each after a big-endian uint16 length.
 *
 * For a tree of 70 000 leaves: `tile/0/000` to `tile/0/272` full, `tile/0/273.p/112`, `tile/1/000` full,
 * `tile/1/001.p/17` and `tile/2/000.p/1`.
 */
import { parseDecimal } from './bytes.ts'
import { TlogError } from './errors.ts'

/** Hashes in a full tile, entries in a full bundle. */
export const TILE_WIDTH = 256

/** The largest entry that a bundle can hold. */
export const MAX_BUNDLE_ENTRY_LENGTH = 65_535

/** A hash tile: level 0 to 63, index n, width 1 to 256 (256 is a full tile). */
export interface Tile {
  readonly level: number
  readonly n: number
  readonly width: number
}

/** What a path under the log's prefix names. */
export type TilePath =
  | ({ readonly kind: 'hashes' } & Tile)
  | { readonly kind: 'entries'; readonly n: number; readonly width: number }

/** `tile/<L>/<N>[.p/<W>]`, without leading slash. Throws `malformed_tile`. */
export function tilePath(level: number, n: number, width: number = TILE_WIDTH): string {
  if (!Number.isSafeInteger(level) || level < 0 || level > 63) {
    throw new TlogError('malformed_tile', `tile level ${level} is not between 0 and 63`)
  }
  return `tile/${level}/${indexPath(n, width)}`
}

/** `tile/entries/<N>[.p/<W>]`, without leading slash. Throws `malformed_tile`. */
export function entryBundlePath(n: number, width: number = TILE_WIDTH): string {
  return `tile/entries/${indexPath(n, width)}`
}

/** Parses a path without leading slash; only the one spelling of each tile is accepted. Throws `malformed_tile`. */
export function parseTilePath(path: string): TilePath {
  const match = /^tile\/(entries|[0-9]{1,2})\/((?:x[0-9]{3}\/){0,5}[0-9]{3})(?:\.p\/([0-9]{1,3}))?$/.exec(path)
  const [, level, index, partial] = match ?? []
  if (level === undefined || index === undefined) throw new TlogError('malformed_tile', 'not the path of a tile')
  const n = Number(index.replaceAll(/[x/]/g, ''))
  const width = partial === undefined ? TILE_WIDTH : parseDecimal(partial, 'malformed_tile', 'the width')
  const parsed: TilePath =
    level === 'entries'
      ? { kind: 'entries', n, width }
      : { kind: 'hashes', level: parseDecimal(level, 'malformed_tile', 'the level'), n, width }
  // Writing it again refuses every second spelling: x000/ in front, a width of 0 or of 256, a level over 63.
  const written = parsed.kind === 'entries' ? entryBundlePath(n, width) : tilePath(parsed.level, n, width)
  if (written !== path) throw new TlogError('malformed_tile', 'not the path of a tile')
  return parsed
}

/** The bytes of an entry bundle. Throws `malformed_tile` for more than 256 entries or one over 65 535 bytes. */
export function encodeEntryBundle(entries: readonly Uint8Array[]): Uint8Array {
  if (entries.length > TILE_WIDTH) throw new TlogError('malformed_tile', `a bundle of ${entries.length} entries`)
  const bundle = new Uint8Array(entries.reduce((length, entry) => length + 2 + entry.length, 0))
  const view = new DataView(bundle.buffer)
  let at = 0
  for (const entry of entries) {
    if (entry.length > MAX_BUNDLE_ENTRY_LENGTH) {
      throw new TlogError('malformed_tile', `an entry of ${entry.length} bytes is over ${MAX_BUNDLE_ENTRY_LENGTH}`)
    }
    view.setUint16(at, entry.length)
    bundle.set(entry, at + 2)
    at += 2 + entry.length
  }
  return bundle
}

/** The entries of a bundle, as copies. Throws `malformed_tile` for a cut bundle or more than 256 entries. */
export function decodeEntryBundle(bundle: Uint8Array): Uint8Array[] {
  const view = new DataView(bundle.buffer, bundle.byteOffset, bundle.byteLength)
  const entries: Uint8Array[] = []
  let at = 0
  while (at < bundle.length) {
    if (entries.length === TILE_WIDTH) throw new TlogError('malformed_tile', 'a bundle of more than 256 entries')
    if (bundle.length - at < 2) throw new TlogError('malformed_tile', 'the bundle ends within a length')
    const length = view.getUint16(at)
    if (bundle.length - at - 2 < length) throw new TlogError('malformed_tile', 'the bundle ends within an entry')
    entries.push(new Uint8Array(bundle.subarray(at + 2, at + 2 + length)))
    at += 2 + length
  }
  return entries
}

/**
 * The hash tiles that a log must write when it grows: every new or wider one, full ones before the partial one of each
 * level, levels upwards. Throws `out_of_range` unless oldSize ≤ newSize.
 */
export function tilesForGrowth(oldSize: number, newSize: number): Tile[] {
  if (!Number.isSafeInteger(newSize) || !Number.isSafeInteger(oldSize) || oldSize < 0 || oldSize > newSize) {
    throw new TlogError('out_of_range', `sizes ${oldSize} and ${newSize} are not in order`)
  }
  const tiles: Tile[] = []
  for (let level = 0, unit = 1; unit <= newSize; level++, unit *= TILE_WIDTH) {
    const before = Math.floor(oldSize / unit)
    const after = Math.floor(newSize / unit)
    if (before === after) continue
    for (let n = Math.floor(before / TILE_WIDTH); n * TILE_WIDTH < after; n++) {
      tiles.push({ level, n, width: Math.min(TILE_WIDTH, after - n * TILE_WIDTH) })
    }
  }
  return tiles
}

/** Three digits an element, all but the last after an `x`, so that no path is both a file and a folder. */
function indexPath(n: number, width: number): string {
  if (!Number.isSafeInteger(n) || n < 0) throw new TlogError('malformed_tile', `tile index ${n}`)
  if (!Number.isSafeInteger(width) || width < 1 || width > TILE_WIDTH) {
    throw new TlogError('malformed_tile', `tile width ${width} is not between 1 and 256`)
  }
  let path = String(n % 1000).padStart(3, '0')
  for (let rest = Math.floor(n / 1000); rest > 0; rest = Math.floor(rest / 1000)) {
    path = `x${String(rest % 1000).padStart(3, '0')}/${path}`
  }
  return width === TILE_WIDTH ? path : `${path}.p/${width}`
}
