import { encodeBase64, encodeHex } from '../base64.ts'
import { type CheckedEntry, checkedEntry } from '../entry.ts'
import { EntryError, invalid } from '../errors.ts'
import { jcs } from '../json.ts'
import { boundedKeys, hashKey, verifierKeys } from '../search-keys.ts'
import { type CheckCost, HASH_BYTES, type HashAlgorithm, requireAllowedAlgorithm, verifyDigest } from '../signature.ts'
import type { ProtoMessage } from './proto-json.ts'
import { readVerifier, VERIFIER_FIELDS } from './verifier.ts'

/** Fields of `HashedRekordRequestV002`. */
export const HASHED_REKORD_FIELDS = ['digest', 'signature']

/** `HashAlgorithm` of sigstore_common.proto. */
export const HASH_NAMES: Readonly<Record<HashAlgorithm, string>> = {
  sha256: 'SHA2_256',
  sha384: 'SHA2_384',
  sha512: 'SHA2_512',
}

/** hashedrekord 0.0.2: a signature over a digest; the verifier's key details name the hash. Throws `EntryError`. */
export function checkHashedRekord(request: ProtoMessage, cost: CheckCost): CheckedEntry {
  const digest = request.bytes('digest')
  const message = request.message('signature', ['content', 'verifier'])
  const signature = message?.bytes('content') ?? new Uint8Array()
  if (message === undefined || signature.length === 0) throw invalid('missing signature')
  const submitted = message.message('verifier', VERIFIER_FIELDS)
  if (submitted === undefined) throw invalid('missing verifier')
  if (digest.length === 0) throw invalid('missing digest')
  const { key, hash, json } = readVerifier(submitted)
  if (hash === undefined) {
    throw new EntryError(
      'unsupported_algorithm',
      'unsupported signing algorithm PKIX_ED25519 for hashedrekord: no associated digest algorithm',
    )
  }
  requireAllowedAlgorithm(key.publicKey, hash)
  if (digest.length !== HASH_BYTES[hash]) {
    throw invalid(
      `digest length (${digest.length}) does not match expected size (${HASH_BYTES[hash]}) for algorithm ${hash}`,
    )
  }
  if (!verifyDigest(key.publicKey, hash, digest, signature, cost)) {
    throw new EntryError('bad_signature', 'verifying signature: invalid signature when validating the digest')
  }
  return checkedEntry({
    kind: 'hashedrekord',
    version: '0.0.2',
    leaf: jcs({
      apiVersion: '0.0.2',
      kind: 'hashedrekord',
      spec: {
        hashedRekordV002: {
          data: { algorithm: HASH_NAMES[hash], digest: encodeBase64(digest) },
          signature: { content: encodeBase64(signature), verifier: json },
        },
      },
    }),
    searchKeys: boundedKeys([hashKey(hash, encodeHex(digest)), ...verifierKeys(key)]),
  })
}
