/**
 * C2SP signed notes (c2sp.org/signed-note): a text that ends in a newline, an empty line, and signature lines
 *
 *     — <key name> base64(4-byte key hint ‖ signature)
 *
 * The signed bytes are the text with its last newline, without the empty line.
 */
import { sha256 } from '#sha256'
import { fromBase64, toBase64 } from './bytes.ts'
import { TlogError } from './errors.ts'

/** One signature line. */
export interface NoteSignature {
  /** Non-empty, without white space or `+`. */
  readonly name: string
  /** 4 bytes. */
  readonly keyHint: Uint8Array
  readonly signature: Uint8Array
}

/** A parsed note; nothing in it is trusted before a signature was verified. */
export interface Note {
  /** With its final newline: the bytes that are signed, as text. */
  readonly text: string
  readonly signatures: readonly NoteSignature[]
}

/** C2SP names 1 MB notes with up to 16 post-quantum signatures as plenty; a bound against abuse. */
const MAX_NOTE_LENGTH = 1_000_000
const MAX_SIGNATURES = 64

/** Signs a text (which ends in a newline) and returns the note with this one line. */
export async function signNoteText(
  text: string,
  signer: { name: string; keyHint: Uint8Array; sign: (bytes: Uint8Array) => Promise<Uint8Array> },
): Promise<string> {
  checkText(text)
  const signature = await signer.sign(new TextEncoder().encode(text))
  return formatNote(text, [{ name: signer.name, keyHint: signer.keyHint, signature }])
}

/** Writes a note. Throws `malformed_note` for what `parseNote` would refuse. */
export function formatNote(text: string, signatures: readonly NoteSignature[]): string {
  checkText(text)
  if (signatures.length === 0) throw new TlogError('malformed_note', 'a note without a signature')
  const lines = signatures.map(({ name, keyHint, signature }) => {
    checkName(name)
    if (keyHint.length !== 4) throw new TlogError('malformed_note', `a key hint of ${keyHint.length} bytes, not 4`)
    if (signature.length === 0) throw new TlogError('malformed_note', 'an empty signature')
    const bytes = new Uint8Array(4 + signature.length)
    bytes.set(keyHint)
    bytes.set(signature, 4)
    return `— ${name} ${toBase64(bytes)}\n`
  })
  return `${text}\n${lines.join('')}`
}

/** Parses a note, strictly; verifies nothing. Throws `malformed_note`. */
export function parseNote(note: string): Note {
  if (note.length > MAX_NOTE_LENGTH) throw new TlogError('malformed_note', 'the note is over 1 MB')
  if (!note.isWellFormed()) throw new TlogError('malformed_note', 'the note is not valid Unicode')
  if (hasControlCharacter(note)) throw new TlogError('malformed_note', 'the note has a control character')
  const split = note.lastIndexOf('\n\n')
  if (split < 0) throw new TlogError('malformed_note', 'the note has no empty line before its signatures')
  const text = note.slice(0, split + 1)
  checkText(text)
  return { text, signatures: parseSignatureLines(note.slice(split + 2)) }
}

/** Parses the lines after a note's empty line, as a witness sends them alone; verifies nothing. Throws `malformed_note`. */
export function parseSignatureLines(block: string): readonly NoteSignature[] {
  if (!block.endsWith('\n')) throw new TlogError('malformed_note', 'the note does not end in a newline')
  const lines = block.slice(0, -1).split('\n')
  if (lines.length > MAX_SIGNATURES) throw new TlogError('malformed_note', `more than ${MAX_SIGNATURES} signatures`)
  return lines.map(parseSignatureLine)
}

/** The note with these lines after its own; of a line that it has already there stays one. Throws `malformed_note`. */
export function withSignatures(note: string, more: readonly NoteSignature[]): string {
  const { text, signatures } = parseNote(note)
  const named = (line: NoteSignature) => `${line.name} ${toBase64(line.keyHint)}`
  const have = new Set(signatures.map(named))
  return formatNote(text, [...signatures, ...more.filter((line) => !have.has(named(line)))])
}

/** First 4 bytes of SHA-256(SPKI): the hint of every key in Rekor v1, of ECDSA keys in C2SP (type 0x02). */
export function keyHintSpki(spkiDer: Uint8Array): Uint8Array {
  return sha256(spkiDer).slice(0, 4)
}

/** First 4 bytes of SHA-256(name ‖ 0x0A ‖ type ‖ key): C2SP, e.g. type 0x01 with 32 bytes of Ed25519. */
export function keyHintC2sp(name: string, type: number, key: Uint8Array): Uint8Array {
  checkName(name)
  const encodedName = new TextEncoder().encode(name)
  const input = new Uint8Array(encodedName.length + 2 + key.length)
  input.set(encodedName)
  input[encodedName.length] = 0x0a
  input[encodedName.length + 1] = type
  input.set(key, encodedName.length + 2)
  return sha256(input).slice(0, 4)
}

/** The verifier key `name+hint+base64(0x02 ‖ SPKI)` of an ECDSA key, as fsck and the witnesses take it. */
export function vkeyEcdsa(name: string, spkiDer: Uint8Array): string {
  return vkey(name, keyHintSpki(spkiDer), 2, spkiDer)
}

/** The verifier key `name+hint+base64(0x01 ‖ key)` of an Ed25519 key (32 bytes). */
export function vkeyEd25519(name: string, key: Uint8Array): string {
  return vkey(name, keyHintC2sp(name, 1, key), 1, key)
}

function vkey(name: string, hint: Uint8Array, type: number, key: Uint8Array): string {
  checkName(name)
  const hintHex = Array.from(hint, (byte) => byte.toString(16).padStart(2, '0')).join('')
  return `${name}+${hintHex}+${toBase64(Uint8Array.of(type, ...key))}`
}

function parseSignatureLine(line: string): NoteSignature {
  const match = /^— ([^ ]+) ([^ ]+)$/u.exec(line)
  const [, name, encoded] = match ?? []
  if (name === undefined || encoded === undefined) throw new TlogError('malformed_note', 'not a signature line')
  checkName(name)
  const bytes = fromBase64(encoded, 'malformed_note', 'a signature')
  if (bytes.length < 5) throw new TlogError('malformed_note', 'a signature without a key hint and signature bytes')
  return { name, keyHint: bytes.slice(0, 4), signature: bytes.slice(4) }
}

function checkText(text: string): void {
  if (!text.endsWith('\n') || text === '\n') throw new TlogError('malformed_note', 'the text does not end in a newline')
  if (!text.isWellFormed() || hasControlCharacter(text)) {
    throw new TlogError('malformed_note', 'the text has a control character or is not valid Unicode')
  }
}

function checkName(name: string): void {
  if (name === '' || /[\s\p{White_Space}+]/u.test(name) || !name.isWellFormed() || hasControlCharacter(name)) {
    throw new TlogError('malformed_note', 'a key name is empty or has white space or a plus sign')
  }
}

function hasControlCharacter(text: string): boolean {
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code < 0x20 && code !== 0x0a) return true
  }
  return false
}
