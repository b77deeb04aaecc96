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
import { MAX_ATTESTATION_BYTES } from '../limits.ts'
import { boundedKeys, hashKey, statementKeys, verifierKeys } from '../search-keys.ts'
import { type CheckCost, requireBoundedKey, verifyMessage } from '../signature.ts'
import { readPemKey } from '../submitted-key.ts'

type Purpose = 'insert' | 'find'

/**
 * intoto 0.0.2: an envelope whose signatures carry their keys; payload and signatures are base64 of base64. Stored
 * without the payload, with the hash that the client gave for the envelope. Throws `EntryError`.
 */
export function checkIntoto002(spec: JsonObject, purpose: Purpose, cost: CheckCost): CheckedEntry {
  const content = objectAt(spec, 'content')
  const envelope = objectAt(content, 'envelope')
  if (content === undefined || envelope === undefined)
    throw invalid('missing content or envelope in intoto v0.0.2 entry')
  const payloadType = stringAt(envelope, 'payloadType')
  if (payloadType === undefined) throw invalid('content.envelope.payloadType in body is required')
  const signatures = readSignatures(envelope)
  const envelopeHash = sha256Field(content, 'hash')
  if (envelopeHash === undefined) throw invalid('missing envelope digest')
  const doubled = stringAt(envelope, 'payload') ?? ''
  if (doubled === '') {
    if (purpose === 'insert') throw invalid('entry not insertable into log: missing envelope content')
    const stored = sha256Field(content, 'payloadHash')
    if (stored === undefined) throw invalid('missing payload digest')
    return checkedEntry({
      kind: 'intoto',
      version: '0.0.2',
      leaf: canonicalBody002(payloadType, signatures, envelopeHash, stored),
      searchKeys: [],
    })
  }
  if (payloadType === '') throw invalid('entry not insertable into log: missing payloadType content')
  const payload = decodeStandard(ascii(decodeStandard(doubled, 'payload')), 'envelope payload')
  const keys = signatures.map(({ publicKey }) => {
    const key = readPemKey(publicKey)
    requireBoundedKey(key.publicKey)
    return key
  })
  matchSignatures(
    signatures.map(({ sig }) => ({ id: ascii(sig), bytes: decodeEither(ascii(sig), 'signature') })),
    keys.map(({ publicKey }) => ({ publicKey, hash: 'sha256' })),
    preAuthenticationEncoding(payloadType, payload),
    { ...cost, stopWhenMatched: false },
  )
  const payloadHash = hash('sha256', payload, 'hex')
  return checkedEntry({
    kind: 'intoto',
    version: '0.0.2',
    leaf: canonicalBody002(payloadType, signatures, envelopeHash, payloadHash),
    searchKeys: boundedKeys([
      hashKey('sha256', payloadHash),
      ...keys.flatMap(verifierKeys),
      ...(payloadType === IN_TOTO_PAYLOAD_TYPE ? statementKeys(payload) : []),
    ]),
    ...attachmentOf(payload),
  })
}

