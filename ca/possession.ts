import { verify } from 'node:crypto'
import {
  checkKeyStrength,
  decodePem,
  ecdsaP1363ToDer,
  type NamedCurve,
  parseCsr,
  type ParsedCsr,
  parseEcdsaSignature,
  parsePublicKeyPem,
  parseSpki,
  type PublicKey,
  SIGNATURE_ALGORITHMS,
  toKeyObject,
  X509Error,
  type X509ErrorCode,
} from '#x509'
import { CaError, type CaErrorCode } from './error.ts'

/** The key that a certificate is asked for, with the proof that the caller holds its private half. */
export type RequestedKey =
  | {
      readonly kind: 'publicKey'
      /** PEM (PUBLIC KEY, RSA PUBLIC KEY) or DER of an SPKI; empty if the request had none. */
      readonly encoded: Uint8Array
      /** Signature over the challenge. */
      readonly proof: Uint8Array
    }
  | {
      readonly kind: 'csr'
      /** PEM (CERTIFICATE REQUEST, NEW CERTIFICATE REQUEST). */
      readonly pem: Uint8Array
    }

type Hash = 'sha256' | 'sha384' | 'sha512'

/** A key that was parsed and found strong enough; who holds it is not yet known. */
export interface CandidateKey {
  readonly publicKey: PublicKey
  /** Hash of the signature that proves possession; absent for Ed25519. */
  readonly hash: Hash | undefined
  readonly proof:
    | { readonly kind: 'challenge'; readonly signature: Uint8Array }
    | { readonly kind: 'csr'; readonly csr: ParsedCsr }
}

/** sigstore's default hash per key since v1.7: that of the curve's strength, SHA-256 for RSA. */
const DEFAULT_HASH: Readonly<Record<NamedCurve, Hash>> = { 'P-256': 'sha256', 'P-384': 'sha384', 'P-521': 'sha512' }

/** Parses the requested key and refuses weak ones; throws `invalid_public_key`, `invalid_csr` or `insecure_public_key`. */
export function parseRequestedKey(requested: RequestedKey): CandidateKey {
  if (requested.kind === 'csr') {
    const csr = x509('invalid_csr', () => parseCsr(csrDer(requested.pem)))
    requireStrong(csr.publicKey)
    return { publicKey: csr.publicKey, hash: csr.hash, proof: { kind: 'csr', csr } }
  }
  const publicKey = x509('invalid_public_key', () => parsePublicKey(requested.encoded))
  requireStrong(publicKey)
  return { publicKey, hash: defaultHash(publicKey), proof: { kind: 'challenge', signature: requested.proof } }
}

/**
 * Rejects `invalid_signature` unless the caller signed: the challenge, or its CSR. A challenge is no nonce: the proof
 * can be used again while the token lives, by whoever has both, as in Fulcio.
 */
export async function requirePossession({ publicKey, hash, proof }: CandidateKey, challenge: string): Promise<void> {
  if (proof.kind === 'csr') {
    const algorithm = SIGNATURE_ALGORITHMS[proof.csr.signatureAlgorithmOid]
    if (algorithm === undefined) {
      throw new CaError(
        'algorithm_not_permitted',
        `signature algorithm ${proof.csr.signatureAlgorithmOid} is not supported`,
      )
    }
    if (algorithm.kind !== publicKey.kind)
      throw new CaError('invalid_signature', 'the signature of the request is not of its key')
    await requireSignature(hash, publicKey, proof.csr.tbsDer, proof.csr.signature)
    return
  }
  await requireSignature(hash, publicKey, new TextEncoder().encode(challenge), proof.signature)
}

/** Fulcio's default `client-signing-algorithms`; throws `algorithm_not_permitted`. A CSR may name any hash, so this is not implied. */
export function requirePermittedAlgorithm({ publicKey, hash }: CandidateKey): void {
  if (hash !== defaultHash(publicKey)) {
    throw new CaError(
      'algorithm_not_permitted',
      `signing algorithm not permitted: ${publicKey.kind} with ${hash ?? 'no hash'}`,
    )
  }
}

async function requireSignature(
  hash: Hash | undefined,
  key: PublicKey,
  message: Uint8Array,
  signature: Uint8Array,
): Promise<void> {
  const der = key.kind === 'ecdsa' ? ecdsaDer(signature, key.curve) : signature
  if (der === undefined || !(await verifies(hash, key, message, der))) {
    throw new CaError('invalid_signature', 'the key did not sign it')
  }
}

/** Clients send ECDSA signatures in either form. */
function ecdsaDer(signature: Uint8Array, curve: NamedCurve): Uint8Array | undefined {
  try {
    const { r, s } = parseEcdsaSignature(signature, curve)
    return ecdsaP1363ToDer(Buffer.concat([r, s]))
  } catch (error) {
    if (error instanceof X509Error) return undefined
    throw error
  }
}

/** The callback form verifies on the thread pool: P-384 and P-521 would hold the event loop for half a millisecond. */
export function verifies(
  hash: Hash | undefined,
  key: PublicKey,
  message: Uint8Array,
  signatureDer: Uint8Array,
): Promise<boolean> {
  const { promise, resolve, reject } = Promise.withResolvers<boolean>()
  verify(hash ?? null, message, toKeyObject(key), signatureDer, (error, valid) => {
    if (error === null) resolve(valid)
    else reject(error)
  })
  return promise
}

function parsePublicKey(encoded: Uint8Array): PublicKey {
  if (encoded.length === 0) throw new CaError('invalid_public_key', 'no public key was given')
  return encoded[0] === 0x30 ? parseSpki(encoded) : parsePublicKeyPem(text(encoded))
}

function csrDer(pem: Uint8Array): Uint8Array {
  const [block] = decodePem(text(pem), { labels: ['CERTIFICATE REQUEST', 'NEW CERTIFICATE REQUEST'], max: 1 })
  return block?.der ?? new Uint8Array()
}

function text(bytes: Uint8Array): string {
  // Latin-1 reads any byte: what is not PEM is refused by the reader of PEM, with its own error.
  return Buffer.from(bytes).toString('latin1')
}

function requireStrong(key: PublicKey): void {
  x509('insecure_public_key', () => {
    checkKeyStrength(key)
    // OpenSSL's own opinion, and the import that the verification needs anyway.
    toKeyObject(key)
  })
}

function defaultHash(key: PublicKey): Hash | undefined {
  if (key.kind === 'ecdsa') return DEFAULT_HASH[key.curve]
  return key.kind === 'rsa' ? 'sha256' : undefined
}

/** X.509 errors that say more than that the input is malformed. */
const KEY_FAULTS: Partial<Record<X509ErrorCode, CaErrorCode>> = {
  weak_key: 'insecure_public_key',
  unsupported_key: 'insecure_public_key',
}

function x509<T>(code: CaErrorCode, parse: () => T): T {
  try {
    return parse()
  } catch (cause) {
    if (!(cause instanceof X509Error)) throw cause
    throw new CaError(KEY_FAULTS[cause.code] ?? code, cause.message, { cause })
  }
}
