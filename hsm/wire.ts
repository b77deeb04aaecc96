/**
 * The agent's protocol on the wire: frames of a 32-bit big-endian length and one value, which is written in a subset of
 * CBOR (RFC 8949 §4.2: definite lengths, shortest heads, no tags, no floats). Requests and answers may come in any order
 * and carry an id. Both ends read bounded input: a frame over `MAX_FRAME_BYTES` ends the connection.
 */

import type { Writable } from 'node:stream'

/** What can be sent. Numbers are safe integers; map keys are text, each once. */
export type WireValue =
  | null
  | boolean
  | number
  | string
  | Uint8Array
  | readonly WireValue[]
  | { readonly [key: string]: WireValue }

/** Nothing that a purpose signs comes near: a TUF targets file of thousands of targets is a few hundred KiB. */
export const MAX_FRAME_BYTES = 1024 * 1024

/** Arguments nest three deep at most; the bound keeps a hostile frame from the stack. */
const MAX_DEPTH = 8

/** The bytes are no frame of this protocol; whoever sent them is not one of ours. */
export class WireError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'WireError'
  }
}

const MAJOR = { unsigned: 0, negative: 1, bytes: 2, text: 3, array: 4, map: 5, simple: 7 } as const
const FALSE = 0xf4
const TRUE = 0xf5
const NULL = 0xf6

/** One frame with its length; throws `WireError` for a value that cannot be sent or is too long. */
export function encodeFrame(value: WireValue): Uint8Array {
  const writer = new Writer()
  writer.value(value, 0)
  return writer.frame()
}

/** The value of a frame's content; throws `WireError`. Byte strings are copies, so that a frame can be let go of. */
export function decodeFrame(content: Uint8Array): WireValue {
  const reader = new Reader(content)
  const value = reader.value(0)
  reader.end()
  return value
}

/** Cuts a byte stream into the contents of frames. */
export class FrameSplitter {
  /** Joined once a frame is whole: a peer that sends byte by byte must not have us copy a megabyte for each. */
  #pending: Buffer[] = []
  #pendingBytes = 0
  /** What `#pending` needs to hold before there is something to read in it. */
  #wantedBytes = 4

  /** True if a frame has begun and not ended. */
  get inFrame(): boolean {
    return this.#pendingBytes > 0
  }

  /** Whole frames that this chunk completes; throws `WireError` for one that is too long, before it is collected. */
  push(chunk: Uint8Array): Uint8Array[] {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length)
    const frames: Uint8Array[] = []
    this.#pending.push(bytes)
    this.#pendingBytes += bytes.length
    if (this.#pendingBytes < this.#wantedBytes) return frames
    let rest = this.#pending.length === 1 ? bytes : Buffer.concat(this.#pending)
    this.#wantedBytes = 4
    while (rest.length >= 4) {
      const length = rest.readUInt32BE(0)
      if (length > MAX_FRAME_BYTES) throw new WireError(`frame of ${length} bytes is too long`)
      if (rest.length < 4 + length) {
        this.#wantedBytes = 4 + length
        break
      }
      frames.push(rest.subarray(4, 4 + length))
      rest = rest.subarray(4 + length)
    }
    this.#pending = rest.length === 0 ? [] : [rest]
    this.#pendingBytes = rest.length
    return frames
  }
}

/**
 * Writes a frame with those that follow in the same turn of the event loop: one system call, and one batch at the other
 * end, where frames that arrive together share an fsync.
 */
export function writeTogether(stream: Writable, frame: Uint8Array): void {
  if (stream.writableCorked === 0) {
    stream.cork()
    setImmediate(() => stream.uncork())
  }
  stream.write(frame)
}

class Writer {
  #bytes = Buffer.allocUnsafe(1024)
  /** The frame's length is written last, in front. */
  #length = 4

  value(value: WireValue, depth: number): void {
    if (depth > MAX_DEPTH) throw new WireError('value is nested too deeply')
    if (value === null) this.#byte(NULL)
    else if (typeof value === 'boolean') this.#byte(value ? TRUE : FALSE)
    else if (typeof value === 'number') this.#number(value)
    else if (typeof value === 'string') this.#text(value)
    else if (value instanceof Uint8Array) this.#string(MAJOR.bytes, value)
    else if (isArray(value)) {
      this.#head(MAJOR.array, value.length)
      for (const item of value) this.value(item, depth + 1)
    } else {
      const entries = Object.entries(value)
      this.#head(MAJOR.map, entries.length)
      for (const [key, item] of entries) {
        this.#text(key)
        this.value(item, depth + 1)
      }
    }
  }

  frame(): Uint8Array {
    const length = this.#length - 4
    if (length > MAX_FRAME_BYTES) throw new WireError(`frame of ${length} bytes is too long`)
    this.#bytes.writeUInt32BE(length, 0)
    return this.#bytes.subarray(0, this.#length)
  }

