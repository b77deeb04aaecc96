export {
  type Checkpoint,
  formatCheckpoint,
  parseCheckpoint,
  signatureName,
  verifyCheckpoint,
  witnessOrigin,
} from './checkpoint.ts'
export { parseWitnessKey, verifyCosignature, type WitnessKey } from './cosignature.ts'
export { TlogError, type TlogErrorCode } from './errors.ts'
export {
  formatNote,
  keyHintC2sp,
  keyHintSpki,
  type Note,
  type NoteSignature,
  parseNote,
  parseSignatureLines,
  signNoteText,
  vkeyEcdsa,
  vkeyEd25519,
  withSignatures,
} from './note.ts'
export {
  type ConsistencyClaim,
  type InclusionClaim,
  rootFromInclusionProof,
  verifyConsistency,
  verifyInclusion,
} from './proof.ts'
export {
  decodeEntryBundle,
  encodeEntryBundle,
  entryBundlePath,
  MAX_BUNDLE_ENTRY_LENGTH,
  parseTilePath,
  TILE_WIDTH,
  type Tile,
  type TilePath,
  tilePath,
  tilesForGrowth,
} from './tiles.ts'
export { emptyRoot, HASH_LENGTH, leafHash, MerkleTree, nodeHash } from './tree.ts'
