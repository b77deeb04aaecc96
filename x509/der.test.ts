import fc from 'fast-check'
import * as asn1js from 'asn1js'
import { describe, expect, test } from 'vitest'
import * as der from './der.ts'
import { X509Error } from './errors.ts'

const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'hex'))
const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

function refusal(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof X509Error) return error.code
    throw error
  }
  return 'accepted'
}

/** Reads every element, however deep, the way a structure of unknown shape is read. */
function readAll(bytes: Uint8Array): unknown[] {
  const walk = (reader: der.DerReader): unknown[] => {
    const found: unknown[] = []
    while (reader.remaining > 0) {
      const tag = reader.peekTag() ?? 0
      if (tag === 0x31) found.push([tag, walk(reader.set())])
      else if ((tag & 0x20) !== 0) found.push([tag, walk(reader.enter(tag))])
      else if (tag === der.TAG.integer) found.push(reader.integer())
      else if (tag === der.TAG.boolean) found.push(reader.boolean())
      else if (tag === der.TAG.objectIdentifier) found.push(reader.oid())
      else if (tag === der.TAG.bitString) found.push(reader.bitString())
      else found.push([tag, toHex(reader.readAny().value)])
    }
    return found
  }
  return walk(new der.DerReader(bytes))
}

describe('writer', () => {
  test.each([
    ['integer 0', der.integer(0), '020100'],
    ['integer 127', der.integer(127), '02017f'],
    ['integer 128', der.integer(128), '02020080'],
    ['integer -1', der.integer(-1), '0201ff'],
    ['integer -129', der.integer(-129), '0202ff7f'],
    ['integer 256', der.integer(256n), '02020100'],
    ['unsigned bytes with the top bit', der.integer(hex('ff')), '020200ff'],
    ['unsigned bytes with leading zeros', der.integer(hex('0000017f')), '0202017f'],
    ['unsigned bytes of nothing', der.integer(new Uint8Array(0)), '020100'],
    ['object identifier', der.objectIdentifier('1.3.6.1.4.1.57264.1.8'), '060a2b0601040183bf300108'],
    ['object identifier 2.999', der.objectIdentifier('2.999'), '06028837'],
    ['boolean', der.boolean(true), '0101ff'],
    ['null', der.nullValue(), '0500'],
    ['bit string with unused bits', der.bitString(hex('80'), 7), '03020780'],
    ['sorted set', der.setOf(der.integer(2), der.integer(1), der.nullValue()), '31080201010201020500'],
    ['utf-8', der.utf8String('é'), '0c02c3a9'],
    ['utc time', der.time(new Date('2049-12-31T23:59:59.999Z')), '170d3439313233313233353935395a'],
    ['generalized time', der.time(new Date('2050-01-01T00:00:00Z')), '180f32303530303130313030303030305a'],
    ['context', der.contextConstructed(3, der.contextPrimitive(6, hex('61'))), 'a303860161'],
  ])('encodes %s', (_, found, expected) => {
    expect(toHex(found)).toBe(expected)
  })

  test.each([127, 128, 255, 256, 65_535, 65_536, 20_000_000])('writes a minimal length for %i bytes', (length) => {
    const content = new Uint8Array(length).fill(0x61)
    const element = der.octetString(content)
    const reader = new der.DerReader(element)
    expect(reader.octetString().length).toBe(length)
    reader.end()
  })

  test.each([
    ['identifier with one arc', () => der.objectIdentifier('1')],
    ['identifier with second arc 40', () => der.objectIdentifier('1.40.1')],
    ['identifier with a leading zero', () => der.objectIdentifier('1.2.03')],
    ['identifier with text', () => der.objectIdentifier('1.2.x')],
    ['printable string with @', () => der.printableString('a@b')],
    ['ia5 string with é', () => der.ia5String('é')],
    ['lone surrogate', () => der.utf8String('\ud800')],
    ['utc time in 2050', () => der.utcTime(new Date('2050-01-01T00:00:00Z'))],
  ])('refuses %s', (_, write) => {
    expect(refusal(write)).toBe('malformed_der')
  })
})

