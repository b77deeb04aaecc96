/**
 * A CT tree head as a signed note: the signature line of c2sp.org/static-ct-api (type 0x05), which holds the time and the
 * RFC 6962 signature as it was made, so that no key has to sign anything else for it.
 */
import { verify } from 'node:crypto'
import {
  formatCheckpoint,
  formatNote,
  keyHintC2sp,
  type NoteSignature,
  parseCheckpoint,
  parseNote,
  TlogError,
} from '#tlog'
import { digitallySigned, parseDigitallySigned, treeHeadSignatureInput } from '#x509'
import type { Log, SealedHead } from '../log.ts'

/** C2SP signed-note's number of RFC 6962 tree heads. */
const RFC6962_TREE_HEAD = 5

export interface CtTreeHead {
  readonly size: number
  /** 32 bytes. */
  readonly rootHash: Uint8Array
  readonly timestampMs: number
  /** DER. */
  readonly signature: Uint8Array
}

/** The note with the log's one line. */
export function ctNote({ origin, logId }: Pick<Log, 'origin' | 'logId'>, head: SealedHead): string {
  const { size, rootHash } = head
  return formatNote(formatCheckpoint({ origin, size, rootHash }), [ctNoteLine({ origin, logId }, head)])
}

/** The line alone, to stand beside others. */
export function ctNoteLine({ origin, logId }: Pick<Log, 'origin' | 'logId'>, head: CtTreeHead): NoteSignature {
  const time = new Uint8Array(8)
  new DataView(time.buffer).setBigUint64(0, BigInt(head.timestampMs))
  const signature = Uint8Array.of(...time, ...digitallySigned(head.signature))
  return { name: origin, keyHint: keyHintC2sp(origin, RFC6962_TREE_HEAD, logId), signature }
}

/** The tree head in such a note, verified. Throws `TlogError` or `X509Error`. */
export function readCtNote(
  { origin, logId, spkiDer }: Pick<Log, 'origin' | 'logId' | 'spkiDer'>,
  note: string,
): CtTreeHead {
  const { text, signatures } = parseNote(note)
  const { origin: found, size, rootHash } = parseCheckpoint(text)
  if (found !== origin) throw new TlogError('bad_signature', `the origin is ${JSON.stringify(found)}`)
  const hint = Buffer.from(keyHintC2sp(origin, RFC6962_TREE_HEAD, logId))
  const line = signatures.find(({ name, keyHint }) => name === origin && hint.equals(keyHint))?.signature
  if (line === undefined || line.length < 9) throw new TlogError('bad_signature', 'no signature of the expected key')
  const time = new DataView(line.buffer, line.byteOffset).getBigUint64(0)
  if (time > BigInt(Number.MAX_SAFE_INTEGER)) throw new TlogError('bad_signature', 'a time without end')
  const timestampMs = Number(time)
  const signature = parseDigitallySigned(line.slice(8))
  const key = { key: Buffer.from(spkiDer), format: 'der', type: 'spki' } as const
  if (!verify('sha256', treeHeadSignatureInput(size, timestampMs, rootHash), key, signature)) {
    throw new TlogError('bad_signature', 'the signature does not verify')
  }
  return { size, rootHash, timestampMs, signature }
}
