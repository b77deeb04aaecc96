import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CanonicalJsonError, parseCanonicalJson, type CanonicalValue } from './canonical-json.ts'

/** The encoder that the parser has no part in: OLPC canonical JSON. */
function encode(value: unknown): string {
  if (typeof value === 'string') return `"${value.replaceAll(/["\\]/g, '\\$&')}"`
  if (Array.isArray(value)) return `[${value.map(encode).join(',')}]`
  if (typeof value !== 'object' || value === null) return String(value)
  const members = Object.entries(value).toSorted(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
  return `{${members.map(([name, member]) => `${encode(name)}:${encode(member)}`).join(',')}}`
}

function plain(value: CanonicalValue): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([name, member]) => [name, plain(member)]))
  return Array.isArray(value) ? value.map(plain) : value
}

const json = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 4 },
    fc.constant(null),
    fc.boolean(),
    fc.maxSafeInteger(),
    fc.string({ unit: 'grapheme' }),
    fc.array(tie('value'), { maxLength: 4 }),
    fc.dictionary(fc.string({ unit: 'grapheme' }), tie('value'), { maxKeys: 4 }).map((map) => ({ ...map })),
  ),
})).value

describe('canonical JSON', () => {
  test('is read as what it was written from', () => {
    fc.assert(
      fc.property(json, (value) => {
        // -0 is written 0, which is the one value that two numbers share.
        expect(plain(parseCanonicalJson(Buffer.from(encode(value))))).toEqual(value)
      }),
    )
  })

  test('has newlines of PEM as they stand', () => {
    expect(parseCanonicalJson(Buffer.from('"-----BEGIN\nA"'))).toBe('-----BEGIN\nA')
  })

  test.each([
    '',
    ' {}',
    '{} ',
    '{"a": 1}',
    '{"b":1,"a":1}',
    '{"a":1,"a":1}',
    '{"a":1,}',
    '[1,]',
    '1.0',
    '1e3',
    '01',
    '-0',
    '+1',
    '9007199254740993',
    String.raw`"\n"`,
    String.raw`"\u0041"`,
    String.raw`"\/"`,
    '"open',
    'tru',
    'NaN',
    '{a:1}',
    '['.repeat(100),
  ])('refuses %s', (text) => {
    expect(() => parseCanonicalJson(Buffer.from(text))).toThrow(CanonicalJsonError)
  })

  test('refuses bytes that are not UTF-8', () => {
    expect(() => parseCanonicalJson(Uint8Array.of(0x22, 0xff, 0x22))).toThrow(CanonicalJsonError)
  })
})
