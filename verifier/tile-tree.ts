import { emptyRoot, HASH_LENGTH, nodeHash, TILE_WIDTH, tilePath } from '#tlog'
import { VerifierError } from './errors.ts'

/** Fetches `tile/…` of a log, without leading slash; at most 8192 bytes for a hash tile. */
export type FetchTile = (path: string) => Promise<Uint8Array>

/**
 * A tree of `size` leaves, read from C2SP hash tiles, for proofs that the log does not hand out itself. The tiles are
 * not trusted: what is computed here only counts once it was verified against a signed root.
 */
export class TileTree {
  readonly size: number
  readonly #fetchTile: FetchTile
  readonly #tiles = new Map<string, Promise<Uint8Array>>()

  constructor(size: number, fetchTile: FetchTile) {
    this.size = size
    this.#fetchTile = fetchTile
  }

  /** RFC 6962 §2.1: the root of all leaves. */
  async root(): Promise<Uint8Array> {
    return this.size === 0 ? emptyRoot() : this.#hash(0, this.size)
  }

  /** RFC 6962 §2.1.1: 32-byte hashes, leaf to root; `index` < size. */
  async inclusionProof(index: number): Promise<Uint8Array[]> {
    return this.#path(index, 0, this.size)
  }

  /** RFC 6962 §2.1.2 from `first` to this tree; 0 < `first` ≤ size. */
  async consistencyProof(first: number): Promise<Uint8Array[]> {
    return first === this.size ? [] : this.#subproof(first, 0, this.size, true)
  }

  async #path(index: number, start: number, end: number): Promise<Uint8Array[]> {
    if (end - start === 1) return []
    const middle = start + split(end - start)
    return index < middle
      ? [...(await this.#path(index, start, middle)), await this.#hash(middle, end)]
      : [...(await this.#path(index, middle, end)), await this.#hash(start, middle)]
  }

  async #subproof(first: number, start: number, end: number, isWhole: boolean): Promise<Uint8Array[]> {
    if (first === end) return isWhole ? [] : [await this.#hash(start, end)]
    const middle = start + split(end - start)
    return first <= middle
      ? [...(await this.#subproof(first, start, middle, isWhole)), await this.#hash(middle, end)]
      : [...(await this.#subproof(first, middle, end, false)), await this.#hash(start, middle)]
  }

  /** The hash of leaves [start, end), which in an RFC 6962 split is a complete subtree or splits into such. */
  async #hash(start: number, end: number): Promise<Uint8Array> {
    const width = end - start
    const height = Math.log2(width)
    if (Number.isInteger(height)) return this.#complete(height, start / width)
    const middle = start + split(width)
    return nodeHash(await this.#hash(start, middle), await this.#hash(middle, end))
  }

  /** The `index`th complete subtree of 2^height leaves: stored at every eighth level, computed in between. */
  async #complete(height: number, index: number): Promise<Uint8Array> {
    const level = Math.floor(height / 8)
    const span = 2 ** (height % 8)
    const first = index * span
    const n = Math.floor(first / TILE_WIDTH)
    const tile = await this.#tile(level, n)
    const at = (first % TILE_WIDTH) * HASH_LENGTH
    let hashes: Uint8Array[] = Array.from({ length: span }, (_, i) =>
      tile.slice(at + i * HASH_LENGTH, at + (i + 1) * HASH_LENGTH),
    )
    while (hashes.length > 1) {
      hashes = hashes.flatMap((hash, i) => (i % 2 === 0 ? [nodeHash(hash, hashes[i + 1] ?? hash)] : []))
    }
    return hashes[0] ?? new Uint8Array()
  }

  async #tile(level: number, n: number): Promise<Uint8Array> {
    const width = Math.min(TILE_WIDTH, Math.floor(this.size / TILE_WIDTH ** level) - n * TILE_WIDTH)
    const path = tilePath(level, n, width)
    const known = this.#tiles.get(path) ?? this.#fetchTile(path)
    this.#tiles.set(path, known)
    const tile = await known
    if (tile.length < width * HASH_LENGTH) throw new VerifierError('malformed', `${path} has ${tile.length} bytes`)
    return tile
  }
}

/** The largest power of two below `size` (RFC 6962 §2.1); no shifts, sizes exceed 32 bits. */
function split(size: number): number {
  return 2 ** Math.ceil(Math.log2(size) - 1)
}
