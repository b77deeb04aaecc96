export { type Anchor, AnchorError, type AnchorErrorCode, type Kept, type Stated, type Statement } from './anchor.ts'
export { AnchoredLog, type AnchoredLogOptions, type AnchorState } from './anchored-log.ts'
export { ANCHOR_MARK, anchorFile, fileAnchor } from './file-anchor.ts'
export { witnessAnchor } from './witness.ts'
