import { TlogError, type TlogErrorCode } from './errors.ts'

/** Standard base64 with padding (RFC 4648 §4). `Uint8Array.toBase64` is not in Node 24 yet. */
export function toBase64(bytes: Uint8Array): string {
  let binary = ''
  for (const byte of bytes) binary += String.fromCharCode(byte)
  return btoa(binary)
}

/**
 * Strict base64: the one encoding of these bytes, with padding and zero trailing bits. `atob` alone forgives white
 * space, missing padding and stray bits, so that one signature would have many spellings.
 */
export function fromBase64(text: string, code: TlogErrorCode, what: string): Uint8Array {
  let binary: string
  try {
    binary = atob(text)
  } catch (cause) {
    throw new TlogError(code, `${what} is not base64`, { cause })
  }
  if (btoa(binary) !== text) throw new TlogError(code, `${what} is not canonical base64`)
  return Uint8Array.from(binary, (character) => character.charCodeAt(0))
}

/** True if both have the same length and bytes; not constant time: nothing here is secret. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index])
}

/** Parses a decimal without sign or leading zeroes, at most 2^53 - 1. */
export function parseDecimal(text: string, code: TlogErrorCode, what: string): number {
  if (!/^(?:0|[1-9][0-9]{0,15})$/.test(text)) throw new TlogError(code, `${what} is not a decimal number`)
  const value = Number(text)
  if (!Number.isSafeInteger(value)) throw new TlogError(code, `${what} is over 2^53 - 1`)
  return value
}