describe('reader', () => {
  test.each([
    ['identifier alone', '30'],
    ['indefinite length', '30800000'],
    ['length of 0x81 below 128', '04817f' + '00'.repeat(127)],
    ['length with a leading zero', '0482008000'],
    ['length over 4 octets', '0485000000000100'],
    ['length cut off', '0482'],
    ['content cut off', '0403aabb'],
    ['high tag number', '1f0100'],
    ['end of contents', '0000'],
    ['empty integer', '0200'],
    ['integer with a needless zero', '0202007f'],
    ['integer with a needless ff', '0202ffff'],
    ['boolean 0x01', '010101'],
    ['boolean of two octets', '0102ffff'],
    ['bit string without count', '0300'],
    ['bit string with 8 unused bits', '03020800'],
    ['bit string with bits set behind its end', '03020781'],
    ['empty bit string with unused bits', '030101'],
    ['identifier without octets', '0600'],
    ['identifier cut off', '06022b81'],
    ['identifier with a padded arc', '06032b8001'],
    ['unsorted set', '3106020102020101'],
    // What lies behind the parent would do as the rest of the element, and what is left would be well-formed.
    ['element that reaches beyond its parent', '30030405aa05000500'],
  ])('refuses %s', (_, bytes) => {
    expect(refusal(() => readAll(hex(bytes)))).toBe('malformed_der')
  })

  test.each([
    ['nothing', () => new der.DerReader(new Uint8Array(0)).raw()],
    ['other tag', () => new der.DerReader(der.integer(1)).octetString()],
    ['trailing bytes', () => new der.DerReader(der.integer(1)).end()],
    ['null with content', () => new der.DerReader(hex('050100')).null()],
    ['negative as count', () => new der.DerReader(der.integer(-1)).smallInteger()],
    ['2^53 as count', () => new der.DerReader(der.integer(2n ** 53n)).smallInteger()],
    ['bits as octets', () => new der.DerReader(der.bitString(hex('80'), 7)).bitOctets()],
    ['31 February', () => new der.DerReader(der.tlv(0x17, der.utf8Bytes('240231000000Z'))).time()],
    ['hour 24', () => new der.DerReader(der.tlv(0x17, der.utf8Bytes('240201240000Z'))).time()],
    ['time without seconds', () => new der.DerReader(der.tlv(0x17, der.utf8Bytes('2402010000Z'))).time()],
    ['time with fractions', () => new der.DerReader(der.tlv(0x18, der.utf8Bytes('20240201000000.5Z'))).time()],
    ['time with an offset', () => new der.DerReader(der.tlv(0x17, der.utf8Bytes('240201000000+0100'))).time()],
    ['time with a sign', () => new der.DerReader(der.tlv(0x17, der.utf8Bytes('2402010000-1Z'))).time()],
  ])('refuses %s', (_, read) => {
    expect(refusal(read)).toBe('malformed_der')
  })

  test('bounds the depth', () => {
    const nested = (depth: number): Uint8Array => (depth === 0 ? der.nullValue() : der.sequence(nested(depth - 1)))
    expect(refusal(() => readAll(nested(31)))).toBe('accepted')
    expect(refusal(() => readAll(nested(33)))).toBe('malformed_der')
  })

  test('reads back every integer, identifier and time', () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: -(2n ** 300n), max: 2n ** 300n }),
        (value) => new der.DerReader(der.integer(value)).integer() === value,
      ),
    )
    const arcs = fc.tuple(fc.nat(2), fc.nat(39), fc.array(fc.bigInt({ min: 0n, max: 2n ** 100n }), { maxLength: 6 }))
    fc.assert(
      fc.property(arcs, ([first, second, rest]) => {
        const dotted = [first, second, ...rest].join('.')
        expect(new der.DerReader(der.objectIdentifier(dotted)).oid()).toBe(dotted)
      }),
    )
    const seconds = fc.integer({ min: Date.UTC(1950, 0, 1) / 1000, max: Date.UTC(9999, 11, 31) / 1000 })
    fc.assert(
      fc.property(seconds, (at) => new der.DerReader(der.time(new Date(at * 1000))).time().getTime() === at * 1000),
    )
  })

  test('whatever it accepts has that one encoding, and asn1js agrees', () => {
    const leaf = fc.oneof(
      fc.bigInt().map((value) => der.integer(value)),
      fc.uint8Array({ maxLength: 300 }).map((bytes) => der.octetString(bytes)),
      fc.boolean().map((value) => der.boolean(value)),
      fc.string().map((text) => der.utf8String(text.toWellFormed())),
    )
    const tree = fc.letrec<{ node: Uint8Array }>((tie) => ({
      node: fc.oneof(
        { maxDepth: 4 },
        leaf,
        fc.array(tie('node'), { maxLength: 4 }).map((parts) => der.sequence(...parts)),
      ),
    })).node
    fc.assert(
      fc.property(tree, fc.nat(), fc.integer({ min: 1, max: 255 }), (bytes, at, change) => {
        const original = JSON.stringify(readAll(bytes), (_, value: unknown) =>
          typeof value === 'bigint' ? `${value}n` : value,
        )
        expect(toHex(new Uint8Array(asn1js.fromBER(Buffer.from(bytes)).result.toBER()))).toBe(toHex(bytes))
        const mutated = bytes.map((octet, index) => (index === at % bytes.length ? octet ^ change : octet))
        let read: unknown[]
        try {
          read = readAll(mutated)
        } catch (error) {
          expect(error).toBeInstanceOf(X509Error)
          return
        }
        // Accepted, so it must mean something else: two encodings of one value would be malleable.
        expect(JSON.stringify(read, (_, value: unknown) => (typeof value === 'bigint' ? `${value}n` : value))).not.toBe(
          original,
        )
      }),
    )
  })
})
