import { hash } from 'node:crypto'
import { encodeBase64 } from '../base64.ts'
import { IN_TOTO_PAYLOAD_TYPE, matchSignatures, preAuthenticationEncoding, requireCounts } from '../dsse.ts'
import { type CheckedEntry, checkedEntry } from '../entry.ts'
import { EntryError, invalid } from '../errors.ts'
import { jcs } from '../json.ts'
import { boundedKeys, hashKey, statementKeys, verifierKeys } from '../search-keys.ts'
import { type CheckCost, requireAllowedAlgorithm } from '../signature.ts'
import type { ProtoMessage } from './proto-json.ts'
import { readVerifier, type SubmittedVerifier, VERIFIER_FIELDS } from './verifier.ts'

/** Fields of `DSSERequestV002`. */
export const DSSE_FIELDS = ['envelope', 'verifiers']

/**
 * dsse 0.0.2, which rekor-tiles dropped after 2.2 and cosign 2.6 and sigstore-js still send. Logged are the payload's
 * hash and each signature with the verifier that made it, in the order of the signatures' bytes. Throws `EntryError`.
 */
export function checkDsse(request: ProtoMessage, cost: CheckCost): CheckedEntry {
  const envelope = request.message('envelope', ['payload', 'payloadType', 'signatures'])
  if (envelope === undefined) throw invalid('missing envelope')
  if (request.count('verifiers') === 0) throw invalid('missing verifiers')
  if (envelope.count('signatures') === 0) throw invalid('envelope missing signatures')
  requireCounts(envelope.count('signatures'), request.count('verifiers'))
  const payload = envelope.bytes('payload')
  const payloadType = envelope.string('payloadType')
  const signatures = envelope.messages('signatures', ['sig', 'keyid']).map((message) => {
    message.string('keyid')
    const bytes = message.bytes('sig')
    if (bytes.length === 0) throw invalid('envelope signature empty')
    return { id: encodeBase64(bytes), bytes }
  })
  const verifiers = readVerifiers(request)
  const verifierOf = matchSignatures(
    signatures,
    // An Ed25519 key signs the encoding itself, whatever its details say; the hash is then not used.
    verifiers.map(({ key, hash }) => ({ publicKey: key.publicKey, hash: hash ?? 'sha512' })),
    preAuthenticationEncoding(payloadType, payload),
    { ...cost, stopWhenMatched: true },
  )
  const matched = signatures.flatMap(({ id, bytes }, position) => {
    const verifier = verifiers[verifierOf.get(id) ?? -1]
    // The same signature twice is one.
    if (verifier === undefined || signatures.findIndex((other) => other.id === id) !== position) return []
    return [{ bytes, content: id, verifier }]
  })
  const payloadDigest = hash('sha256', payload, 'buffer')
  return checkedEntry({
    kind: 'dsse',
    version: '0.0.2',
    leaf: jcs({
      apiVersion: '0.0.2',
      kind: 'dsse',
      spec: {
        dsseV002: {
          payloadHash: { algorithm: 'SHA2_256', digest: encodeBase64(payloadDigest) },
          signatures: matched
            .toSorted((a, b) => Buffer.compare(a.bytes, b.bytes))
            .map(({ content, verifier }) => ({ content, verifier: verifier.json })),
        },
      },
    }),
    searchKeys: boundedKeys([
      hashKey('sha256', payloadDigest.toString('hex')),
      ...matched.flatMap(({ verifier }) => verifierKeys(verifier.key)),
      ...(payloadType === IN_TOTO_PAYLOAD_TYPE ? statementKeys(payload) : []),
    ]),
  })
}

/** All verifiers are read and their algorithms checked before the first signature is. */
function readVerifiers(request: ProtoMessage): SubmittedVerifier[] {
  const verifiers = request.messages('verifiers', VERIFIER_FIELDS).map(readVerifier)
  const distinct = new Set(verifiers.map(({ rawBytes }) => encodeBase64(rawBytes)))
  if (distinct.size !== verifiers.length) throw invalid('duplicate verifier')
  for (const { key, hash } of verifiers) {
    if (hash !== undefined) requireAllowedAlgorithm(key.publicKey, hash)
    else if (key.publicKey.kind !== 'ed25519') {
      throw new EntryError('unsupported_algorithm', 'entry algorithms are not allowed')
    }
  }
  return verifiers
}
