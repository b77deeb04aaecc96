export {
  type BundleVerifier,
  bundleVerifier,
  type EntryWithProof,
  parseBundle,
  parseTrustedRoot,
  Refusal,
  type RefusalCode,
  refuseContradictions,
  requireSigner,
  type VerifiedSigner,
  verifyBundle,
} from './verify.ts'
