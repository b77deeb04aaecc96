import { X509Error } from './errors.ts'

/** PEM (RFC 7468): lines of 64 characters, LF, also after the last line. */
export function encodePem(label: string, der: Uint8Array): string {
  let text = `-----BEGIN ${label}-----\n`
  // 48 octets are one line of 64 characters.
  for (let at = 0; at < der.length; at += 48) text += `${btoa(String.fromCharCode(...der.subarray(at, at + 48)))}\n`
  return `${text}-----END ${label}-----\n`
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
