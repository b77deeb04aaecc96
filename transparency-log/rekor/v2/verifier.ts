import { encodeBase64 } from '../base64.ts'
import { EntryError, invalid } from '../errors.ts'
import type { Json } from '../json.ts'
import type { HashAlgorithm } from '../signature.ts'
import { readCertificateKey, readSpkiKey, type SubmittedKey } from '../submitted-key.ts'
import { type ProtoMessage, requireOneOf } from './proto-json.ts'

/** `PublicKeyDetails` of sigstore_common.proto that may be logged, with the hash that each implies. */
const KEY_DETAILS = {
  PKIX_ECDSA_P256_SHA_256: { number: 5, hash: 'sha256' },
  PKIX_ED25519: { number: 7, hash: undefined },
  PKIX_ED25519_PH: { number: 8, hash: 'sha512' },
  PKIX_RSA_PKCS1V15_2048_SHA256: { number: 9, hash: 'sha256' },
  PKIX_RSA_PKCS1V15_3072_SHA256: { number: 10, hash: 'sha256' },
  PKIX_RSA_PKCS1V15_4096_SHA256: { number: 11, hash: 'sha256' },
  PKIX_ECDSA_P384_SHA_384: { number: 12, hash: 'sha384' },
  PKIX_ECDSA_P521_SHA_512: { number: 13, hash: 'sha512' },
} as const satisfies Record<string, { number: number; hash: HashAlgorithm | undefined }>

export type KeyDetails = keyof typeof KEY_DETAILS

const NUMBERS: Readonly<Record<string, number>> = Object.fromEntries(
  Object.entries(KEY_DETAILS).map(([name, { number }]) => [name, number]),
)

/** The fields of a `Verifier` message. */
export const VERIFIER_FIELDS = ['publicKey', 'x509Certificate', 'keyDetails']

/** A verifier as it was submitted: clients rebuild the leaf from these very bytes. */
export interface SubmittedVerifier {
  readonly keyDetails: KeyDetails
  /** Undefined for pure Ed25519, which hashes inside. */
  readonly hash: HashAlgorithm | undefined
  readonly rawBytes: Uint8Array
  readonly key: SubmittedKey
  /** The message as protojson writes it. */
  readonly json: Json
}

/** Reads a `Verifier`; throws `schema`, `invalid` or `unsupported_algorithm`. */
export function readVerifier(message: ProtoMessage): SubmittedVerifier {
  requireOneOf(message, 'publicKey', 'x509Certificate')
  const publicKey = message.message('publicKey', ['rawBytes'])
  const certificate = message.message('x509Certificate', ['rawBytes'])
  const holder = publicKey ?? certificate
  if (holder === undefined) throw invalid('invalid verifier: missing signature public key or X.509 certificate')
  const rawBytes = holder.bytes('rawBytes')
  if (rawBytes.length === 0) {
    throw invalid(`invalid verifier: missing ${publicKey === undefined ? 'X.509 certificate' : 'public key'} raw bytes`)
  }
  const keyDetails = message.enum('keyDetails', NUMBERS)
  if (keyDetails === undefined || !isKeyDetails(keyDetails)) {
    throw new EntryError('unsupported_algorithm', 'getting key algorithm details: unsupported key details')
  }
  return {
    keyDetails,
    hash: KEY_DETAILS[keyDetails].hash,
    rawBytes,
    key: publicKey === undefined ? readCertificateKey(rawBytes) : readSpkiKey(rawBytes),
    json: {
      keyDetails,
      [publicKey === undefined ? 'x509Certificate' : 'publicKey']: { rawBytes: encodeBase64(rawBytes) },
    },
  }
}

function isKeyDetails(name: string): name is KeyDetails {
  return Object.hasOwn(KEY_DETAILS, name)
}
