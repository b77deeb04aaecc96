/**
 * Cosignatures of witnesses (c2sp.org/tlog-cosignature, type 0x04): an Ed25519 signature over a time and a checkpoint's
 * text. Its line in a note holds the 4-byte key hint, the time in seconds as uint64, and the 64 bytes of the signature.
 */
import { verifySignature } from '#note-signature'
import { equalBytes, fromBase64 } from './bytes.ts'
import { TlogError } from './errors.ts'
import { keyHintC2sp, type NoteSignature } from './note.ts'
import { ed25519NoteKey } from './signature.ts'

/** A witness's public key. */
export interface WitnessKey {
  /** Of its signature lines. */
  readonly name: string
  /** 4 bytes. */
  readonly keyHint: Uint8Array
  /** 32 bytes of Ed25519. */
  readonly raw: Uint8Array
}

/** C2SP signed-note's number of this kind of key. */
const COSIGNATURE_V1 = 4

/** Reads a verifier key `name+hint+base64(0x04 ‖ key)`, as witnesses print it. Throws `malformed_key`. */
export function parseWitnessKey(vkey: string): WitnessKey {
  const [, name, hint, encoded] = /^([^+]+)\+([0-9a-f]{8})\+(.+)$/.exec(vkey) ?? []
  if (name === undefined || hint === undefined || encoded === undefined) {
    throw new TlogError('malformed_key', 'a verifier key is name+hint+base64')
  }
  const bytes = fromBase64(encoded, 'malformed_key', 'the key')
  if (bytes[0] !== COSIGNATURE_V1 || bytes.length !== 33) {
    throw new TlogError('malformed_key', 'not a cosignature/v1 key: type 0x04 and 32 bytes of Ed25519')
  }
  const raw = bytes.slice(1)
  const keyHint = keyHintC2sp(name, COSIGNATURE_V1, raw)
  const found = Array.from(keyHint, (byte) => byte.toString(16).padStart(2, '0')).join('')
  if (found !== hint) throw new TlogError('malformed_key', `the key's hint is ${found}, not ${hint}`)
  return { name, keyHint, raw }
}

/**
 * The first line that is this witness's cosignature of the checkpoint with this text (with its last newline), with its
 * time in seconds. Throws `bad_signature` if there is none, or if one of its lines does not verify.
 */
export function verifyCosignature(
  lines: readonly NoteSignature[],
  key: WitnessKey,
  text: string,
): { readonly line: NoteSignature; readonly timestampSeconds: number } {
  const own = lines.filter((line) => line.name === key.name && equalBytes(line.keyHint, key.keyHint))
  const [line] = own
  if (line === undefined) throw new TlogError('bad_signature', `no cosignature of ${key.name}`)
  const times = own.map(({ signature }) => verifiedTime(signature, key, text))
  return { line, timestampSeconds: times[0] ?? 0 }
}

function verifiedTime(signature: Uint8Array, key: WitnessKey, text: string): number {
  if (signature.length !== 72)
    throw new TlogError('bad_signature', `a cosignature of ${signature.length} bytes, not 72`)
  const time = new DataView(signature.buffer, signature.byteOffset).getBigUint64(0)
  if (time > BigInt(Number.MAX_SAFE_INTEGER))
    throw new TlogError('bad_signature', 'a cosignature of a time without end')
  const message = new TextEncoder().encode(`cosignature/v1\ntime ${time}\n${text}`)
  if (!verifySignature(ed25519NoteKey(key.raw), signature.slice(8), message)) {
    throw new TlogError('bad_signature', `the cosignature of ${key.name} does not verify`)
  }
  return Number(time)
}
