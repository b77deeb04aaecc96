import { ed25519 } from '@noble/curves/ed25519.js'
import { p256, p384 } from '@noble/curves/nist.js'
import type { NoteKey } from './signature.ts'

/** True if the signature (ECDSA: DER over the hash that fits the curve) of a note's key verifies. */
export function verifySignature(key: NoteKey, signature: Uint8Array, message: Uint8Array): boolean {
  try {
    // RFC 8032 verification, as Node does; ZIP-215's laxer rule accepts more.
    if (key.algorithm === 'Ed25519') return ed25519.verify(signature, message, key.raw, { zip215: false })
    const curve = key.algorithm === 'P-256' ? p256 : p384
    // HSMs do not normalise s, so a high one is as good.
    return curve.verify(signature, message, key.raw, { format: 'der', lowS: false, prehash: true })
  } catch {
    // noble throws for what is no signature or no point; for the caller the same refusal.
    return false
  }
}
