import { p256 } from '@noble/curves/nist.js'
import {
  type Checkpoint,
  leafHash,
  parseCheckpoint,
  parseNote,
  TlogError,
  verifyCheckpoint,
  verifyConsistency,
  verifyInclusion,
} from '#tlog'
import { equalBytes, toBase64, toHex } from './encoding.ts'
import { VerifierError, type VerifierErrorCode } from './errors.ts'
import type { LogEntry } from './log-entry.ts'
import { logById, logsByOrigin, type TrustedLog } from './trusted-logs.ts'

/** What is proven of an entry once `verifyEntry` has returned. */
export interface VerifiedEntry {
  readonly log: TrustedLog
  readonly checkpoint: Checkpoint
  /** 32 bytes. */
  readonly leafHash: Uint8Array
  /** True if the log has also promised the entry and its time under its key. */
  readonly promised: boolean
}

/**
 * Verifies that an entry is in a log that the trusted root names: its log → the checkpoint's signature → the path from
 * the leaf to the signed root → the promise, if there is one → the time, if there is one. The log itself is asked
 * nothing and trusted for nothing. Throws `VerifierError`.
 */
export function verifyEntry(entry: LogEntry, logs: readonly TrustedLog[]): VerifiedEntry {
  const { body, inclusionProof, promise } = entry
  const log = logById(logs, entry.logId)
  const checkpoint = verifySignedCheckpoint(inclusionProof.checkpoint, [log]).checkpoint
  if (checkpoint.size !== inclusionProof.size || !equalBytes(checkpoint.rootHash, inclusionProof.rootHash)) {
    throw new VerifierError('bad_proof', 'the proof is for another tree than the checkpoint')
  }
  const { index, size, rootHash, hashes } = inclusionProof
  const hash = leafHash(body)
  translated('bad_proof', () => verifyInclusion({ index, size, rootHash, leafHash: hash, proof: hashes }))
  if (promise) verifyPromise(entry, promise, log)
  // Only a promise makes the time the log's word; without one it is a field that anybody may have written.
  if (promise && !isWithin(log, entry.integratedTimeSeconds)) {
    throw new VerifierError('outside_window', `the log's key was not trusted at ${entry.integratedTimeSeconds}`)
  }
  return { log, checkpoint, leafHash: hash, promised: promise !== undefined }
}

/**
 * Verifies a signed checkpoint under the logs of its origin's host and says which log it is. Throws `malformed`,
 * `unknown_log` or `bad_signature`.
 */
export function verifySignedCheckpoint(
  note: string,
  logs: readonly TrustedLog[],
): { readonly log: TrustedLog; readonly checkpoint: Checkpoint } {
  const { origin } = translated('malformed', () => parseCheckpoint(parseNote(note).text))
  let refusal: unknown
  for (const log of logsByOrigin(logs, origin)) {
    try {
      return { log, checkpoint: verifyCheckpoint(note, { origin, spkiDer: log.spkiDer }) }
    } catch (error) {
      refusal = error
    }
  }
  throw new VerifierError('bad_signature', `the checkpoint of ${JSON.stringify(origin)} is not signed by its log`, {
    cause: refusal,
  })
}

/**
 * Verifies a signed entry timestamp: ECDSA P-256 over the RFC 8785 form of body, time, log id and index. Throws
 * `bad_promise`.
 */
export function verifyPromise(entry: LogEntry, promise: Uint8Array, log: TrustedLog): void {
  // The members are in RFC 8785 order already, and hold nothing that its string rules would change.
  const signed = JSON.stringify({
    body: toBase64(entry.body),
    integratedTime: entry.integratedTimeSeconds,
    logID: toHex(entry.logId),
    logIndex: entry.logIndex,
  })
  if (!verifiesP256(log.spkiDer, promise, new TextEncoder().encode(signed))) {
    throw new VerifierError('bad_promise', 'the signed entry timestamp does not verify')
  }
}

/**
 * Verifies that the newer checkpoint continues the older one; `proof` is RFC 6962's, empty for equal sizes and from
 * size 0. Both must have been verified as signed. Throws `rollback` if the newer one is smaller, `fork` for two roots
 * of one size or another origin, `bad_proof` for a proof that does not show it.
 */
export function verifyGrowth(older: Checkpoint, newer: Checkpoint, proof: readonly Uint8Array[]): void {
  if (older.origin !== newer.origin) {
    throw new VerifierError(
      'fork',
      `the log was ${JSON.stringify(older.origin)} and is ${JSON.stringify(newer.origin)}`,
    )
  }
  if (newer.size < older.size) {
    throw new VerifierError('rollback', `the log had ${older.size} entries and shows ${newer.size}`)
  }
  if (newer.size === older.size && !equalBytes(newer.rootHash, older.rootHash)) {
    throw new VerifierError('fork', `the log has signed two roots for ${older.size} entries`)
  }
  const [first, second] = [older.size, newer.size]
  const [firstRoot, secondRoot] = [older.rootHash, newer.rootHash]
  translated('bad_proof', () => verifyConsistency({ first, second, firstRoot, secondRoot, proof }))
}

/** Verifies a digest's presence in what the leaf itself says: true if its hex or base64 stands in the canonical entry. */
export function leafNamesDigest(body: Uint8Array, digest: Uint8Array): boolean {
  const entry = new TextDecoder().decode(body)
  return entry.includes(`"${toHex(digest)}"`) || entry.includes(`"${toBase64(digest)}"`)
}

function isWithin({ window }: TrustedLog, seconds: number): boolean {
  const time = seconds * 1000
  return time >= window.start.getTime() && (window.end === undefined || time <= window.end.getTime())
}

/** SubjectPublicKeyInfo of P-256 up to the uncompressed point (RFC 5480 §2). */
const P256_SPKI_PREFIX = '3059301306072a8648ce3d020106082a8648ce3d030107034200'

function verifiesP256(spkiDer: Uint8Array, signature: Uint8Array, message: Uint8Array): boolean {
  if (spkiDer.length !== 91 || !toHex(spkiDer).startsWith(P256_SPKI_PREFIX)) return false
  try {
    // HSMs do not normalise s.
    return p256.verify(signature, message, spkiDer.slice(-65), { format: 'der', lowS: false, prehash: true })
  } catch {
    return false
  }
}

function translated<T>(code: VerifierErrorCode, verify: () => T): T {
  try {
    return verify()
  } catch (error) {
    if (error instanceof TlogError) throw new VerifierError(code, error.message, { cause: error })
    throw error
  }
}
