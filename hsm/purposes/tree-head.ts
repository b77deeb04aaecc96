/**
 * Tree heads, through the guard: the last sealed head of each origin is durable here before its successor is signed, so
 * that no process can have two histories signed. A contradiction latches the origin until an operator acts.
 */
import {
  emptyRoot,
  formatCheckpoint,
  formatNote,
  keyHintSpki,
  signatureName,
  TlogError,
  verifyConsistency,
} from '#tlog'
import { treeHeadSignatureInput } from '#x509'
import type { Guard } from '../agent-state.ts'
import { HsmError, type GuardedHead } from '../signing.ts'
import { checkLogTime, equal, refuse, type Check, type CheckContext, type Fields, type Statement } from './purpose.ts'

/** A proof between trees of less than 2^53 leaves has at most this many hashes (RFC 6962 §2.1.2). */
const MAX_PROOF_HASHES = 2 * 53 + 1

interface Head {
  readonly origin: string
  readonly size: number
  readonly rootHash: Uint8Array
  readonly timestampMs: number
}

export const checkTreeHead: Check = (request, context) => {
  const head: Head = {
    origin: request.text('origin'),
    size: request.count('size'),
    rootHash: request.hash('rootHash'),
    timestampMs: request.count('timestampMs'),
  }
  const proof = request.hashes('consistencyProof', MAX_PROOF_HASHES)
  request.end()
  const guard = guardOf(head.origin, context)
  const isCt = context.key.style === 'ct'
  if (isCt) checkTime(head, guard, context)
  const latched = context.state.latch(`origin:${head.origin}`)
  if (latched !== undefined) throw new HsmError('latched', 'fork_refused', latched)
  checkContinues(head, guard, proof, context)
  if (head.size !== guard.size || isCt || guard.keyId.length === 0) {
    const timestampMs = isCt ? head.timestampMs : 0
    context.state.setGuard({ ...head, timestampMs, keyId: context.keyId })
  }
  return isCt ? signedTreeHead(head) : signedNote(head, context)
}

/** The guarded head of an origin of this key, for the log to prove its growth from. */
export function guardedHead(request: Fields, context: CheckContext): GuardedHead {
  const origin = request.text('origin')
  request.end()
  const { size, rootHash } = guardOf(origin, context)
  return { size, rootHash }
}

function guardOf(origin: string, { key, keyId, state }: CheckContext): Guard {
  if (origin !== key.origin) refuse('wrong_origin', `key ${key.name} does not sign for the origin ${origin}`)
  const guard = state.guard(origin)
  if (guard === undefined) return { origin, size: 0, rootHash: emptyRoot(), timestampMs: 0, keyId: new Uint8Array(0) }
  // One log, one key (a new key is a new shard with a new origin): the old key's head would no longer be checked by it.
  if (!equal(guard.keyId, keyId)) refuse('origin_of_other_key', `origin ${origin} is guarded for another key`)
  return guard
}

/** Anything but growth that is proved, or the same head once more, is a fork: refused now and until it is understood. */
function checkContinues(head: Head, guard: Guard, proof: readonly Uint8Array[], context: CheckContext): void {
  try {
    verifyConsistency({
      first: guard.size,
      firstRoot: guard.rootHash,
      second: head.size,
      secondRoot: head.rootHash,
      proof,
    })
  } catch (error) {
    if (!(error instanceof TlogError)) throw error
    const found =
      `asked to sign size ${head.size} root ${hex(head.rootHash)} after size ${guard.size} root ` +
      `${hex(guard.rootHash)}: ${error.message}`
    context.state.setLatch(`origin:${head.origin}`, found, context.nowMs)
    throw new HsmError('latched', 'fork_refused', found, { cause: error })
  }
}

/** RFC 6962 §3.5: a tree head's time is that of its newest entry or later, and every head is later than the one before. */
function checkTime(head: Head, guard: Guard, context: CheckContext): void {
  checkLogTime(context, `${context.key.name}/treeHead`, head.timestampMs)
  if (head.timestampMs < guard.timestampMs) refuse('time_steps_back', 'time is before that of the last tree head')
}

/** RFC 6962 §3.5. */
function signedTreeHead(head: Head): Statement {
  return {
    message: treeHeadSignatureInput(head.size, head.timestampMs, head.rootHash),
    release: (signature) => ({ note: '', signature }),
  }
}

/** C2SP tlog-checkpoint and Rekor v1 differ in origin and name alone; both take the first bytes of the SPKI's hash as hint. */
function signedNote({ origin, size, rootHash }: Head, { key }: CheckContext): Statement {
  const body = formatCheckpoint({ origin, size, rootHash })
  const line = { name: signatureName(origin), keyHint: keyHintSpki(key.spkiDer) }
  return {
    message: new TextEncoder().encode(body),
    release: (signature) => ({ note: formatNote(body, [{ ...line, signature }]), signature }),
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
