/** A log's sealed head as what anchors are given. */
import {
  parseNote,
  signatureName,
  verifyCheckpoint,
  keyHintSpki,
  TlogError,
  withSignatures,
  witnessOrigin,
} from '#tlog'
import type { Log, SealedHead } from '../log.ts'
import type { LogKind } from '../open.ts'
import type { Anchor, Statement } from './anchor.ts'
import { ctNote, ctNoteLine, type CtTreeHead, readCtNote } from './ct-note.ts'

export type StatedLog = Pick<Log, 'origin' | 'spkiDer' | 'logId' | 'consistencyProof'>

/**
 * What an anchor of this kind is given of a head: a file the note as the log's first key signed it, a witness the one with
 * the Ed25519 line, under an origin without spaces. Undefined if there is no such line.
 */
export function logStatement(
  log: StatedLog,
  logKind: LogKind,
  anchorKind: Anchor['kind'],
  head: SealedHead,
): Statement | undefined {
  const { size, rootHash } = head
  const common = {
    size,
    rootHash,
    consistencyProof: (first: number) => log.consistencyProof(first, size),
    verify: (note: string) => readOwnNote(log, logKind, note),
  }
  if (anchorKind === 'file') {
    return { ...common, origin: log.origin, note: logKind === 'ct' ? ctNote(log, head) : head.note }
  }
  const origin = witnessOrigin(log.origin)
  const { witnessNote = '' } = head
  if (witnessNote === '') {
    // There are witnesses that take P-256; for the other two kinds there is no note that could be sent.
    return logKind === 'rekor-v2' ? { ...common, origin, note: head.note } : undefined
  }
  const note = logKind === 'ct' ? withSignatures(witnessNote, [ctNoteLine(log, head)]) : witnessNote
  return { ...common, origin, note }
}

/** What a note of this log says, with the signature of its first key, verified. Throws `TlogError` or `X509Error`. */
export function readOwnNote(log: Omit<StatedLog, 'consistencyProof'>, logKind: LogKind, note: string): CtTreeHead {
  if (logKind === 'ct') return readCtNote(log, note)
  const { origin, spkiDer } = log
  const { size, rootHash } = verifyCheckpoint(note, { origin, spkiDer })
  const hint = Buffer.from(keyHintSpki(spkiDer))
  const name = signatureName(origin)
  const line = parseNote(note).signatures.find((each) => each.name === name && hint.equals(each.keyHint))
  if (line === undefined) throw new TlogError('bad_signature', 'no signature of the expected key')
  return { size, rootHash, timestampMs: 0, signature: line.signature }
}
