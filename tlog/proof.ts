/** Verification of Merkle proofs, RFC 6962 §2.1.1 and §2.1.2, from nothing but the proof. */
import { equalBytes } from './bytes.ts'
import { TlogError } from './errors.ts'
import { HASH_LENGTH, nodeHash, splitPoint } from './tree.ts'

/**
 * The root that an inclusion proof (32-byte hashes, leaf to root) leads to for leaf `index` of a tree of `size`. Throws
 * `out_of_range` unless index < size, `invalid_proof` if the proof has not exactly the hashes that this place needs.
 */
export function rootFromInclusionProof(
  index: number,
  size: number,
  leafHash: Uint8Array,
  proof: readonly Uint8Array[],
): Uint8Array {
  if (!Number.isSafeInteger(size) || !Number.isSafeInteger(index) || index < 0 || index >= size) {
    throw new TlogError('out_of_range', `index ${index} is not in a tree of ${size}`)
  }
  checkHashes([leafHash, ...proof])
  const hashes = new Reader(proof)
  const root = fold(index, 0, size, leafHash, hashes)
  hashes.end()
  return root
}

/** What is claimed by an inclusion proof; hashes of 32 bytes, the proof from leaf to root. */
export interface InclusionClaim {
  readonly index: number
  readonly size: number
  readonly leafHash: Uint8Array
  readonly rootHash: Uint8Array
  readonly proof: readonly Uint8Array[]
}

/** Throws `invalid_proof` or `out_of_range` unless the leaf is at `index` of the tree with this size and root. */
export function verifyInclusion(claim: InclusionClaim): void {
  const root = rootFromInclusionProof(claim.index, claim.size, claim.leafHash, claim.proof)
  if (!equalBytes(root, claim.rootHash)) throw new TlogError('invalid_proof', 'the proof leads to another root')
}

/** What is claimed by a consistency proof; hashes of 32 bytes. */
export interface ConsistencyClaim {
  readonly first: number
  readonly firstRoot: Uint8Array
  readonly second: number
  readonly secondRoot: Uint8Array
  readonly proof: readonly Uint8Array[]
}

/**
 * Throws `invalid_proof` or `out_of_range` unless the first tree is a prefix of the second. From size 0 every tree is a
 * continuation and the proof is empty; equal sizes need equal roots and an empty proof.
 */
export function verifyConsistency(claim: ConsistencyClaim): void {
  const { first, second, firstRoot, secondRoot, proof } = claim
  if (!Number.isSafeInteger(second) || !Number.isSafeInteger(first) || first < 0 || first > second) {
    throw new TlogError('out_of_range', `sizes ${first} and ${second} are not in order`)
  }
  checkHashes([firstRoot, secondRoot, ...proof])
  if (first === 0 || first === second) {
    if (proof.length > 0) throw new TlogError('invalid_proof', 'the proof should be empty')
    if (first === second && !equalBytes(firstRoot, secondRoot)) {
      throw new TlogError('invalid_proof', `two roots for size ${first}`)
    }
    return
  }
  const hashes = new Reader(proof)
  const [firstFound, secondFound] = foldBoth(0, second, first, firstRoot, hashes)
  hashes.end()
  if (!equalBytes(firstFound, firstRoot)) throw new TlogError('invalid_proof', 'the proof leads to another first root')
  if (!equalBytes(secondFound, secondRoot)) {
    throw new TlogError('invalid_proof', 'the proof leads to another second root')
  }
}

/** Proof hashes from the leaf's end; a missing or left-over one is an error. */
class Reader {
  readonly #hashes: readonly Uint8Array[]
  #next = 0
  constructor(hashes: readonly Uint8Array[]) {
    this.#hashes = hashes
  }
  take(): Uint8Array {
    const hash = this.#hashes[this.#next++]
    if (hash === undefined) throw new TlogError('invalid_proof', 'the proof has too few hashes')
    return hash
  }
  end(): void {
    if (this.#next !== this.#hashes.length) throw new TlogError('invalid_proof', 'the proof has too many hashes')
  }
}

/** The hash of [start, end), which holds leaf `index`, from that leaf and the proof. */
function fold(index: number, start: number, end: number, leafHash: Uint8Array, hashes: Reader): Uint8Array {
  if (end - start === 1) return leafHash
  const middle = start + splitPoint(end - start)
  if (index < middle) {
    const left = fold(index, start, middle, leafHash, hashes)
    return nodeHash(left, hashes.take())
  }
  const right = fold(index, middle, end, leafHash, hashes)
  return nodeHash(hashes.take(), right)
}

/** The hashes of [start, min(first, end)) and of [start, end), both from the proof of the subtree that holds `first`. */
function foldBoth(
  start: number,
  end: number,
  first: number,
  firstRoot: Uint8Array,
  hashes: Reader,
): [Uint8Array, Uint8Array] {
  if (first === end) {
    const shared = start === 0 ? firstRoot : hashes.take()
    return [shared, shared]
  }
  const middle = start + splitPoint(end - start)
  if (first <= middle) {
    const [before, after] = foldBoth(start, middle, first, firstRoot, hashes)
    return [before, nodeHash(after, hashes.take())]
  }
  const [before, after] = foldBoth(middle, end, first, firstRoot, hashes)
  const left = hashes.take()
  return [nodeHash(left, before), nodeHash(left, after)]
}

function checkHashes(hashes: readonly Uint8Array[]): void {
  for (const hash of hashes) {
    if (hash.length !== HASH_LENGTH) throw new TlogError('invalid_proof', `a hash has ${hash.length} bytes, not 32`)
  }
}
