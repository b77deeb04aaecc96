/**
 * The DER (X.690) of the hot paths: a writer that copies bytes and nothing else, and a reader that accepts exactly one
 * encoding of each value. One encoding is a security property here: what was signed, logged and hashed must be the
 * same bytes that every other parser sees.
 */
import { X509Error } from './errors.ts'

/** Identifier octets used by name; all are universal, constructed where X.690 demands it. */
export const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  objectIdentifier: 0x06,
  utf8String: 0x0c,
  printableString: 0x13,
  teletexString: 0x14,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  bmpString: 0x1e,
  sequence: 0x30,
  set: 0x31,
} as const

const encoder = new TextEncoder()

/** The parts, one after the other, in memory of their own. */
export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0
  for (const part of parts) length += part.length
  const joined = new Uint8Array(length)
  copyParts(joined, 0, parts)
  return joined
}

/** `set` costs more to call than a handful of octets to copy, and most parts are a handful. */
const CALL_SET_FROM = 32

function copyParts(target: Uint8Array, start: number, parts: readonly Uint8Array[]): void {
  let at = start
  for (const part of parts) {
    const length = part.length
    if (length < CALL_SET_FROM) for (let i = 0; i < length; i++) target[at + i] = part[i] ?? 0
    else target.set(part, at)
    at += length
  }
}

/** UTF-8 of a text; lone surrogates become U+FFFD. */
export function utf8Bytes(text: string): Uint8Array {
  const length = text.length
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) {
    const unit = text.charCodeAt(i)
    if (unit > 0x7f) return encoder.encode(text)
    bytes[i] = unit
  }
  return bytes
}

/** True if both hold the same bytes. Not constant in time: for public values only. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

/** One element: identifier octet, minimal definite length, then the parts as content. */
export function tlv(tag: number, ...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0
  for (const part of parts) length += part.length
  const lengthOctets = length < 0x80 ? 1 : length < 0x100 ? 2 : length < 0x10000 ? 3 : length < 0x1000000 ? 4 : 5
  const element = new Uint8Array(1 + lengthOctets + length)
  element[0] = tag
  if (lengthOctets === 1) element[1] = length
  else {
    element[1] = 0x80 | (lengthOctets - 1)
    for (let i = lengthOctets, rest = length; i > 1; i--, rest = Math.floor(rest / 256)) element[i] = rest & 0xff
  }
  copyParts(element, 1 + lengthOctets, parts)
  return element
}

/** SEQUENCE of already encoded elements. */
export function sequence(...parts: readonly Uint8Array[]): Uint8Array {
  return tlv(TAG.sequence, ...parts)
}

/** SET OF already encoded elements, sorted as X.690 §11.6 demands. */
export function setOf(...parts: readonly Uint8Array[]): Uint8Array {
  return tlv(TAG.set, ...parts.toSorted(compareBytes))
}

/** INTEGER. A `Uint8Array` is an unsigned big-endian magnitude of any length. */
export function integer(value: bigint | number | Uint8Array): Uint8Array {
  if (value instanceof Uint8Array) {
    let start = 0
    while (start < value.length - 1 && value[start] === 0) start++
    const magnitude = value.subarray(start)
    if (magnitude.length === 0) return tlv(TAG.integer, ZERO_OCTET)
    return (magnitude[0] ?? 0) >= 0x80 ? tlv(TAG.integer, ZERO_OCTET, magnitude) : tlv(TAG.integer, magnitude)
  }
  return tlv(TAG.integer, twosComplement(BigInt(value)))
}

const ZERO_OCTET = new Uint8Array(1)

/** OBJECT IDENTIFIER from dotted decimals; throws `malformed_der` if it is not one. */
export function objectIdentifier(dotted: string): Uint8Array {
  if (!/^[0-2](\.(0|[1-9]\d{0,38})){1,127}$/.test(dotted))
    throw malformed(`not an object identifier: ${dotted.slice(0, 64)}`)
  const [first = 0n, second = 0n, ...rest] = dotted.split('.').map(BigInt)
  if (first < 2n && second > 39n) throw malformed(`not an object identifier: ${dotted.slice(0, 64)}`)
  const octets: number[] = []
  for (const arc of [first * 40n + second, ...rest]) {
    const groups = [Number(arc & 0x7fn)]
    for (let left = arc >> 7n; left > 0n; left >>= 7n) groups.push(Number(left & 0x7fn) | 0x80)
    octets.push(...groups.toReversed())
  }
  return tlv(TAG.objectIdentifier, Uint8Array.from(octets))
}

