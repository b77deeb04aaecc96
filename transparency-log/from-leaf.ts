/**
 * What a store keeps of an entry, worked out again from its leaf: for a log that is rolled forward from its published
 * tiles. What the leaf does not hold is lost: the search keys of a statement in a dsse payload, and an intoto entry's
 * attestation unless it comes with it. Nothing is checked here: the leaves are compared with the signed root.
 */
import { hash } from 'node:crypto'
import { leafHash } from '#tlog'
import { parseLeaf } from './ct/leaf.ts'
import { LogError } from './log.ts'
import type { LogKind } from './open.ts'
import { decodeStandard } from './rekor/base64.ts'
import { arrayAt, isObject, type Json, type JsonObject, objectAt, parseJson, stringAt } from './rekor/json.ts'
import { boundedKeys, hashKey, statementKeys, verifierKeys } from './rekor/search-keys.ts'
import { readCertificateKey, readPemKey, readSpkiKey } from './rekor/submitted-key.ts'

export interface LeafFacts {
  /** 32 bytes. */
  readonly dedupeKey: Uint8Array
  readonly searchKeys: readonly string[]
  /** Only a CT leaf holds its time. */
  readonly timestampMs?: number
}

/** Reads a leaf of a log of this kind. Throws `LogError` `invalid_entry` for one that the log never made. */
export function factsOfLeaf(kind: LogKind, leaf: Uint8Array, attachment?: Uint8Array): LeafFacts {
  try {
    return kind === 'ct' ? factsOfCtLeaf(leaf) : { dedupeKey: leafHash(leaf), searchKeys: rekorKeys(leaf, attachment) }
  } catch (cause) {
    if (cause instanceof LogError) throw cause
    throw new LogError('invalid_entry', 'a leaf is not one that this log makes', { cause })
  }
}

/** As `ct/submission.ts` makes it: the type, then what was signed. */
function factsOfCtLeaf(leaf: Uint8Array): LeafFacts {
  const { entry, timestampMs } = parseLeaf(leaf)
  const parts =
    entry.type === 'precert'
      ? [Uint8Array.of(1), entry.issuerKeyHash, entry.tbsDer]
      : [Uint8Array.of(0), entry.certificateDer]
  return { dedupeKey: new Uint8Array(hash('sha256', Buffer.concat(parts), 'buffer')), searchKeys: [], timestampMs }
}

function rekorKeys(leaf: Uint8Array, attachment: Uint8Array | undefined): string[] {
  const entry = parseJson(leaf)
  const spec = isObject(entry) ? objectAt(entry, 'spec') : undefined
  const kind = isObject(entry) ? `${stringAt(entry, 'kind')} ${stringAt(entry, 'apiVersion')}` : ''
  const read = spec === undefined ? undefined : READERS[kind]
  if (spec === undefined || read === undefined) throw new LogError('invalid_entry', `a leaf of the kind ${kind}`)
  return boundedKeys([...read(spec), ...(attachment === undefined ? [] : statementKeys(attachment))])
}

/** In the order in which the checks of each kind give them: the first ones stay when there are too many. */
const READERS: Readonly<Record<string, (spec: JsonObject) => string[]>> = {
  'hashedrekord 0.0.1': (spec) => {
    const digest = objectAt(objectAt(spec, 'data'), 'hash')
    const pem = stringAt(objectAt(objectAt(spec, 'signature'), 'publicKey'), 'content')
    return [hashKey(text(stringAt(digest, 'algorithm')), text(stringAt(digest, 'value'))), ...pemKeys(pem)]
  },
  'dsse 0.0.1': (spec) => [
    ...sha256Keys(spec, 'payloadHash'),
    ...sha256Keys(spec, 'envelopeHash'),
    ...each(spec, 'signatures').flatMap((signature) => pemKeys(stringAt(signature, 'verifier'))),
  ],
  'intoto 0.0.1': (spec) => {
    const content = objectAt(spec, 'content')
    return [
      ...sha256Keys(content, 'hash'),
      ...sha256Keys(content, 'payloadHash'),
      ...pemKeys(stringAt(spec, 'publicKey')),
    ]
  },
  'intoto 0.0.2': (spec) => {
    const content = objectAt(spec, 'content')
    const signatures = each(objectAt(content, 'envelope'), 'signatures')
    return [
      ...sha256Keys(content, 'payloadHash'),
      ...signatures.flatMap((signature) => pemKeys(stringAt(signature, 'publicKey'))),
    ]
  },
  'hashedrekord 0.0.2': (spec) => {
    const body = objectAt(spec, 'hashedRekordV002')
    const digest = objectAt(body, 'data')
    return [digestKey(digest), ...verifierKeysOf(objectAt(objectAt(body, 'signature'), 'verifier'))]
  },
  'dsse 0.0.2': (spec) => {
    const body = objectAt(spec, 'dsseV002')
    return [
      digestKey(objectAt(body, 'payloadHash')),
      ...each(body, 'signatures').flatMap((signature) => verifierKeysOf(objectAt(signature, 'verifier'))),
    ]
  },
}

function sha256Keys(holder: JsonObject | undefined, name: string): string[] {
  const field = objectAt(holder, name)
  const value = stringAt(field, 'value')
  return value === undefined ? [] : [hashKey(text(stringAt(field, 'algorithm')), value)]
}

function pemKeys(base64: string | undefined): string[] {
  return verifierKeys(readPemKey(decodeStandard(text(base64), 'a key')))
}

/** `SHA2_256` and its like, base64. */
function digestKey(digest: JsonObject | undefined): string {
  const algorithm = text(stringAt(digest, 'algorithm')).replace('SHA2_', 'sha')
  return hashKey(algorithm, Buffer.from(decodeStandard(text(stringAt(digest, 'digest')), 'a digest')).toString('hex'))
}

function verifierKeysOf(verifier: JsonObject | undefined): string[] {
  const certificate = stringAt(objectAt(verifier, 'x509Certificate'), 'rawBytes')
  const key = stringAt(objectAt(verifier, 'publicKey'), 'rawBytes')
  return certificate === undefined
    ? verifierKeys(readSpkiKey(decodeStandard(text(key), 'a key')))
    : verifierKeys(readCertificateKey(decodeStandard(certificate, 'a certificate')))
}

function each(holder: JsonObject | undefined, name: string): JsonObject[] {
  return (arrayAt(holder, name) ?? []).filter((item: Json) => isObject(item))
}

function text(value: string | undefined): string {
  if (value === undefined) throw new LogError('invalid_entry', 'a leaf lacks a field')
  return value
}
