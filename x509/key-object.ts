/** The only file of this folder, beside `certificate.ts`, that needs Node's own cryptography. */
import { createPublicKey, hash, verify, type KeyObject } from 'node:crypto'
import { X509Error } from './errors.ts'
import { keyBits, type PublicKey } from './spki.ts'

/** SHA-1 of the key bits, 20 bytes (RFC 5280 §4.2.1.2, method 1): an identifier, nothing rests on SHA-1 here. */
export function keyIdentifier(spkiDer: Uint8Array): Uint8Array {
  return Uint8Array.from(hash('sha1', keyBits(spkiDer), 'buffer'))
}

/** SHA-256, 32 bytes. */
export function sha256(bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(hash('sha256', bytes, 'buffer'))
}

/** Making a KeyObject costs about as much as half a verification; issuers are asked for again and again. */
const keyObjects = new WeakMap<PublicKey, KeyObject>()

/** The key for `node:crypto`; made once for each `PublicKey`. Throws `weak_key` if OpenSSL refuses it (point off the curve). */
export function toKeyObject(key: PublicKey): KeyObject {
  const known = keyObjects.get(key)
  if (known !== undefined) return known
  try {
    const made = createPublicKey({ key: Buffer.from(key.spkiDer), format: 'der', type: 'spki' })
    keyObjects.set(key, made)
    return made
  } catch (error) {
    throw new X509Error('weak_key', 'key is refused by openssl', { cause: error })
  }
}

/** Hash in `node:crypto`'s spelling and key kind of a signature algorithm; Ed25519 has no hash of its own. */
export interface SignatureAlgorithm {
  readonly kind: PublicKey['kind']
  readonly hash: 'sha256' | 'sha384' | 'sha512' | undefined
}

/** Signature algorithms that are verified here, by object identifier. SHA-1, PSS and the rest are not. */
export const SIGNATURE_ALGORITHMS: Readonly<Record<string, SignatureAlgorithm>> = {
  '1.2.840.10045.4.3.2': { kind: 'ecdsa', hash: 'sha256' },
  '1.2.840.10045.4.3.3': { kind: 'ecdsa', hash: 'sha384' },
  '1.2.840.10045.4.3.4': { kind: 'ecdsa', hash: 'sha512' },
  '1.2.840.113549.1.1.11': { kind: 'rsa', hash: 'sha256' },
  '1.2.840.113549.1.1.12': { kind: 'rsa', hash: 'sha384' },
  '1.2.840.113549.1.1.13': { kind: 'rsa', hash: 'sha512' },
  '1.3.101.112': { kind: 'ed25519', hash: undefined },
}

/** True if `signature` (ECDSA in ASN.1 DER, RSA PKCS#1 v1.5) is the key's over `message`; false also for an algorithm that is not the key's. */
export function verifySignature(
  algorithmOid: string,
  key: PublicKey,
  message: Uint8Array,
  signature: Uint8Array,
): boolean {
  const algorithm = SIGNATURE_ALGORITHMS[algorithmOid]
  if (algorithm === undefined || algorithm.kind !== key.kind) return false
  return verify(algorithm.hash ?? null, message, toKeyObject(key), signature)
}
