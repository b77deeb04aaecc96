import { VerifierError } from './errors.ts'

/** Standard base64, padded or not; throws `malformed`. Browser-safe. */
export function fromBase64(text: string, what: string): Uint8Array {
  try {
    return Uint8Array.from(atob(text), (character) => character.codePointAt(0) ?? 0)
  } catch (error) {
    throw new VerifierError('malformed', `${what} is not base64`, { cause: error })
  }
}

/** Standard base64 with padding. */
export function toBase64(bytes: Uint8Array): string {
  // In pieces: a spread of a large array overflows the stack.
  let binary = ''
  for (let at = 0; at < bytes.length; at += 8192) binary += String.fromCodePoint(...bytes.subarray(at, at + 8192))
  return btoa(binary)
}

/** Hex of either case; throws `malformed`. */
export function fromHex(text: string, what: string): Uint8Array {
  if (text.length % 2 !== 0 || !/^[0-9a-f]*$/i.test(text)) throw new VerifierError('malformed', `${what} is not hex`)
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16))
}

/** Lower-case hex. */
export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** True for the same bytes. Not for secrets: it returns early. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at])
}

/** One member of an object of unknown shape; throws `malformed` if there is none. */
export function member(value: unknown, name: string): unknown {
  const found: unknown = typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined
  if (found === undefined) throw new VerifierError('malformed', `there is no "${name}"`)
  return found
}

/** The same, undefined if absent or null. */
export function optionalMember(value: unknown, name: string): unknown {
  const found: unknown = typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined
  return found ?? undefined
}

/** A string, or `malformed`. */
export function text(value: unknown, what: string): string {
  if (typeof value !== 'string') throw new VerifierError('malformed', `${what} is not a string`)
  return value
}

/** A list, or `malformed`. */
export function list(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new VerifierError('malformed', `${what} is not a list`)
  return value
}

/** A count or index: a safe non-negative integer, as a number or (proto3 JSON int64) a decimal string. */
export function count(value: unknown, what: string): number {
  const number = typeof value === 'string' && /^(?:0|[1-9]\d{0,15})$/.test(value) ? Number(value) : value
  if (typeof number !== 'number' || !Number.isSafeInteger(number) || number < 0) {
    throw new VerifierError('malformed', `${what} is not a count`)
  }
  return number
}
