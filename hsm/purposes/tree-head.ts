/**
 * Tree heads, through the guard: the last sealed head of each origin is durable here before its successor is signed, so
 * that no process can have two histories signed. A contradiction latches the origin until an operator acts.
 */
import { verify } from 'node:crypto'
import {
  emptyRoot,
  formatCheckpoint,
  formatNote,
  keyHintC2sp,
  keyHintSpki,
  type NoteSignature,
  signatureName,
  TlogError,
  verifyConsistency,
  witnessOrigin,
} from '#tlog'
import { treeHeadSignatureInput } from '#x509'
import type { Guard } from '../agent-state.ts'
import { frozenLine } from '../frozen-line.ts'
import { HsmError, type GuardedHead } from '../signing.ts'
import { checkLogTime, equal, refuse, type Check, type CheckContext, type Fields, type Statement } from './purpose.ts'

/** A proof between trees of less than 2^53 leaves has at most this many hashes (RFC 6962 §2.1.2). */
const MAX_PROOF_HASHES = 2 * 53 + 1

/** C2SP signed-note's number of this kind of key. */
const ED25519_NOTE_KEY = 1

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
  const witnessed = request.flag('witnessed')
  const writer = request.optionalText('writer')
  const freeze = request.flag('freeze')
  request.end()
  const guard = guardOf(head.origin, context)
  context.leases.claim(head.origin, writer)
  const frozenAtMs = context.state.frozenAt(head.origin)
  if (frozenAtMs !== undefined && !(freeze && isSame(head, guard))) {
    refuse('frozen', `the last head of ${head.origin} was signed at size ${guard.size}: the log is frozen`)
  }
  const isCt = context.key.style === 'ct'
  if (isCt) checkTime(head, guard, context)
  const latched = context.state.latch(`origin:${head.origin}`)
  if (latched !== undefined) throw new HsmError('latched', 'fork_refused', latched)
  checkContinues(head, guard, proof, context)
  if (head.size !== guard.size || isCt || guard.keyId.length === 0) {
    const timestampMs = isCt ? head.timestampMs : 0
    context.state.setGuard({ ...head, timestampMs, keyId: context.keyId })
  }
  if (!freeze) return statementOf(head, context, { witnessed })
  const lastAtMs = frozenAtMs ?? context.nowMs
  context.state.setFrozen(head.origin, lastAtMs)
  return statementOf(head, context, { witnessed, frozenAtMs: lastAtMs })
}

/** Latches the origin of a head that its key signed and its guard has forgotten. Refuses anything else. */
export function reportedHead(request: Fields, context: CheckContext): void {
  const head: Head = {
    origin: request.text('origin'),
    size: request.count('size'),
    rootHash: request.hash('rootHash'),
    timestampMs: request.count('timestampMs'),
  }
  const signature = request.bytes('signature')
  request.end()
  const guard = guardOf(head.origin, context)
  requireOwnSignature(head, signature, context)
  if (head.size < guard.size || (head.size === guard.size && equal(head.rootHash, guard.rootHash))) {
    refuse('no_contradiction', `the guard of ${head.origin} at size ${guard.size} knows of more`)
  }
  const found =
    `its key signed size ${head.size} root ${hex(head.rootHash)}, as an anchor shows, and this guard remembers size ` +
    `${guard.size} root ${hex(guard.rootHash)}: the agent's state was rolled back`
  context.state.setLatch(`origin:${head.origin}`, found, context.nowMs)
}

/** Moves the guard to a head that its key signed and the guard has forgotten, and lifts the origin's latch. Never back. */
export function adoptedHead(request: Fields, context: CheckContext): { readonly origin: string } & GuardedHead {
  const head: Head = {
    origin: request.text('origin'),
    size: request.count('size'),
    rootHash: request.hash('rootHash'),
    timestampMs: request.count('timestampMs'),
  }
  const signature = request.bytes('signature')
  const frozenAtMs = request.count('frozenAtMs')
  const proof = request.hashes('consistencyProof', MAX_PROOF_HASHES)
  request.end()
  const guard = guardOf(head.origin, context)
  requireOwnSignature(head, signature, context, frozenAtMs)
  if (head.size < guard.size) {
    refuse('guard_ahead', `the guard of ${head.origin} knows of size ${guard.size}: it is not lowered to ${head.size}`)
  }
  if (context.state.frozenAt(head.origin) !== undefined && !isSame(head, guard)) {
    refuse('frozen', `the last head of ${head.origin} was signed at size ${guard.size}`)
  }
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
    refuse('not_a_continuation', `size ${head.size} does not follow from the guarded size ${guard.size}`)
  }
  const isCt = context.key.style === 'ct'
  context.state.setGuard({ ...head, timestampMs: isCt ? head.timestampMs : 0, keyId: context.keyId })
  if (frozenAtMs > 0) context.state.setFrozen(head.origin, frozenAtMs)
  context.state.liftLatch(`origin:${head.origin}`)
  return { origin: head.origin, size: head.size, rootHash: head.rootHash }
}

