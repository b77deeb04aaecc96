import { TlogError } from './errors.ts'

/** A key that signs notes. */
export interface NoteKey {
  /** P-256 with SHA-256, P-384 with SHA-384, or Ed25519. */
  readonly algorithm: 'P-256' | 'P-384' | 'Ed25519'
  /** SubjectPublicKeyInfo, DER. */
  readonly spkiDer: Uint8Array
  /** The uncompressed point (65 or 97 bytes) or the 32 bytes of Ed25519. */
  readonly raw: Uint8Array
}

/** What comes before the key's bytes in its SPKI, RFC 5480 §2 and RFC 8410 §4. */
const SPKI_FORMS = [
  { prefix: '3059301306072a8648ce3d020106082a8648ce3d030107034200', length: 65, algorithm: 'P-256' },
  { prefix: '3076301006072a8648ce3d020106052b81040022036200', length: 97, algorithm: 'P-384' },
  { prefix: '302a300506032b6570032100', length: 32, algorithm: 'Ed25519' },
] as const

/** Reads the SPKI of a note's key by its one DER form; throws `malformed_key` for any other. */
export function parseNoteKey(spkiDer: Uint8Array): NoteKey {
  const hex = Array.from(spkiDer, (byte) => byte.toString(16).padStart(2, '0')).join('')
  const form = SPKI_FORMS.find(
    ({ prefix, length }) => hex.startsWith(prefix) && spkiDer.length === prefix.length / 2 + length,
  )
  if (form === undefined) throw new TlogError('malformed_key', 'not the SPKI of a P-256, P-384 or Ed25519 key')
  return { algorithm: form.algorithm, spkiDer, raw: new Uint8Array(spkiDer.subarray(-form.length)) }
}

/** An Ed25519 key from its 32 bytes; throws `malformed_key`. */
export function ed25519NoteKey(raw: Uint8Array): NoteKey {
  if (raw.length !== 32) throw new TlogError('malformed_key', `an Ed25519 key of ${raw.length} bytes, not 32`)
  const prefix = Uint8Array.of(0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00) // as in SPKI_FORMS
  return { algorithm: 'Ed25519', spkiDer: Uint8Array.of(...prefix, ...raw), raw }
}
