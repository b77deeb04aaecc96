/**
 * Checkpoints (c2sp.org/tlog-checkpoint): a signed note whose text is origin, size and base64 root, one a line.
 *
 * Rekor v1's origin is `<host> - <tree id>` and its signature line is named after the host alone; its verifiers give up
 * at the first line of another key, so such a checkpoint carries exactly one.
 */
import { verifySignature } from '#note-signature'
import { equalBytes, fromBase64, parseDecimal, toBase64 } from './bytes.ts'
import { TlogError } from './errors.ts'
import { keyHintC2sp, keyHintSpki, parseNote } from './note.ts'
import { parseNoteKey } from './signature.ts'

/** The text of a checkpoint. */
export interface Checkpoint {
  readonly origin: string
  readonly size: number
  /** 32 bytes. */
  readonly rootHash: Uint8Array
  /** Opaque lines after the root, without their newlines. */
  readonly extensions: readonly string[]
}

/** The note text, with its last newline. Throws `malformed_checkpoint` for what cannot be parsed back. */
export function formatCheckpoint(checkpoint: {
  readonly origin: string
  readonly size: number
  readonly rootHash: Uint8Array
  readonly extensions?: readonly string[]
}): string {
  const { origin, size, rootHash, extensions = [] } = checkpoint
  if (!Number.isSafeInteger(size) || size < 0) throw new TlogError('malformed_checkpoint', `size ${size}`)
  if (rootHash.length !== 32) throw new TlogError('malformed_checkpoint', `a root of ${rootHash.length} bytes, not 32`)
  const lines = [origin, String(size), toBase64(rootHash), ...extensions]
  if (lines.some((line) => line === '' || line.includes('\n'))) {
    throw new TlogError('malformed_checkpoint', 'an empty line or a newline within one')
  }
  return `${lines.join('\n')}\n`
}

/** Parses a note text (not a whole note). Throws `malformed_checkpoint`. */
export function parseCheckpoint(text: string): Checkpoint {
  if (!text.endsWith('\n')) throw new TlogError('malformed_checkpoint', 'the text does not end in a newline')
  const lines = text.slice(0, -1).split('\n')
  const [origin, size, root, ...extensions] = lines
  if (origin === undefined || size === undefined || root === undefined || lines.includes('')) {
    throw new TlogError('malformed_checkpoint', 'fewer than three lines, or an empty one')
  }
  const rootHash = fromBase64(root, 'malformed_checkpoint', 'the root')
  if (rootHash.length !== 32) throw new TlogError('malformed_checkpoint', `a root of ${rootHash.length} bytes, not 32`)
  return { origin, size: parseDecimal(size, 'malformed_checkpoint', 'the size'), rootHash, extensions }
}

/** The name on the log's own signature line: the origin, or the host of `<host> - <tree id>`. */
export function signatureName(origin: string): string {
  return /^(\S+) - [0-9]+$/.exec(origin)?.[1] ?? origin
}

/**
 * The origin under which witnesses know a log: its own, or `<host>/<tree id>` for Rekor v1's `<host> - <tree id>`, since
 * the name of a C2SP key has no spaces and witnesses want it to be the origin.
 */
export function witnessOrigin(origin: string): string {
  return origin.replace(/^(\S+) - ([0-9]+)$/, '$1/$2')
}

/**
 * Verifies a note as the checkpoint of the log with this origin and key (SubjectPublicKeyInfo: P-256 or P-384 with the
 * hint of `keyHintSpki`, or Ed25519 with C2SP's) and returns what it says. Lines of other keys are ignored, except for
 * an origin of Rekor v1's form, whose note must have one line only. Throws `malformed_note`, `malformed_checkpoint`,
 * `malformed_key` or `bad_signature`.
 */
export function verifyCheckpoint(
  note: string,
  expected: { readonly origin: string; readonly spkiDer: Uint8Array },
): Checkpoint {
  const { text, signatures } = parseNote(note)
  const checkpoint = parseCheckpoint(text)
  if (checkpoint.origin !== expected.origin) {
    throw new TlogError('bad_signature', `the origin is ${JSON.stringify(checkpoint.origin)}`)
  }
  const name = signatureName(expected.origin)
  if (name !== expected.origin && signatures.length !== 1) {
    throw new TlogError('bad_signature', `${signatures.length} signature lines where Rekor v1 has one`)
  }
  const key = parseNoteKey(expected.spkiDer)
  const hint = key.algorithm === 'Ed25519' ? keyHintC2sp(name, 1, key.raw) : keyHintSpki(key.spkiDer)
  const own = signatures.filter((line) => line.name === name && equalBytes(line.keyHint, hint))
  if (own.length === 0) throw new TlogError('bad_signature', 'no signature of the expected key')
  const signed = new TextEncoder().encode(text)
  if (!own.every((line) => verifySignature(key, line.signature, signed))) {
    throw new TlogError('bad_signature', 'the signature does not verify')
  }
  return checkpoint
}
