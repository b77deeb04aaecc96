/** DSSE envelopes (github.com/secure-systems-lab/dsse): what is signed, and which key made which signature. */
import type { PublicKey } from '#x509'
import { EntryError, invalid } from './errors.ts'
import { arrayAt, isObject, parseJson, stringAt } from './json.ts'
import { MAX_SIGNATURES, MAX_VERIFIERS } from './limits.ts'
import { type CheckCost, type HashAlgorithm, verifyMessage } from './signature.ts'

/** The payload type whose statements name their subjects. */
export const IN_TOTO_PAYLOAD_TYPE = 'application/vnd.in-toto+json'

/** Pre-authentication encoding: `DSSEv1 <len> <type> <len> <payload>`, lengths in bytes. */
export function preAuthenticationEncoding(payloadType: string, payload: Uint8Array): Uint8Array {
  const type = Buffer.from(payloadType, 'utf8')
  return Buffer.concat([Buffer.from(`DSSEv1 ${type.length} `), type, Buffer.from(` ${payload.length} `), payload])
}

/** A signature of an envelope, under the name that identifies it in the entry. */
export interface EnvelopeSignature {
  readonly id: string
  readonly bytes: Uint8Array
}

/** Throws `too_many` before a byte of a signature is decoded. */
export function requireCounts(signatures: number, verifiers: number): void {
  if (signatures > MAX_SIGNATURES) {
    throw new EntryError('too_many', `too many signatures: ${signatures}, max allowed: ${MAX_SIGNATURES}`)
  }
  if (verifiers > MAX_VERIFIERS) {
    throw new EntryError('too_many', `too many verifiers: ${verifiers}, max allowed: ${MAX_VERIFIERS}`)
  }
}

/**
 * Which verifier made which signature, by go-securesystemslib's rules as rekor uses them: verifiers in their order,
 * each counts for the first signature that it verifies, one that verifies none is an error, a later one replaces an
 * earlier one of the same signature. With `stopWhenMatched` verifiers that are left over are not even tried (dsse
 * 0.0.1 and 0.0.2; not intoto). Returns the verifier's index by signature id. Throws `bad_signature`, `too_many`.
 */
export function matchSignatures(
  signatures: readonly EnvelopeSignature[],
  verifiers: readonly { readonly publicKey: PublicKey; readonly hash: HashAlgorithm }[],
  message: Uint8Array,
  options: CheckCost & { readonly stopWhenMatched: boolean },
): ReadonlyMap<string, number> {
  const unmatched = new Set(signatures.map(({ id }) => id))
  const verifierOf = new Map<string, number>()
  for (const [index, { publicKey, hash }] of verifiers.entries()) {
    if (options.stopWhenMatched && unmatched.size === 0) break
    const matched = signatures.find(({ bytes }) => verifyMessage(publicKey, hash, message, bytes, options))
    if (matched === undefined) {
      throw new EntryError(
        'bad_signature',
        'could not verify envelope: accepted signatures do not match threshold, Found: 0, Expected 1',
      )
    }
    unmatched.delete(matched.id)
    verifierOf.set(matched.id, index)
  }
  if (unmatched.size > 0) throw new EntryError('bad_signature', 'all signatures must have a key that verifies it')
  return verifierOf
}

/** The fields of a JSON envelope as they stand there. */
export interface JsonEnvelope {
  readonly payloadType: string
  readonly payload: string
  readonly signatures: readonly { readonly sig: string }[]
}

/** Reads a JSON envelope; throws `malformed_json` or `invalid`. */
export function readJsonEnvelope(text: string): JsonEnvelope {
  const envelope = parseJson(text)
  if (!isObject(envelope)) throw invalid('DSSE envelope is not an object')
  const payloadType = stringAt(envelope, 'payloadType')
  const payload = stringAt(envelope, 'payload')
  const signatures = arrayAt(envelope, 'signatures')
  if (payloadType === undefined || payload === undefined) throw invalid('DSSE envelope misses payloadType or payload')
  if (signatures === undefined || signatures.length === 0) {
    throw invalid('DSSE envelope must contain 1 or more signatures')
  }
  requireCounts(signatures.length, 0)
  return {
    payloadType,
    payload,
    signatures: signatures.map((signature) => {
      const sig = isObject(signature) ? stringAt(signature, 'sig') : undefined
      if (sig === undefined || sig === '') throw invalid('DSSE envelope has an empty signature')
      return { sig }
    }),
  }
}
