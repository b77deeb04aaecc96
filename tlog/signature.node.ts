import { createPublicKey, verify } from 'node:crypto'
import type { NoteKey } from './signature.ts'

/** True if the signature (ECDSA: DER over the hash that fits the curve) of a note's key verifies. */
export function verifySignature(key: NoteKey, signature: Uint8Array, message: Uint8Array): boolean {
  const digest = { 'P-256': 'sha256', 'P-384': 'sha384', Ed25519: null }[key.algorithm]
  try {
    return verify(
      digest,
      message,
      createPublicKey({ key: Buffer.from(key.spkiDer), format: 'der', type: 'spki' }),
      signature,
    )
  } catch {
    // A point off the curve; for the caller the same refusal.
    return false
  }
}
