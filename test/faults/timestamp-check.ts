/** An independent reader of RFC 3161 responses: nothing of this project, a few lines of DER, and node:crypto. */
import { createHash, verify } from 'node:crypto'

export class TimestampCheckError extends Error {
  override readonly name = 'TimestampCheckError'
}

interface Element {
  readonly tag: number
  /** Tag and length included. */
  readonly whole: Buffer
  readonly content: Buffer
}

const MESSAGE_DIGEST = Buffer.from('06092a864886f70d010904', 'hex')

/** The token's time in milliseconds, if it is for `digestHex` and signed by `spkiDer`; throws otherwise. */
export function checkTimestamp(responseDer: Buffer, { digestHex, spkiDer }: { digestHex: string; spkiDer: Buffer }) {
  const [status, token] = children(one(responseDer))
  if (status === undefined || at(status, 0).content[0] !== 0 || token === undefined) fail('no token was granted')
  const signedData = at(at(token, 1), 0)
  const parts = children(signedData)
  const info = at(at(at(signedData, 2), 1), 0).content
  const signer = children(at(last(parts), 0))
  const attributes = signer.find(({ tag }) => tag === 0xa0) ?? fail('no signed attributes')
  const signed = Buffer.from(attributes.whole)
  // RFC 5652 §5.4: what is signed has the tag of a SET OF.
  signed[0] = 0x31
  const digestAttribute =
    children(attributes).find(({ content }) => content.subarray(0, MESSAGE_DIGEST.length).equals(MESSAGE_DIGEST)) ??
    fail('no message digest')
  if (!at(at(digestAttribute, 1), 0).content.equals(sha256(info))) fail('the signed digest is of another TSTInfo')
  const signature = signer.findLast(({ tag }) => tag === 0x04) ?? fail('no signature')
  if (!verify('sha256', signed, { key: spkiDer, format: 'der', type: 'spki' }, signature.content)) {
    fail('the signature does not verify with the pinned key')
  }
  const fields = children(one(info))
  const imprint = at(fields[2] ?? fail('no imprint'), 1).content.toString('hex')
  if (imprint !== digestHex) fail('the token is for another message')
  const time = fields.find(({ tag }) => tag === 0x18)?.content.toString() ?? fail('no time')
  return { genTimeMs: Date.parse(time.replace(/^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(.*)$/, '$1-$2-$3T$4:$5:$6')) }
}

function one(der: Buffer): Element {
  const [only] = elements(der)
  return only ?? fail('an empty structure')
}

function children({ content }: Element): Element[] {
  return elements(content)
}

function at(parent: Element, index: number): Element {
  return children(parent)[index] ?? fail(`no element ${index}`)
}

function last(parents: readonly Element[]): Element {
  return parents.at(-1) ?? fail('nothing there')
}

function elements(der: Buffer): Element[] {
  const found: Element[] = []
  for (let start = 0; start < der.length; ) {
    const first = der.readUInt8(start + 1)
    const octets = first < 0x80 ? 0 : first & 0x7f
    const header = 2 + octets
    const length = octets === 0 ? first : der.readUIntBE(start + 2, octets)
    const whole = der.subarray(start, start + header + length)
    found.push({ tag: der.readUInt8(start), whole, content: whole.subarray(header) })
    start += whole.length
  }
  return found
}

function sha256(bytes: Buffer): Buffer {
  return createHash('sha256').update(bytes).digest()
}

function fail(what: string): never {
  throw new TimestampCheckError(what)
}
