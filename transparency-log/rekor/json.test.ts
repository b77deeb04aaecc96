import { describe, expect, test } from 'vitest'
import fc from 'fast-check'
import { decodeEither, decodeProtoBytes, decodeStandard } from './base64.ts'
import { EntryError } from './errors.ts'
import { parseJson } from './json.ts'
import { MAX_JSON_DEPTH } from './limits.ts'

const utf8 = (text: string): Uint8Array => Buffer.from(text)

describe('parseJson', () => {
  test('reads what JSON.parse reads', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 5 }), (value) => {
        const text = JSON.stringify(value)
        expect(parseJson(utf8(text), { uniqueKeys: true })).toEqual(JSON.parse(text))
      }),
    )
  })

  const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth)

  test('brackets in strings are no nesting, and a repeated key in another object is no repetition', () => {
    expect(parseJson(utf8(nested(MAX_JSON_DEPTH)))).toBeDefined()
    expect(parseJson(utf8(`"${'['.repeat(1000)}"`))).toHaveLength(1000)
    expect(parseJson(utf8('"\\"[[\\\\"'))).toBe('"[[\\')
    const text = '{"a":{"a":1},"b":[{"a":1},{"a":"a"}],"c":"{\\"a\\":1,\\"a\\":2}"}'
    expect(parseJson(utf8(text), { uniqueKeys: true })).toEqual(JSON.parse(text))
  })

  test.each([
    ['deep arrays', nested(MAX_JSON_DEPTH + 1)],
    ['a million brackets', '['.repeat(1_000_000)],
    ['deep objects', '{"a":'.repeat(MAX_JSON_DEPTH + 1)],
    ['a doubled key', '{"a":1,"a":2}', true],
    ['a doubled key inside', '{"b":[{"a":1,"c":{},"a":2}]}', true],
    ['a doubled key by escape', '{"a":1,"\\u0061":2}', true],
    ['a doubled key with spaces', '{"a" : 1, "a"\n:2}', true],
    ['nothing', ''],
    ['a comment', '{}//'],
    ['two values', '{}{}'],
    ['a byte order mark', '\ufeff{}'],
  ])('refuses %s', (_, text, uniqueKeys = false) => {
    expect(() => parseJson(utf8(text), { uniqueKeys })).toThrow(EntryError)
  })

  test('refuses what is not UTF-8', () => {
    expect(() => parseJson(Uint8Array.of(0x22, 0xff, 0x22))).toThrow('body is not UTF-8')
  })

  test('takes the last of two equal keys where encoding/json does', () => {
    expect(parseJson(utf8('{"a":1,"a":2}'))).toEqual({ a: 2 })
  })
})

describe('base64', () => {
  test.each([
    ['', ''],
    ['AAECAw==', '00010203'],
    ['AA\nEC\r\nAw==', '00010203'],
    ['+/+/', 'fbffbf'],
  ])('standard %j', (text, hex) => {
    expect(Buffer.from(decodeStandard(text, 'it')).toString('hex')).toBe(hex)
  })

  test.each(['A', 'AA', 'AAA', 'AAECAw', '-_-_', 'AA=A', 'A===', 'AA EC', '????', 'AAECAw==='])(
    'standard refuses %j',
    (text) => {
      expect(() => decodeStandard(text, 'it')).toThrow('failed parsing base64 data for it')
    },
  )

  test.each([
    ['-_-_', true],
    ['+/+/', true],
    ['+_+/', false],
    ['AA\nE=', false],
    ['AAE', false],
  ])('either alphabet %j: %s', (text, accepted) => {
    const decode = () => decodeEither(text, 'it')
    if (accepted) expect(decode()).toHaveLength(3)
    else expect(decode).toThrow('failed parsing')
  })

  test.each([
    ['AAECAw==', '00010203'],
    ['AAECAw', '00010203'],
    ['-_-_', 'fbffbf'],
    ['AA', '00'],
  ])('protojson %j', (text, hex) => {
    expect(Buffer.from(decodeProtoBytes(text) ?? []).toString('hex')).toBe(hex)
  })

  test.each(['A', 'AAECA', 'AA=', '-/-/', 'AA E', '==', 'AAAA='])('protojson refuses %j', (text) => {
    expect(decodeProtoBytes(text)).toBeUndefined()
  })
})