function requireOwnSignature(head: Head, signature: Uint8Array, context: CheckContext, frozenAtMs = 0): void {
  const { message } = statementOf(head, context, frozenAtMs > 0 ? { frozenAtMs } : {})
  const key = { key: Buffer.from(context.key.spkiDer), format: 'der', type: 'spki' } as const
  if (!verify('sha256', message, key, signature)) refuse('bad_signature', 'this head is not signed by this key')
}

/** The guarded head of an origin of this key, for the log to prove its growth from. */
export function guardedHead(request: Fields, context: CheckContext): GuardedHead {
  const origin = request.text('origin')
  const writer = request.optionalText('writer')
  const release = request.flag('release')
  request.end()
  const { size, rootHash } = guardOf(origin, context)
  if (release) context.leases.release(origin, writer)
  else context.leases.claim(origin, writer)
  const frozenAtMs = context.state.frozenAt(origin)
  return { size, rootHash, ...(frozenAtMs === undefined ? {} : { frozenAtMs }) }
}

function isSame(head: Head, guard: Guard): boolean {
  return head.size === guard.size && equal(head.rootHash, guard.rootHash)
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
  // The clock was set back: a time that this log has signed is no news, and RFC 6962 lets no head be older.
  if (head.timestampMs === guard.timestampMs) return
  checkLogTime(context, `${context.key.name}/treeHead`, head.timestampMs)
  if (head.timestampMs < guard.timestampMs) refuse('time_steps_back', 'time is before that of the last tree head')
}

/**
 * CT: RFC 6962 §3.5. Otherwise a note: C2SP tlog-checkpoint and Rekor v1 differ in origin and name alone, and both take the
 * first bytes of the SPKI's hash as hint. The witness key signs the same size and root, and only together with them.
 */
function statementOf(
  head: Head,
  { key }: CheckContext,
  { witnessed = false, frozenAtMs }: { readonly witnessed?: boolean; readonly frozenAtMs?: number },
): Statement {
  const { origin, size, rootHash, timestampMs } = head
  const { style, witness } = key
  // As rekor-tiles tells it; Rekor v1's clients and RFC 6962 know of no such line.
  const extensions = style === 'tlog' && frozenAtMs !== undefined ? [frozenLine(frozenAtMs)] : []
  const frozen = frozenAtMs === undefined ? {} : { frozenAtMs }
  const body = formatCheckpoint({ origin, size, rootHash, extensions })
  const ownLine = { name: signatureName(origin), keyHint: keyHintSpki(key.spkiDer) }
  const noteOf = (signature: Uint8Array) => (style === 'ct' ? '' : formatNote(body, [{ ...ownLine, signature }]))
  const message = style === 'ct' ? treeHeadSignatureInput(size, timestampMs, rootHash) : new TextEncoder().encode(body)
  if (!witnessed || witness === undefined) {
    return { message, release: (signature) => ({ note: noteOf(signature), signature, witnessNote: '', ...frozen }) }
  }
  // One body for both lines where the origin can be a key's name; only Rekor v1's, with its spaces, cannot.
  const name = witnessOrigin(origin)
  const witnessBody = formatCheckpoint({ origin: name, size, rootHash, extensions })
  const witnessLine = { name, keyHint: keyHintC2sp(name, ED25519_NOTE_KEY, witness.raw) }
  return {
    message,
    second: { key: witness.key, message: new TextEncoder().encode(witnessBody) },
    release: (signature, second) => {
      const note = noteOf(signature)
      if (second === undefined) return { note, signature, witnessNote: '', ...frozen }
      const line: NoteSignature = { ...witnessLine, signature: second }
      // Some verifiers take the first line with the log's name: the P-256 line stays first.
      const both = style === 'tlog' ? formatNote(body, [{ ...ownLine, signature }, line]) : undefined
      return { note: both ?? note, signature, witnessNote: both ?? formatNote(witnessBody, [line]), ...frozen }
    },
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
