export { fromHex, toHex } from './encoding.ts'
export { VerifierError, type VerifierErrorCode } from './errors.ts'
export {
  formatTransparencyLogEntry,
  kindVersionOf,
  type LogEntry,
  parseRekorV1Entry,
  parseTransparencyLogEntry,
} from './log-entry.ts'
export { type RemoteLog, type RemoteLogOptions, rekorV1, rekorV2 } from './remote-log.ts'
export { type FetchTile, TileTree } from './tile-tree.ts'
export { readTrustedLogs, type TrustedLog } from './trusted-logs.ts'
export {
  leafNamesDigest,
  type VerifiedEntry,
  verifyEntry,
  verifyGrowth,
  verifyPromise,
  verifySignedCheckpoint,
} from './verify.ts'
