/**
 * The Merkle tree of RFC 6962 §2.1, kept whole in memory: 64 bytes a leaf, one buffer a level. Appending a leaf costs
 * two hashes on average, a proof reads log2(size) nodes; both take microseconds whatever the size.
 *
 * Level 0 holds the leaf hashes; node i of level l is the hash of leaves [i·2^l, (i+1)·2^l). Only complete nodes are
 * stored: those on the ragged right edge depend on the size and are computed when asked for, so that the tree answers
 * for every size up to its own, and forgets its newest leaves for nothing (`truncate`).
 */
import { sha256 } from '#sha256'
import { TlogError } from './errors.ts'

/** Length of every hash here. */
export const HASH_LENGTH = 32

/** SHA-256(0x00 ‖ leaf), RFC 6962 §2.1; 32 bytes. */
export function leafHash(leaf: Uint8Array): Uint8Array {
  const prefixed = new Uint8Array(1 + leaf.length)
  prefixed.set(leaf, 1)
  return sha256(prefixed)
}

/** SHA-256(0x01 ‖ left ‖ right), RFC 6962 §2.1; three times 32 bytes. */
export function nodeHash(left: Uint8Array, right: Uint8Array): Uint8Array {
  const prefixed = new Uint8Array(1 + 2 * HASH_LENGTH)
  prefixed[0] = 1
  prefixed.set(left, 1)
  prefixed.set(right, 1 + HASH_LENGTH)
  return sha256(prefixed)
}

/** The root of the empty tree: SHA-256 of nothing, RFC 6962 §2.1. */
export function emptyRoot(): Uint8Array {
  return sha256(new Uint8Array(0))
}

/** The largest power of two strictly below n, for n ≥ 2: where RFC 6962 splits a tree. No shifts: sizes pass 2^32. */
export function splitPoint(n: number): number {
  let k = 1
  while (k * 2 < n) k *= 2
  return k
}

/** The complete nodes of one height, one after another. */
interface Level {
  nodes: Uint8Array<ArrayBuffer>
}

/** An append-only Merkle tree in memory; see the head of this file. Everything it returns is a copy. */
export class MerkleTree {
  #size = 0
  readonly #levels: Level[] = []
  /** Hashes of the incomplete subtrees that end at `#edgeEnd`, by start: readers ask for proofs of one size over and over. */
  readonly #edge = new Map<number, Uint8Array>()
  #edgeEnd = 0

  /** Number of leaves. */
  get size(): number {
    return this.#size
  }

