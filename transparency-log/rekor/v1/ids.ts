/** Identifiers of Rekor v1: tree ids, leaf hashes ("UUID"), and entry ids that join them. */
import { encodeHex } from '../base64.ts'
import { EntryError } from '../errors.ts'

const MAX_TREE_ID = 2n ** 63n - 1n

/** A tree id as both of its spellings. */
export interface TreeId {
  /** Decimal, as in checkpoints, `log`, `log/proof` and `log/publicKey`. */
  readonly decimal: string
  /** 16 hex digits, as at the start of entry ids. */
  readonly hex: string
}

/** Reads a tree id, a positive int64 in decimal without leading zeros; throws RangeError (a fault of configuration). */
export function parseTreeId(decimal: string): TreeId {
  if (!/^[1-9][0-9]{0,18}$/.test(decimal) || BigInt(decimal) > MAX_TREE_ID) {
    throw new RangeError(`tree id ${decimal} is not a positive 64-bit integer in decimal`)
  }
  return { decimal, hex: BigInt(decimal).toString(16).padStart(16, '0') }
}

/** 80 hex digits: tree id, then leaf hash. */
export function entryIdOf(tree: TreeId, leafHash: Uint8Array): string {
  return tree.hex + encodeHex(leafHash)
}

/**
 * Splits an entry id of 64 or 80 hex digits; `treeHex` is undefined for a bare leaf hash. Throws `invalid` for a tree
 * id that is no positive int64.
 */
export function splitEntryId(id: string): { readonly treeHex: string | undefined; readonly leafHashHex: string } {
  if (id.length === 64) return { treeHex: undefined, leafHashHex: id.toLowerCase() }
  const treeHex = id.slice(0, 16).toLowerCase()
  const tree = BigInt(`0x${treeHex}`)
  if (tree > MAX_TREE_ID) throw new EntryError('invalid', `${treeHex} is not a valid TreeID`)
  if (tree === 0n) throw new EntryError('invalid', '0 is not a valid TreeID')
  return { treeHex, leafHashHex: id.slice(16).toLowerCase() }
}
