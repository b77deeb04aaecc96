import { count, fromBase64, fromHex, list, member, optionalMember, text, toBase64 } from './encoding.ts'
import { VerifierError } from './errors.ts'

/** An entry with everything that proves it, whichever API or bundle it came from. Nothing in it is verified yet. */
export interface LogEntry {
  /** The canonical entry: the bytes of the leaf. */
  readonly body: Uint8Array
  /** 32 bytes. */
  readonly logId: Uint8Array
  /** Over all shards of a Rekor v1; the same as `inclusionProof.index` else. */
  readonly logIndex: number
  /** 0 for Rekor v2, which leaves time to the timestamp authority. */
  readonly integratedTimeSeconds: number
  readonly inclusionProof: {
    /** In this tree. */
    readonly index: number
    readonly size: number
    /** 32 bytes. */
    readonly rootHash: Uint8Array
    /** 32 bytes each, leaf to root. */
    readonly hashes: readonly Uint8Array[]
    /** The signed note. */
    readonly checkpoint: string
  }
  /** Signed entry timestamp, DER; Rekor v1 only. */
  readonly promise?: Uint8Array
}

/** Reads Rekor v1's reply, a map with one entry; throws `malformed`. The key of the map is its entry id. */
export function parseRekorV1Entry(json: unknown): { readonly entryId: string; readonly entry: LogEntry } {
  const pairs = typeof json === 'object' && json !== null ? Object.entries(json) : []
  const [pair] = pairs
  if (!pair || pairs.length !== 1)
    throw new VerifierError('malformed', `the reply holds ${pairs.length} entries, not 1`)
  const [entryId, value] = pair
  const verification = member(value, 'verification')
  const proof = member(verification, 'inclusionProof')
  const promise = optionalMember(verification, 'signedEntryTimestamp')
  return {
    entryId,
    entry: {
      body: fromBase64(text(member(value, 'body'), 'body'), 'body'),
      logId: fromHex(text(member(value, 'logID'), 'logID'), 'logID'),
      logIndex: count(member(value, 'logIndex'), 'logIndex'),
      integratedTimeSeconds: count(member(value, 'integratedTime'), 'integratedTime'),
      inclusionProof: {
        index: count(member(proof, 'logIndex'), 'inclusionProof.logIndex'),
        size: count(member(proof, 'treeSize'), 'inclusionProof.treeSize'),
        rootHash: fromHex(text(member(proof, 'rootHash'), 'rootHash'), 'rootHash'),
        hashes: list(member(proof, 'hashes'), 'hashes').map((hash) =>
          fromHex(text(hash, 'a proof hash'), 'a proof hash'),
        ),
        checkpoint: text(member(proof, 'checkpoint'), 'checkpoint'),
      },
      ...(promise === undefined ? {} : { promise: fromBase64(text(promise, 'the promise'), 'the promise') }),
    },
  }
}

/** Reads a TransparencyLogEntry in proto3 JSON: Rekor v2's reply, an entry of a bundle, a saved proof. Throws `malformed`. */
export function parseTransparencyLogEntry(json: unknown): LogEntry {
  const proof = member(json, 'inclusionProof')
  const promise = optionalMember(optionalMember(json, 'inclusionPromise'), 'signedEntryTimestamp')
  const hashes = optionalMember(proof, 'hashes') ?? []
  return {
    body: fromBase64(text(member(json, 'canonicalizedBody'), 'canonicalizedBody'), 'canonicalizedBody'),
    logId: fromBase64(text(member(member(json, 'logId'), 'keyId'), 'logId'), 'logId'),
    // proto3 JSON may leave zeros out.
    logIndex: count(optionalMember(json, 'logIndex') ?? 0, 'logIndex'),
    integratedTimeSeconds: count(optionalMember(json, 'integratedTime') ?? 0, 'integratedTime'),
    inclusionProof: {
      index: count(optionalMember(proof, 'logIndex') ?? 0, 'inclusionProof.logIndex'),
      size: count(member(proof, 'treeSize'), 'inclusionProof.treeSize'),
      rootHash: fromBase64(text(member(proof, 'rootHash'), 'rootHash'), 'rootHash'),
      hashes: list(hashes, 'hashes').map((hash) => fromBase64(text(hash, 'a proof hash'), 'a proof hash')),
      checkpoint: text(member(member(proof, 'checkpoint'), 'envelope'), 'checkpoint'),
    },
    ...(promise === undefined ? {} : { promise: fromBase64(text(promise, 'the promise'), 'the promise') }),
  }
}

/** Writes a TransparencyLogEntry in proto3 JSON, as bundles hold it; `parseTransparencyLogEntry` reads it back. */
export function formatTransparencyLogEntry(entry: LogEntry): Record<string, unknown> {
  const { body, logId, logIndex, integratedTimeSeconds, inclusionProof, promise } = entry
  return {
    logIndex: String(logIndex),
    logId: { keyId: toBase64(logId) },
    kindVersion: kindVersionOf(body),
    integratedTime: String(integratedTimeSeconds),
    ...(promise ? { inclusionPromise: { signedEntryTimestamp: toBase64(promise) } } : {}),
    inclusionProof: {
      logIndex: String(inclusionProof.index),
      rootHash: toBase64(inclusionProof.rootHash),
      treeSize: String(inclusionProof.size),
      hashes: inclusionProof.hashes.map(toBase64),
      checkpoint: { envelope: inclusionProof.checkpoint },
    },
    canonicalizedBody: toBase64(body),
  }
}

/** Kind and version that the canonical entry names; throws `malformed`. */
export function kindVersionOf(body: Uint8Array): { readonly kind: string; readonly version: string } {
  const json = parseJson(new TextDecoder().decode(body), 'the entry')
  return { kind: text(member(json, 'kind'), 'kind'), version: text(member(json, 'apiVersion'), 'apiVersion') }
}

/** `JSON.parse` that throws `malformed`. */
export function parseJson(json: string, what: string): unknown {
  try {
    return JSON.parse(json) as unknown
  } catch (error) {
    throw new VerifierError('malformed', `${what} is not JSON`, { cause: error })
  }
}