  /** Appends one leaf hash (32 bytes) and completes the nodes that it closes. */
  append(hash: Uint8Array): void {
    if (hash.length !== HASH_LENGTH) throw new TlogError('out_of_range', `a leaf hash has ${hash.length} bytes, not 32`)
    let node = hash
    let index = this.#size
    for (let level = 0; ; level++) {
      this.#store(level, index, node)
      if (index % 2 === 0) break
      node = nodeHash(this.#node(level, index - 1), node)
      index = (index - 1) / 2
    }
    this.#size++
  }

  /** Forgets the leaves from `size` on: a batch whose commit failed was never in the tree. */
  truncate(size: number): void {
    checkRange('size', size, 0, this.#size)
    this.#size = size
    this.#edgeEnd = 0
  }

  /** The root of the first `size` leaves (by default all). Throws `out_of_range`. */
  root(size: number = this.#size): Uint8Array {
    checkRange('size', size, 0, this.#size)
    return size === 0 ? emptyRoot() : this.#subtree(0, size)
  }

  /** Hash of leaf `index`, 32 bytes. Throws `out_of_range`. */
  leaf(index: number): Uint8Array {
    checkRange('index', index, 0, this.#size - 1)
    return this.#node(0, index).slice()
  }

  /** PATH(index, D[size]), RFC 6962 §2.1.1: 32-byte hashes, leaf to root. Throws unless index < size ≤ tree size. */
  inclusionProof(index: number, size: number): Uint8Array[] {
    checkRange('size', size, 1, this.#size)
    checkRange('index', index, 0, size - 1)
    const proof: Uint8Array[] = []
    let start = 0
    let end = size
    while (end - start > 1) {
      const middle = start + splitPoint(end - start)
      if (index < middle) {
        proof.push(this.#subtree(middle, end))
        end = middle
      } else {
        proof.push(this.#subtree(start, middle))
        start = middle
      }
    }
    return proof.toReversed()
  }

  /**
   * PROOF(first, D[second]), RFC 6962 §2.1.2: 32-byte hashes; empty if `first` is 0 or equals `second`. Throws unless
   * 0 ≤ first ≤ second ≤ tree size.
   */
  consistencyProof(first: number, second: number): Uint8Array[] {
    checkRange('second size', second, 0, this.#size)
    checkRange('first size', first, 0, second)
    if (first === 0 || first === second) return []
    const proof: Uint8Array[] = []
    let start = 0
    let end = second
    // Walk down to the subtree that ends exactly at `first`; what hangs off the way is the proof.
    while (first !== end) {
      const middle = start + splitPoint(end - start)
      if (first <= middle) {
        proof.push(this.#subtree(middle, end))
        end = middle
      } else {
        proof.push(this.#subtree(start, middle))
        start = middle
      }
    }
    // The verifier knows this subtree already when it is the whole first tree.
    if (start !== 0) proof.push(this.#subtree(start, end))
    return proof.toReversed()
  }

  /**
   * Tile `n` of tile level `level` (C2SP tlog-tiles): `width` hashes (1 to 256), 32·width bytes, of a tree of `size`
   * leaves; undefined if that tree has no such tile.
   */
  tile(level: number, n: number, width: number, size: number = this.#size): Uint8Array | undefined {
    if (![level, n, width].every((value) => Number.isSafeInteger(value) && value >= 0)) return undefined
    if (width < 1 || width > 256 || size > this.#size) return undefined
    const available = Math.floor(size / 256 ** level)
    const first = n * 256
    if (first + width > available) return undefined
    const nodes = this.#levels[8 * level]?.nodes
    return nodes?.slice(first * HASH_LENGTH, (first + width) * HASH_LENGTH)
  }

  /** Hash of leaves [start, end), where `start` is a multiple of the largest power of two that is below end - start. */
  #subtree(start: number, end: number): Uint8Array {
    const width = end - start
    const level = Math.log2(width)
    if (Number.isInteger(level)) return this.#node(level, start / width).slice()
    if (end !== this.#edgeEnd) {
      this.#edge.clear()
      this.#edgeEnd = end
    }
    const known = this.#edge.get(start)
    if (known !== undefined) return known.slice()
    const middle = start + splitPoint(width)
    const hash = nodeHash(this.#subtree(start, middle), this.#subtree(middle, end))
    this.#edge.set(start, hash)
    return hash.slice()
  }

  #node(level: number, index: number): Uint8Array {
    const nodes = this.#levels[level]?.nodes
    if (nodes === undefined) throw new TlogError('out_of_range', `the tree has no level ${level}`)
    return nodes.subarray(index * HASH_LENGTH, (index + 1) * HASH_LENGTH)
  }

  #store(level: number, index: number, node: Uint8Array): void {
    const held = (this.#levels[level] ??= { nodes: new Uint8Array(64 * HASH_LENGTH) })
    if ((index + 1) * HASH_LENGTH > held.nodes.length) {
      // `transfer` may grow in place, where a copy would hold the level twice.
      held.nodes = new Uint8Array(held.nodes.buffer.transfer(2 * held.nodes.length))
    }
    held.nodes.set(node, index * HASH_LENGTH)
  }
}

function checkRange(what: string, value: number, least: number, most: number): void {
  if (!Number.isSafeInteger(value) || value < least || value > most) {
    throw new TlogError('out_of_range', `${what} ${value} is not between ${least} and ${most}`)
  }
}
