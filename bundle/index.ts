export {
  type EntryWithProof,
  parseBundle,
  Refusal,
  type RefusalCode,
  refuseContradictions,
  requireSigner,
  type VerifiedSigner,
  verifyBundle,
} from './verify.ts'
