import { X509Error } from './errors.ts'

const ALPHABET = Uint8Array.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', (c) =>
  c.charCodeAt(0),
)
const PAD = 0x3d
const LINE_FEED = 0x0a
/** 48 octets are one line of 64 characters. */
const OCTETS_A_LINE = 48
const latin1 = new TextDecoder('latin1')

/** PEM (RFC 7468): lines of 64 characters, LF, also after the last line. */
export function encodePem(label: string, der: Uint8Array): string {
  // By hand, as this runs for every certificate in every answer: btoa line by line takes 40 times as long.
  const characters = new Uint8Array(4 * Math.ceil(der.length / 3) + Math.ceil(der.length / OCTETS_A_LINE))
  let out = 0
  for (let at = 0; at < der.length; at += 3) {
    const [first = 0, second, third] = [der[at], der[at + 1], der[at + 2]]
    const group = (first << 16) | ((second ?? 0) << 8) | (third ?? 0)
    characters[out++] = ALPHABET[group >> 18] ?? 0
    characters[out++] = ALPHABET[(group >> 12) & 63] ?? 0
    characters[out++] = second === undefined ? PAD : (ALPHABET[(group >> 6) & 63] ?? 0)
    characters[out++] = third === undefined ? PAD : (ALPHABET[group & 63] ?? 0)
    if ((at + 3) % OCTETS_A_LINE === 0 || at + 3 >= der.length) characters[out++] = LINE_FEED
  }
  return `-----BEGIN ${label}-----\n${latin1.decode(characters)}-----END ${label}-----\n`
}

/** What `decodePem` accepts. */
export interface PemOptions {
  /** Labels that may occur; every label unless told. */
  readonly labels?: readonly string[]
  /** Blocks at most; 16 unless told. */
  readonly max?: number
}

/** One block of a PEM text. */
export interface PemBlock {
  readonly label: string
  readonly der: Uint8Array
}

const BEGIN = /^-----BEGIN ([A-Z0-9][A-Z0-9 #.]{0,62})-----$/

/**
 * The blocks of a PEM text, at least one. Between blocks only blank lines may stand: text there is a sign of another
 * format, and headers (encrypted keys) are never public material. Line ends are LF or CRLF. Throws `malformed_pem`.
 */
export function decodePem(text: string, options: PemOptions = {}): PemBlock[] {
  const blocks: PemBlock[] = []
  let label: string | undefined
  let base64 = ''
  for (const rawLine of text.split('\n')) {
    const line = rawLine.trim()
    if (label === undefined) {
      if (line === '') continue
      label = BEGIN.exec(line)?.[1]
      if (label === undefined) throw malformed('text outside of a PEM block')
      if (options.labels !== undefined && !options.labels.includes(label))
        throw malformed(`unexpected PEM block ${label}`)
      if (blocks.length >= (options.max ?? 16)) throw malformed('too many PEM blocks')
      base64 = ''
    } else if (line.startsWith('-----')) {
      if (line !== `-----END ${label}-----`) throw malformed('PEM block does not end with its own label')
      blocks.push({ label, der: decodeBase64(base64) })
      label = undefined
    } else base64 += line
  }
  if (label !== undefined) throw malformed('PEM block without an end')
  if (blocks.length === 0) throw malformed('no PEM block')
  return blocks
}

/** Standard base64 with padding and zero trailing bits, no spaces. */
function decodeBase64(text: string): Uint8Array {
  if (text.length === 0 || text.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(text))
    throw malformed('PEM block is not base64')
  const binary = atob(text)
  const bytes = new Uint8Array(binary.length)
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i)
  // atob drops the bits behind the last octet; two texts for the same bytes are one too many.
  const tail = bytes.subarray(bytes.length - (bytes.length % 3))
  if (tail.length > 0 && btoa(String.fromCharCode(...tail)) !== text.slice(-4))
    throw malformed('PEM block has stray bits at its end')
  return bytes
}

function malformed(message: string): X509Error {
  return new X509Error('malformed_pem', message)
}
