import { invalid } from './errors.ts'

const STANDARD = /^[A-Za-z0-9+/]*={0,2}$/
const URL_SAFE = /^[A-Za-z0-9_-]*={0,2}$/

/** Padded standard base64 as Go's `StdEncoding` reads it: line breaks are skipped, stray trailing bits are not minded. Throws `invalid`. */
export function decodeStandard(text: string, what: string): Uint8Array {
  const joined = withoutLineBreaks(text)
  if (joined.length % 4 !== 0 || !STANDARD.test(joined)) throw invalid(`failed parsing base64 data for ${what}`)
  return Uint8Array.from(Buffer.from(joined, 'base64'))
}

/** Padded standard or URL-safe base64 without line breaks, as DSSE envelopes carry it. Throws `invalid`. */
export function decodeEither(text: string, what: string): Uint8Array {
  if (text.length % 4 !== 0 || !(STANDARD.test(text) || URL_SAFE.test(text))) {
    throw invalid(`failed parsing base64 data for ${what}`)
  }
  return Uint8Array.from(Buffer.from(text, 'base64'))
}

/** `bytes` of protojson: standard or URL-safe, padding optional. Undefined for what is neither. */
export function decodeProtoBytes(text: string): Uint8Array | undefined {
  const joined = withoutLineBreaks(text)
  if (!(STANDARD.test(joined) || URL_SAFE.test(joined))) return undefined
  const unpadded = joined.replace(/=+$/, '')
  // Padding, if any, fills the last group of four; one left-over character holds less than a byte.
  if (joined.length !== unpadded.length && joined.length % 4 !== 0) return undefined
  if (unpadded.length % 4 === 1) return undefined
  return Uint8Array.from(Buffer.from(unpadded, 'base64'))
}

export function encodeBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
}

export function encodeHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
}

/** Bytes of an even number of hexadecimal digits, which the caller has checked. */
export function decodeHex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, 'hex'))
}

function withoutLineBreaks(text: string): string {
  return text.includes('\n') || text.includes('\r') ? text.replace(/[\r\n]/g, '') : text
}