  #number(value: number): void {
    if (!Number.isSafeInteger(value)) throw new WireError(`${value} is not a safe integer`)
    if (value >= 0) this.#head(MAJOR.unsigned, value)
    else this.#head(MAJOR.negative, -1 - value)
  }

  #text(text: string): void {
    // A lone surrogate would silently become another text.
    if (!text.isWellFormed()) throw new WireError('text is not well-formed')
    this.#string(MAJOR.text, Buffer.from(text, 'utf8'))
  }

  #string(major: number, bytes: Uint8Array): void {
    this.#head(major, bytes.length)
    this.#reserve(bytes.length)
    this.#bytes.set(bytes, this.#length)
    this.#length += bytes.length
  }

  #head(major: number, argument: number): void {
    this.#reserve(9)
    const first = major << 5
    if (argument < 24) this.#length = this.#bytes.writeUInt8(first | argument, this.#length)
    else if (argument < 0x100) {
      this.#length = this.#bytes.writeUInt8(first | 24, this.#length)
      this.#length = this.#bytes.writeUInt8(argument, this.#length)
    } else if (argument < 0x10000) {
      this.#length = this.#bytes.writeUInt8(first | 25, this.#length)
      this.#length = this.#bytes.writeUInt16BE(argument, this.#length)
    } else if (argument < 0x1_0000_0000) {
      this.#length = this.#bytes.writeUInt8(first | 26, this.#length)
      this.#length = this.#bytes.writeUInt32BE(argument, this.#length)
    } else {
      this.#length = this.#bytes.writeUInt8(first | 27, this.#length)
      this.#length = this.#bytes.writeBigUInt64BE(BigInt(argument), this.#length)
    }
  }

  #byte(byte: number): void {
    this.#reserve(1)
    this.#length = this.#bytes.writeUInt8(byte, this.#length)
  }

  #reserve(count: number): void {
    if (this.#length + count <= this.#bytes.length) return
    const larger = Buffer.allocUnsafe(Math.max(2 * this.#bytes.length, this.#length + count))
    this.#bytes.copy(larger, 0, 0, this.#length)
    this.#bytes = larger
  }
}

class Reader {
  readonly #bytes: Buffer
  #at = 0

  constructor(content: Uint8Array) {
    this.#bytes = Buffer.from(content.buffer, content.byteOffset, content.length)
  }

  value(depth: number): WireValue {
    if (depth > MAX_DEPTH) throw new WireError('value is nested too deeply')
    const first = this.#take(1)[0] ?? 0
    const major = first >> 5
    if (major === MAJOR.simple) {
      if (first === FALSE) return false
      if (first === TRUE) return true
      if (first === NULL) return null
      throw new WireError(`0x${first.toString(16)} is not a value of this protocol`)
    }
    const argument = this.#argument(first & 0x1f)
    switch (major) {
      case MAJOR.unsigned:
        return argument
      case MAJOR.negative:
        // -2^53 is one below the smallest safe integer.
        if (argument === Number.MAX_SAFE_INTEGER) throw new WireError('number is not a safe integer')
        return -1 - argument
      case MAJOR.bytes:
        return new Uint8Array(this.#take(argument))
      case MAJOR.text:
        return this.#text(argument)
      case MAJOR.array:
        return this.#array(argument, depth)
      case MAJOR.map:
        return this.#map(argument, depth)
      default:
        throw new WireError('tags are not part of this protocol')
    }
  }

  end(): void {
    if (this.#at !== this.#bytes.length) throw new WireError('frame has bytes after its value')
  }

  #array(count: number, depth: number): WireValue[] {
    // Every item takes a byte at least: a count beyond what is left is not worth an allocation.
    if (count > this.#bytes.length - this.#at) throw new WireError('frame is cut off')
    const items: WireValue[] = []
    for (let i = 0; i < count; i++) items.push(this.value(depth + 1))
    return items
  }

  #map(count: number, depth: number): { [key: string]: WireValue } {
    if (count > this.#bytes.length - this.#at) throw new WireError('frame is cut off')
    const entries = new Map<string, WireValue>()
    for (let i = 0; i < count; i++) {
      const key = this.value(depth + 1)
      if (typeof key !== 'string' || entries.has(key)) throw new WireError('map key is no text or occurs twice')
      entries.set(key, this.value(depth + 1))
    }
    return Object.fromEntries(entries)
  }

  #argument(low: number): number {
    if (low < 24) return low
    if (low > 27) throw new WireError('indefinite lengths are not part of this protocol')
    const length = 1 << (low - 24)
    const octets = this.#take(length)
    if (length === 8) {
      const wide = octets.readBigUInt64BE(0)
      if (wide > BigInt(Number.MAX_SAFE_INTEGER)) throw new WireError('number is not a safe integer')
      if (wide < 0x1_0000_0000n) throw new WireError('number is not written in its shortest form')
      return Number(wide)
    }
    const value = octets.readUIntBE(0, length)
    const least = length === 1 ? 24 : length === 2 ? 0x100 : 0x10000
    if (value < least) throw new WireError('number is not written in its shortest form')
    return value
  }

  #text(length: number): string {
    try {
      return utf8.decode(this.#take(length))
    } catch (error) {
      if (error instanceof WireError) throw error
      throw new WireError('text is not UTF-8')
    }
  }

  #take(length: number): Buffer {
    if (this.#bytes.length - this.#at < length) throw new WireError('frame is cut off')
    this.#at += length
    return this.#bytes.subarray(this.#at - length, this.#at)
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** `Array.isArray` does not narrow readonly arrays out of a union. */
function isArray(value: readonly WireValue[] | { readonly [key: string]: WireValue }): value is readonly WireValue[] {
  return Array.isArray(value)
}
