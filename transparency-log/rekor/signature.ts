/** Verification of the signatures that entries carry: over a given digest, or over a message that is at hand. */
import { constants, hash as digestOf, publicDecrypt, verify } from 'node:crypto'
import { eddsa } from '@noble/curves/abstract/edwards.js'
import { ed25519 } from '@noble/curves/ed25519.js'
import { sha512 } from '@noble/hashes/sha2.js'
import { verifyEcdsaDigest } from '#native'
import {
  CURVE_BYTES,
  ecdsaDerToP1363,
  type EcdsaPublicKey,
  type PublicKey,
  type RsaPublicKey,
  toKeyObject,
  X509Error,
} from '#x509'
import { EntryError } from './errors.ts'
import type { CheckBudget } from './limits.ts'

export type HashAlgorithm = 'sha256' | 'sha384' | 'sha512'

export const HASH_BYTES: Readonly<Record<HashAlgorithm, number>> = { sha256: 32, sha384: 48, sha512: 64 }

/** Lets through what an expensive check may cost; throws `busy`. */
export type RateCap = () => void

/**
 * At most `perSecond` checks in any second after a burst of as many. Ed25519ph takes 1.3 ms of a worker and an
 * anonymous request: without a cap it is the cheapest way to keep all others waiting.
 */
export function rateCap(perSecond: number, now: () => number = () => performance.now()): RateCap {
  let tokens = perSecond
  let last = now()
  return () => {
    const at = now()
    tokens = Math.min(perSecond, tokens + ((at - last) / 1000) * perSecond)
    last = at
    if (tokens < 1) throw new EntryError('busy', 'too many Ed25519ph signatures just now; retry')
    tokens -= 1
  }
}

/** What a verification is charged to. */
export interface CheckCost {
  readonly budget: CheckBudget
  readonly ed25519ph: RateCap
}

/**
 * Throws `unsupported_algorithm` unless rekor's registry has this pair for hashed entries: RSA 2048/3072/4096 PKCS#1
 * v1.5 with SHA-256, P-256/SHA-256, P-384/SHA-384, P-521/SHA-512, Ed25519ph (SHA-512).
 */
export function requireAllowedAlgorithm(key: PublicKey, hash: HashAlgorithm): void {
  const allowed =
    key.kind === 'ecdsa'
      ? CURVE_HASH[key.curve] === hash
      : key.kind === 'rsa'
        ? hash === 'sha256' && (key.bits === 2048 || key.bits === 3072 || key.bits === 4096)
        : hash === 'sha512'
  if (!allowed) throw new EntryError('unsupported_algorithm', 'entry algorithms are not allowed')
  requireBoundedKey(key)
}

/** Throws `unsupported_algorithm` for RSA keys whose arithmetic costs too much, or protects nothing. */
export function requireBoundedKey(key: PublicKey): void {
  if (key.kind !== 'rsa') return
  if (key.bits < 2048 || key.bits > 4096) {
    throw new EntryError('unsupported_algorithm', `rsa key of ${key.bits} bits; 2048 to 4096 are accepted`)
  }
  // Go's crypto/rsa has the same bounds; a long exponent makes one check cost hundreds.
  if (key.exponent < 3n || key.exponent > 0x7fff_ffffn || key.exponent % 2n === 0n) {
    throw new EntryError('unsupported_algorithm', 'rsa exponent is even or out of range')
  }
}

/** True if `signature` is the key's over `digest`, which `hash` made; for an Ed25519 key it is Ed25519ph (RFC 8032 §5.1). */
export function verifyDigest(
  key: PublicKey,
  hash: HashAlgorithm,
  digest: Uint8Array,
  signature: Uint8Array,
  cost: CheckCost,
): boolean {
  if (digest.length !== HASH_BYTES[hash]) return false
  cost.budget.spend()
  if (key.kind === 'ecdsa') return verifyEcdsa(key, digest, signature)
  if (key.kind === 'rsa') return verifyRsa(key, hash, digest, signature)
  if (hash !== 'sha512' || signature.length !== 64) return false
  cost.ed25519ph()
  return ed25519phDigest.verify(signature, digest, key.raw)
}

/** True if `signature` is the key's over `message`; `hash` is for ECDSA and RSA, an Ed25519 key signs the message itself. */
export function verifyMessage(
  key: PublicKey,
  hash: HashAlgorithm,
  message: Uint8Array,
  signature: Uint8Array,
  cost: CheckCost,
): boolean {
  if (key.kind !== 'ed25519') {
    return verifyDigest(key, hash, Uint8Array.from(digestOf(hash, message, 'buffer')), signature, cost)
  }
  cost.budget.spend()
  return signature.length === 64 && verify(null, message, toKeyObject(key), signature)
}

const CURVE_HASH: Readonly<Record<EcdsaPublicKey['curve'], HashAlgorithm>> = {
  'P-256': 'sha256',
  'P-384': 'sha384',
  'P-521': 'sha512',
}

/** ASN.1 DER only, as Go's VerifyASN1: r‖s would be a second form of the same entry. */
function verifyEcdsa(key: EcdsaPublicKey, digest: Uint8Array, signature: Uint8Array): boolean {
  const size = CURVE_BYTES[key.curve]
  let rs: Uint8Array
  try {
    rs = ecdsaDerToP1363(signature, size)
  } catch (error) {
    if (error instanceof X509Error) return false
    throw error
  }
  const { curve, point } = key
  return verifyEcdsaDigest({ curve, point, r: rs.subarray(0, size), s: rs.subarray(size), digest })
}

/** DER of DigestInfo up to the digest (RFC 8017 §9.2, note 1). */
const DIGEST_INFO: Readonly<Record<HashAlgorithm, Uint8Array>> = {
  sha256: Buffer.from('3031300d060960864801650304020105000420', 'hex'),
  sha384: Buffer.from('3041300d060960864801650304020205000430', 'hex'),
  sha512: Buffer.from('3051300d060960864801650304020305000440', 'hex'),
}

/** PKCS#1 v1.5: the recovered block is compared whole, never parsed (Bleichenbacher 2006). */
function verifyRsa(key: RsaPublicKey, hash: HashAlgorithm, digest: Uint8Array, signature: Uint8Array): boolean {
  if (signature.length !== Math.ceil(key.bits / 8)) return false
  let recovered: Buffer
  try {
    recovered = publicDecrypt({ key: toKeyObject(key), padding: constants.RSA_PKCS1_PADDING }, signature)
  } catch {
    // OpenSSL tells a wrong padding, the usual sign of a wrong signature, by an error.
    return false
  }
  return recovered.equals(Buffer.concat([DIGEST_INFO[hash], digest]))
}

/** Ed25519ph whose message is the digest already; strict decoding as RFC 8032 §5.1.7, and as Go's verifier. */
const ed25519phDigest = eddsa(ed25519.Point, sha512, {
  zip215: false,
  prehash: (digest: Uint8Array) => digest,
  domain: (data: Uint8Array, context: Uint8Array, flag: boolean) =>
    Buffer.concat([
      Buffer.from('SigEd25519 no Ed25519 collisions'),
      Uint8Array.of(flag ? 1 : 0, context.length),
      context,
      data,
    ]),
})
