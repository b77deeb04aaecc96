import { decodeHex, decodeStandard, encodeBase64 } from '../base64.ts'
import { type CheckedEntry, checkedEntry } from '../entry.ts'
import { EntryError, invalid } from '../errors.ts'
import { jcs, type JsonObject, objectAt, stringAt } from '../json.ts'
import { boundedKeys, hashKey, verifierKeys } from '../search-keys.ts'
import { type CheckCost, HASH_BYTES, requireAllowedAlgorithm, verifyDigest } from '../signature.ts'
import { checkChain, readPemKey } from '../submitted-key.ts'

const ALGORITHMS = ['sha256', 'sha384', 'sha512'] as const

/**
 * hashedrekord 0.0.1: a signature over a digest. What is proposed is what is stored, but for the key, which is written
 * again as canonical PEM; the digest keeps its case. Throws `EntryError`.
 */
export function checkHashedRekord(spec: JsonObject, cost: CheckCost): CheckedEntry {
  const { algorithm, value, content, pem } = readSpec(spec)
  const digest = decodeHex(value)
  const signature = decodeStandard(content, 'signature content')
  const key = readPemKey(decodeStandard(pem, 'public key content'))
  requireAllowedAlgorithm(key.publicKey, algorithm)
  if (!verifyDigest(key.publicKey, algorithm, digest, signature, cost)) {
    throw new EntryError('bad_signature', 'verifying signature: invalid signature when validating the digest')
  }
  checkChain(key.chain, cost.budget)
  return checkedEntry({
    kind: 'hashedrekord',
    version: '0.0.1',
    leaf: jcs({
      apiVersion: '0.0.1',
      kind: 'hashedrekord',
      spec: {
        data: { hash: { algorithm, value } },
        signature: {
          content: encodeBase64(signature),
          publicKey: { content: encodeBase64(Buffer.from(key.canonicalPem)) },
        },
      },
    }),
    searchKeys: boundedKeys([hashKey(algorithm, value), ...verifierKeys(key)]),
  })
}

function readSpec(spec: JsonObject): {
  algorithm: (typeof ALGORITHMS)[number]
  value: string
  content: string
  pem: string
} {
  const hash = objectAt(objectAt(spec, 'data'), 'hash')
  const signature = objectAt(spec, 'signature')
  if (signature === undefined) throw invalid('missing signature')
  if (hash === undefined) throw invalid('missing hash')
  const named = stringAt(hash, 'algorithm')
  const algorithm = ALGORITHMS.find((known) => known === named)
  if (algorithm === undefined) throw invalid('data.hash.algorithm in body should be one of [sha256 sha384 sha512]')
  const value = stringAt(hash, 'value')
  if (value === undefined) throw invalid('missing hash value')
  if (value.length !== 2 * HASH_BYTES[algorithm] || !/^[0-9a-fA-F]+$/.test(value))
    throw invalid('invalid value for hash')
  const content = stringAt(signature, 'content')
  if (content === undefined || content === '') throw invalid('missing signature content')
  const pem = stringAt(objectAt(signature, 'publicKey'), 'content')
  if (pem === undefined || pem === '') throw invalid('missing public key')
  return { algorithm, value, content, pem }
}