/** intoto 0.0.1: an envelope as a JSON string and one key. Stored are its two hashes and the key. Throws `EntryError`. */
export function checkIntoto001(spec: JsonObject, purpose: Purpose, cost: CheckCost): CheckedEntry {
  const pem = stringAt(spec, 'publicKey')
  if (pem === undefined || pem === '') throw invalid('missing public key in intoto v0.0.1 entry')
  const content = objectAt(spec, 'content')
  if (content === undefined) throw invalid('missing content in intoto v0.0.1 entry')
  const key = readPemKey(decodeStandard(pem, 'public key'))
  requireBoundedKey(key.publicKey)
  const text = stringAt(content, 'envelope') ?? ''
  if (text === '') {
    if (purpose === 'insert') throw invalid('entry not insertable into log: missing envelope content')
    const envelopeHash = sha256Field(content, 'hash')
    if (envelopeHash === undefined) throw invalid('missing hash value for envelope')
    const leaf = canonicalBody001(key.canonicalPem, envelopeHash, sha256Field(content, 'payloadHash'))
    return checkedEntry({ kind: 'intoto', version: '0.0.1', leaf, searchKeys: [] })
  }
  const envelope = readJsonEnvelope(text)
  const payload = decodeStandard(envelope.payload, 'envelope payload')
  const message = preAuthenticationEncoding(envelope.payloadType, payload)
  const signatures = envelope.signatures.map(({ sig }) => decodeEither(sig, 'signature'))
  if (!signatures.some((signature) => verifyMessage(key.publicKey, 'sha256', message, signature, cost))) {
    throw new EntryError('bad_signature', 'accepted signatures do not match threshold, Found: 0, Expected 1')
  }
  const envelopeHash = hash('sha256', text, 'hex')
  const payloadHash = hash('sha256', payload, 'hex')
  return checkedEntry({
    kind: 'intoto',
    version: '0.0.1',
    leaf: canonicalBody001(key.canonicalPem, envelopeHash, payloadHash),
    searchKeys: boundedKeys([
      hashKey('sha256', envelopeHash),
      hashKey('sha256', payloadHash),
      ...verifierKeys(key),
      ...(envelope.payloadType === IN_TOTO_PAYLOAD_TYPE ? statementKeys(payload) : []),
    ]),
    ...attachmentOf(payload),
  })
}

interface IntotoSignature {
  readonly keyid: string
  /** Base64 text, as bytes. */
  readonly sig: Uint8Array
  /** PEM as the client sent it: this kind does not write it again. */
  readonly publicKey: Uint8Array
}

function readSignatures(envelope: JsonObject): IntotoSignature[] {
  const signatures = arrayAt(envelope, 'signatures') ?? []
  if (signatures.length === 0) throw invalid('missing signatures')
  requireCounts(signatures.length, signatures.length)
  return signatures.map((item) => {
    const sig = isObject(item) ? (stringAt(item, 'sig') ?? '') : ''
    const publicKey = isObject(item) ? (stringAt(item, 'publicKey') ?? '') : ''
    if (sig === '') throw invalid('missing signature content')
    if (publicKey === '') throw invalid('missing publicKey content')
    return {
      keyid: isObject(item) ? (stringAt(item, 'keyid') ?? '') : '',
      sig: decodeStandard(sig, 'signature'),
      publicKey: decodeStandard(publicKey, 'public key'),
    }
  })
}

function canonicalBody002(
  payloadType: string,
  signatures: readonly IntotoSignature[],
  envelopeHash: string,
  payloadHash: string,
): Uint8Array {
  return jcs({
    apiVersion: '0.0.2',
    kind: 'intoto',
    spec: {
      content: {
        envelope: {
          payloadType,
          signatures: signatures.map(({ keyid, sig, publicKey }) => ({
            ...(keyid === '' ? {} : { keyid }),
            publicKey: encodeBase64(publicKey),
            sig: encodeBase64(sig),
          })),
        },
        hash: { algorithm: 'sha256', value: envelopeHash },
        payloadHash: { algorithm: 'sha256', value: payloadHash },
      },
    },
  })
}

function canonicalBody001(canonicalPem: string, envelopeHash: string, payloadHash: string | undefined): Uint8Array {
  return jcs({
    apiVersion: '0.0.1',
    kind: 'intoto',
    spec: {
      content: {
        hash: { algorithm: 'sha256', value: envelopeHash },
        // Entries of the first releases had no payload hash.
        ...(payloadHash === undefined ? {} : { payloadHash: { algorithm: 'sha256', value: payloadHash } }),
      },
      publicKey: encodeBase64(Buffer.from(canonicalPem)),
    },
  })
}

function sha256Field(content: JsonObject, name: string): string | undefined {
  const field = objectAt(content, name)
  if (field === undefined) return undefined
  const value = stringAt(field, 'value')
  if (stringAt(field, 'algorithm') !== 'sha256' || value === undefined)
    throw invalid(`content.${name} is not a sha256 hash`)
  return value
}

function attachmentOf(payload: Uint8Array): { attachment?: Uint8Array } {
  return payload.length <= MAX_ATTESTATION_BYTES ? { attachment: payload } : {}
}

function ascii(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}
