import { hash } from 'node:crypto'
import { decodeEither, decodeStandard, encodeBase64 } from '../base64.ts'
import {
  IN_TOTO_PAYLOAD_TYPE,
  matchSignatures,
  preAuthenticationEncoding,
  readJsonEnvelope,
  requireCounts,
} from '../dsse.ts'
import { type CheckedEntry, checkedEntry } from '../entry.ts'
import { EntryError, invalid } from '../errors.ts'
import { arrayAt, isObject, jcs, type JsonObject, objectAt, stringAt } from '../json.ts'
import { boundedKeys, hashKey, statementKeys, verifierKeys } from '../search-keys.ts'
import { type CheckCost, requireBoundedKey } from '../signature.ts'
import { readPemKey } from '../submitted-key.ts'

/**
 * dsse 0.0.1: an envelope, logged by its hashes and signatures; neither envelope nor payload is kept. A spec of stored
 * fields instead is taken only to find an entry. Throws `EntryError`.
 */
export function checkDsse(spec: JsonObject, purpose: 'insert' | 'find', cost: CheckCost): CheckedEntry {
  const proposed = objectAt(spec, 'proposedContent')
  // Go's generated clients send `null` for what they leave out.
  const stored = ['envelopeHash', 'payloadHash', 'signatures'].some((name) => (spec[name] ?? null) !== null)
  if (proposed !== undefined && stored) {
    throw invalid('either proposedContent or envelopeHash, payloadHash, and signatures must be present but not both')
  }
  if (proposed !== undefined) return checkProposed(proposed, cost)
  const entry = readStored(spec)
  if (purpose === 'insert') throw invalid('entry not insertable into log: missing proposed content')
  return entry
}

function checkProposed(proposed: JsonObject, cost: CheckCost): CheckedEntry {
  const text = stringAt(proposed, 'envelope')
  if (text === undefined || text === '') throw invalid('proposed content envelope is missing')
  const pems = (arrayAt(proposed, 'verifiers') ?? []).map((pem) => {
    if (typeof pem !== 'string' || pem === '') throw invalid('an invalid null verifier was provided in ProposedContent')
    return pem
  })
  if (pems.length === 0) throw invalid('missing proposed verifiers')
  requireCounts(0, pems.length)
  const envelope = readJsonEnvelope(text)
  const payload = decodeEither(envelope.payload, 'payload')
  const signatures = envelope.signatures.map(({ sig }) => ({ id: sig, bytes: decodeEither(sig, 'signature') }))
  const keys = pems.map((pem) => {
    const key = readPemKey(decodeStandard(pem, 'verifier'))
    requireBoundedKey(key.publicKey)
    return key
  })
  const verifierOf = matchSignatures(
    signatures,
    keys.map(({ publicKey }) => ({ publicKey, hash: 'sha256' })),
    preAuthenticationEncoding(envelope.payloadType, payload),
    { ...cost, stopWhenMatched: true },
  )
  const matched = [...verifierOf].map(([signature, index]) => {
    const key = keys[index]
    if (key === undefined) throw new EntryError('bad_signature', 'all signatures must have a key that verifies it')
    return { signature, key }
  })
  const envelopeHash = hash('sha256', text, 'hex')
  const payloadHash = hash('sha256', payload, 'hex')
  return checkedEntry({
    kind: 'dsse',
    version: '0.0.1',
    leaf: canonicalBody(
      envelopeHash,
      payloadHash,
      matched.map(({ signature, key }) => ({ signature, verifier: encodeBase64(Buffer.from(key.canonicalPem)) })),
    ),
    searchKeys: boundedKeys([
      hashKey('sha256', payloadHash),
      hashKey('sha256', envelopeHash),
      ...matched.flatMap(({ key }) => verifierKeys(key)),
      ...(envelope.payloadType === IN_TOTO_PAYLOAD_TYPE ? statementKeys(payload) : []),
    ]),
  })
}

/** The fields of a logged entry, from which a client looks for it again. */
function readStored(spec: JsonObject): CheckedEntry {
  const envelopeHash = sha256Field(spec, 'envelopeHash')
  const payloadHash = sha256Field(spec, 'payloadHash')
  const signatures = arrayAt(spec, 'signatures') ?? []
  if (envelopeHash === undefined || payloadHash === undefined || signatures.length === 0) {
    throw invalid('either proposedContent or envelopeHash, payloadHash, and signatures must be present')
  }
  requireCounts(signatures.length, 0)
  const read = signatures.map((item) => {
    const signature = isObject(item) ? stringAt(item, 'signature') : undefined
    const verifier = isObject(item) ? stringAt(item, 'verifier') : undefined
    if (signature === undefined || verifier === undefined) throw invalid('canonical entry missing required signature')
    return { signature, verifier: encodeBase64(decodeStandard(verifier, 'signature verifier')) }
  })
  return checkedEntry({
    kind: 'dsse',
    version: '0.0.1',
    leaf: canonicalBody(envelopeHash, payloadHash, read),
    searchKeys: [],
  })
}

/** Value of a `{algorithm: "sha256", value}` member; undefined if there is none. */
function sha256Field(spec: JsonObject, name: string): string | undefined {
  const field = objectAt(spec, name)
  if (field === undefined) return undefined
  const value = stringAt(field, 'value')
  if (stringAt(field, 'algorithm') !== 'sha256' || value === undefined) throw invalid(`invalid ${name}`)
  return value
}

function canonicalBody(
  envelopeHash: string,
  payloadHash: string,
  signatures: readonly { signature: string; verifier: string }[],
): Uint8Array {
  return jcs({
    apiVersion: '0.0.1',
    kind: 'dsse',
    spec: {
      envelopeHash: { algorithm: 'sha256', value: envelopeHash },
      payloadHash: { algorithm: 'sha256', value: payloadHash },
      // Base64 is ASCII: the order of code units is Go's order of bytes.
      signatures: signatures.toSorted((a, b) => (a.signature < b.signature ? -1 : a.signature > b.signature ? 1 : 0)),
    },
  })
}