/** OCTET STRING. */
export function octetString(bytes: Uint8Array): Uint8Array {
  return tlv(TAG.octetString, bytes)
}

/** BIT STRING; `unusedBits` 0 to 7, and those bits of the last octet must be zero. */
export function bitString(bytes: Uint8Array, unusedBits = 0): Uint8Array {
  return tlv(TAG.bitString, unusedBits === 0 ? ZERO_OCTET : Uint8Array.of(unusedBits), bytes)
}

/** BOOLEAN, true as 0xFF (X.690 §11.1). */
export function boolean(value: boolean): Uint8Array {
  return Uint8Array.of(TAG.boolean, 1, value ? 0xff : 0)
}

/** NULL. */
export function nullValue(): Uint8Array {
  return Uint8Array.of(TAG.null, 0)
}

/** UTF8String; throws `malformed_der` for a lone surrogate, which UTF-8 cannot hold. */
export function utf8String(text: string): Uint8Array {
  if (!text.isWellFormed()) throw malformed('text is not well-formed unicode')
  return tlv(TAG.utf8String, utf8Bytes(text))
}

/** PrintableString; throws `malformed_der` for a character outside its set (X.680 §41.4). */
export function printableString(text: string): Uint8Array {
  if (!/^[A-Za-z0-9 '()+,\-./:=?]*$/.test(text)) throw malformed('a character is not allowed in a PrintableString')
  return tlv(TAG.printableString, utf8Bytes(text))
}

/** IA5String; throws `malformed_der` for anything but ASCII. */
export function ia5String(text: string): Uint8Array {
  return tlv(TAG.ia5String, ascii(text))
}

/** The bytes of an ASCII text; throws `malformed_der` for anything else. */
export function ascii(text: string): Uint8Array {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 0x7f) throw malformed('a character is not ASCII')
  return utf8Bytes(text)
}

/** UTCTime `YYMMDDHHMMSSZ`, whole seconds (fractions are cut), years 1950 to 2049. */
export function utcTime(date: Date): Uint8Array {
  const year = date.getUTCFullYear()
  if (!(year >= 1950 && year <= 2049)) throw malformed(`year ${year} does not fit UTCTime`)
  return tlv(TAG.utcTime, utf8Bytes(timeDigits(date).slice(2)))
}

/** GeneralizedTime `YYYYMMDDHHMMSSZ`, whole seconds (fractions are cut), years 0 to 9999. */
export function generalizedTime(date: Date): Uint8Array {
  const year = date.getUTCFullYear()
  if (!(year >= 0 && year <= 9999)) throw malformed(`year ${year} does not fit GeneralizedTime`)
  return tlv(TAG.generalizedTime, utf8Bytes(timeDigits(date)))
}

/** Time of RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050. */
export function time(date: Date): Uint8Array {
  const year = date.getUTCFullYear()
  return year >= 1950 && year <= 2049 ? utcTime(date) : generalizedTime(date)
}

/** Constructed context tag [n], 0 to 30: an explicit tag around encoded elements, or an implicit SEQUENCE or SET. */
export function contextConstructed(n: number, ...parts: readonly Uint8Array[]): Uint8Array {
  return tlv(0xa0 | n, ...parts)
}

/** Primitive context tag [n], 0 to 30: an implicit string. */
export function contextPrimitive(n: number, bytes: Uint8Array): Uint8Array {
  return tlv(0x80 | n, bytes)
}

/** Bounds on what a reader accepts. */
export interface DerReaderOptions {
  /** Elements inside elements at most; 32 unless told: X.509 and CMS need fewer than 20, a hostile file would take the stack. */
  readonly maxDepth?: number
  /** The part of the bytes to read; all of them unless told. Indexes within the bytes, checked by nobody else. */
  readonly start?: number
  readonly end?: number
}

const MAX_DEPTH = 32

/**
 * Reads DER strictly, front to back: low tag numbers, definite minimal lengths, minimal integers, sorted sets. Each
 * method reads one element or throws `X509Error` `malformed_der`; `end()` refuses trailing bytes. Results are views of
 * the input, which must not be changed while they are in use.
 */
export class DerReader {
  readonly #bytes: Uint8Array
  readonly #end: number
  readonly #depthLeft: number
  #at: number
  /** Where the content of the element read last begins; it ends at `#at`. */
  #contentAt = 0

  constructor(bytes: Uint8Array, options: DerReaderOptions = {}) {
    this.#bytes = bytes
    this.#at = options.start ?? 0
    this.#end = options.end ?? bytes.length
    this.#depthLeft = options.maxDepth ?? MAX_DEPTH
    if (this.#depthLeft < 0) throw malformed('nested too deeply')
  }

  /** Bytes not read yet. */
  get remaining(): number {
    return this.#end - this.#at
  }

  /** Identifier octet of the next element, or undefined at the end. */
  peekTag(): number | undefined {
    return this.#at < this.#end ? this.#bytes[this.#at] : undefined
  }

  /** The next element, whatever it is: identifier octet, content, and the element as it stands. */
  readAny(): { tag: number; value: Uint8Array; raw: Uint8Array } {
    const start = this.#at
    const tag = this.#next()
    return { tag, value: this.#content(), raw: this.#bytes.subarray(start, this.#at) }
  }

  /** The next element as it stands, whatever it is. */
  raw(): Uint8Array {
    const start = this.#at
    this.#next()
    return this.#bytes.subarray(start, this.#at)
  }

  /** Content of the next element, which must have this identifier octet. */
  read(tag: number): Uint8Array {
    this.#expect(tag)
    return this.#content()
  }

  /** Content of the next element if it has this identifier octet; otherwise nothing is read. */
  optional(tag: number): Uint8Array | undefined {
    return this.peekTag() === tag ? this.read(tag) : undefined
  }

  /** A reader one level deeper, for content that was read with `read` or `optional`. */
  inside(content: Uint8Array): DerReader {
    return new DerReader(content, { maxDepth: this.#depthLeft - 1 })
  }

  /** A reader of the content of the next element, which must have this identifier octet. */
  enter(tag: number): DerReader {
    this.#expect(tag)
    return new DerReader(this.#bytes, { start: this.#contentAt, end: this.#at, maxDepth: this.#depthLeft - 1 })
  }

  sequence(): DerReader {
    return this.enter(TAG.sequence)
  }

  /** A SET OF; its elements must be in DER order (X.690 §11.6). */
  set(): DerReader {
    const elements = this.enter(TAG.set)
    const check = new DerReader(this.#bytes, { start: elements.#at, end: elements.#end })
    let previous: Uint8Array | undefined
    while (check.remaining > 0) {
      const element = check.raw()
      if (previous !== undefined && compareBytes(previous, element) > 0) throw malformed('set is not sorted')
      previous = element
    }
    return elements
  }

  #expect(tag: number): void {
    const found = this.peekTag()
    if (found !== tag) {
      const what = found === undefined ? 'nothing' : `0x${found.toString(16)}`
      throw malformed(`expected identifier octet 0x${tag.toString(16)}, found ${what}`)
    }
    this.#next()
  }

  #content(): Uint8Array {
    return this.#bytes.subarray(this.#contentAt, this.#at)
  }

  /** Steps over the next element and returns its identifier octet. */
  #next(): number {
    const bytes = this.#bytes
    let at = this.#at
    // Two octets at least, and every index below is checked against the end before it is used.
    if (this.#end - at < 2) throw malformed('an element is missing or cut off')
    const tag = bytes[at++] ?? 0
    // 0x1f: a tag number of 31 and more in further octets, which no structure here has; 0x00: end of contents (BER).
    if ((tag & 0x1f) === 0x1f || tag === 0) throw malformed(`identifier octet 0x${tag.toString(16)} is not allowed`)
    let length = bytes[at++] ?? 0
    if (length >= 0x80) {
      const count = length & 0x7f
      if (count === 0) throw malformed('indefinite length')
      if (count > 4) throw malformed('length over 4 octets')
      if (this.#end - at < count) throw malformed('length is cut off')
      length = 0
      for (let i = 0; i < count; i++) length = length * 256 + (bytes[at++] ?? 0)
      if (length < 0x80 || length < 256 ** (count - 1)) throw malformed('length is not minimal')
    }
    if (length > this.#end - at) throw malformed('element is cut off')
    this.#contentAt = at
    this.#at = at + length
    return tag
  }

  integer(): bigint {
    const octets = this.integerBytes()
    let value = 0n
    // Whole 32-bit groups: a 4096-bit modulus octet by octet would shift half a kilobyte five hundred times.
    const lead = octets.length % 4
    for (let i = 0; i < lead; i++) value = (value << 8n) | BigInt(octets[i] ?? 0)
    const view = new DataView(octets.buffer, octets.byteOffset, octets.length)
    for (let i = lead; i < octets.length; i += 4) value = (value << 32n) | BigInt(view.getUint32(i))
    return (octets[0] ?? 0) >= 0x80 ? value - (1n << BigInt(8 * octets.length)) : value
  }

  /** Content octets of an INTEGER as they stand: two's complement, big-endian, minimal. */
  integerBytes(): Uint8Array {
    const octets = this.read(TAG.integer)
    const [first, second] = octets
    if (first === undefined) throw malformed('integer without octets')
    if (second !== undefined && ((first === 0 && second < 0x80) || (first === 0xff && second >= 0x80))) {
      throw malformed('integer is not minimal')
    }
    return octets
  }

  /** An INTEGER from 0 to 2^53 - 1. */
  smallInteger(): number {
    const value = this.integer()
    if (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER)) throw malformed('integer is out of range')
    return Number(value)
  }

  /** OBJECT IDENTIFIER in dotted decimals. */
  oid(): string {
    return decodeOid(this.read(TAG.objectIdentifier))
  }

  octetString(): Uint8Array {
    return this.read(TAG.octetString)
  }

  bitString(): { bytes: Uint8Array; unusedBits: number } {
    const content = this.read(TAG.bitString)
    const unusedBits = content[0]
    if (unusedBits === undefined || unusedBits > 7) throw malformed('bit string without a count of unused bits')
    const bytes = content.subarray(1)
    const last = bytes.at(-1)
    if (last === undefined ? unusedBits !== 0 : (last & ((1 << unusedBits) - 1)) !== 0) {
      throw malformed('unused bits of a bit string are not zero')
    }
    return { bytes, unusedBits }
  }

  /** Whole octets of a BIT STRING, as keys and signatures are. */
  bitOctets(): Uint8Array {
    const { bytes, unusedBits } = this.bitString()
    if (unusedBits !== 0) throw malformed('bit string is not whole octets')
    return bytes
  }

  boolean(): boolean {
    const content = this.read(TAG.boolean)
    if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff))
      throw malformed('boolean is not 0x00 or 0xff')
    return content[0] === 0xff
  }

  null(): void {
    if (this.read(TAG.null).length !== 0) throw malformed('null with content')
  }

  /** UTCTime or GeneralizedTime in the forms of RFC 5280 §4.1.2.5: seconds, no fractions, Z. */
  time(): Date {
    const tag = this.peekTag()
    return tag === TAG.generalizedTime ? parseTime(this.readAny().value, 4) : parseTime(this.read(TAG.utcTime), 2)
  }

  /** Refuses trailing bytes. */
  end(): void {
    if (this.remaining !== 0) throw malformed(`${this.remaining} bytes too many`)
  }
}

/** Reads `der` as one SEQUENCE with nothing behind it. */
export function readSequence(der: Uint8Array): DerReader {
  const outer = new DerReader(der)
  const inner = outer.sequence()
  outer.end()
  return inner
}

/** Identifiers seen before, by their octets: certificates repeat the same thirty. Full, it stays as it is. */
const knownOids = new Map<string, string>()
const MAX_KNOWN_OIDS = 256

/** Dotted decimals of an OBJECT IDENTIFIER's content octets; throws `malformed_der`. */
export function decodeOid(content: Uint8Array): string {
  if (content.length > 16) return computeOid(content)
  let key = ''
  for (const octet of content) key += String.fromCharCode(octet)
  const known = knownOids.get(key)
  if (known !== undefined) return known
  const dotted = computeOid(content)
  if (knownOids.size < MAX_KNOWN_OIDS) knownOids.set(key, dotted)
  return dotted
}

function computeOid(content: Uint8Array): string {
  // 128 octets hold every identifier in use; the bound keeps a hostile one from becoming a huge number.
  if (content.length === 0 || content.length > 128 || (content.at(-1) ?? 0) >= 0x80)
    throw malformed('object identifier is cut off')
  const arcs: (number | bigint)[] = []
  let arc: number | bigint = 0
  let starting = true
  for (const octet of content) {
    if (starting && octet === 0x80) throw malformed('object identifier is not minimal')
    if (typeof arc === 'number' && arc >= 2 ** 45) arc = BigInt(arc)
    arc = typeof arc === 'number' ? arc * 128 + (octet & 0x7f) : arc * 128n + BigInt(octet & 0x7f)
    starting = octet < 0x80
    if (starting) {
      arcs.push(arc)
      arc = 0
    }
  }
  const [first = 0, ...rest] = arcs
  const root = first < 40 ? 0 : first < 80 ? 1 : 2
  const second = typeof first === 'bigint' ? first - 80n : first - root * 40
  return [root, second, ...rest].join('.')
}

function malformed(message: string): X509Error {
  return new X509Error('malformed_der', message)
}

/** X.690 §11.6 compares as if the shorter one were padded with zeros; for whole elements that is plain byte order. */
function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shared = Math.min(a.length, b.length)
  for (let i = 0; i < shared; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0)
    if (difference !== 0) return difference
  }
  return a.length - b.length
}

function twosComplement(value: bigint): Uint8Array {
  let octetCount = 1
  while (BigInt.asIntN(8 * octetCount, value) !== value) octetCount++
  const octets = new Uint8Array(octetCount)
  for (let i = octetCount - 1, rest = value; i >= 0; i--, rest >>= 8n) octets[i] = Number(rest & 0xffn)
  return octets
}

/** `YYYYMMDDHHMMSSZ`. */
function timeDigits(date: Date): string {
  const iso = date.toISOString()
  return `${iso.slice(0, 4)}${iso.slice(5, 7)}${iso.slice(8, 10)}${iso.slice(11, 13)}${iso.slice(14, 16)}${iso.slice(17, 19)}Z`
}

function parseTime(content: Uint8Array, yearDigits: 2 | 4): Date {
  if (content.length !== yearDigits + 11 || content.at(-1) !== 0x5a)
    throw malformed('time is not in the form of RFC 5280')
  const number = (at: number, digits: number): number => {
    let value = 0
    for (let i = at; i < at + digits; i++) {
      const digit = (content[i] ?? 0) - 0x30
      if (digit < 0 || digit > 9) throw malformed('time has a character that is not a digit')
      value = value * 10 + digit
    }
    return value
  }
  const short = number(0, yearDigits)
  const year = yearDigits === 4 ? short : short + (short >= 50 ? 1900 : 2000)
  const [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map((at) => number(yearDigits + at, 2)) as TimeFields
  const date = new Date(0)
  date.setUTCFullYear(year, month - 1, day)
  date.setUTCHours(hour, minute, second)
  // A day that does not exist (31 February) rolls over: compare what came out.
  const exists =
    date.getUTCMonth() === month - 1 && date.getUTCDate() === day && hour < 24 && minute < 60 && second < 60
  if (!exists) throw malformed('time does not exist')
  return date
}

/** Of `map` over five places. */
type TimeFields = [month: number, day: number, hour: number, minute: number, second: number]
