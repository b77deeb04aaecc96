import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { bytesField, messageField, readMessage, refuseBoth, stringField } from './protojson.ts'

const read = (text: string) => readMessage(Buffer.from(text))

describe('reads', () => {
  test.each([
    ['lowerCamelCase', '{"publicKeyRequest":{"proofOfPossession":"aGk="}}'],
    ['snake_case', '{"public_key_request":{"proof_of_possession":"aGk="}}'],
    ['unknown fields beside it', '{"x":[{"y":1}],"publicKeyRequest":{"proofOfPossession":"aGk=","z":null}}'],
    ['white space', ' { "publicKeyRequest" : { "proofOfPossession" : "aGk=" } } '],
    ['an escaped name', '{"public\\u004beyRequest":{"proofOfPossession":"aGk="}}'],
  ])('a message in %s', (_, text) => {
    expect(Buffer.from(bytesField(messageField(read(text), 'publicKeyRequest'), 'proofOfPossession')).toString()).toBe(
      'hi',
    )
  })

  test('null as absent and an empty body as the empty message', () => {
    const message = read('{"a":null,"b":null}')
    expect(messageField(message, 'a')).toBeUndefined()
    expect(stringField(message, 'b')).toBe('')
    expect(bytesField(undefined, 'c')).toHaveLength(0)
    expect(read('').size).toBe(0)
    expect(() => {
      refuseBoth(message, 'a', 'b')
    }).not.toThrow()
  })

  test('base64 of both alphabets, padded or not, in lines', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.boolean(), fc.boolean(), (bytes, url, padded) => {
        let text = Buffer.from(bytes)
          .toString(url ? 'base64url' : 'base64')
          .replace(/=+$/, '')
        if (padded) text = text.padEnd(Math.ceil(text.length / 4) * 4, '=')
        expect(
          Uint8Array.from(bytesField(read(JSON.stringify({ b: text.replace(/(.{7})/g, '$1\r\n') })), 'b')),
        ).toEqual(bytes)
      }),
    )
  })

  test('equal names in different objects, and braces in strings', () => {
    expect(read('{"a":{"x":1},"b":[{"x":1},{"x":2}],"c":"{\\"a\\":1,\\"a\\":2}\\\\"}').size).toBe(3)
  })

  test('every JSON object without duplicates', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.stringMatching(/^[a-z"\\{}:]{0,4}$/), fc.jsonValue({ maxDepth: 0 })), (value) => {
        expect(() => read(JSON.stringify(value))).not.toThrow()
      }),
    )
  })
})

describe('refuses', () => {
  test.each([
    ['text', 'hello'],
    ['a list', '[]'],
    ['null', 'null'],
    ['a cut object', '{"a":'],
    ['a trailing comma', '{"a":1,}'],
    ['two objects', '{}{}'],
    ['a byte order mark', '\u{feff}{}'],
    ['a name twice', '{"a":1,"a":1}'],
    ['a name twice, once null', '{"a":1,"a":null}'],
    ['a name in both spellings', '{"aB":1,"a_b":1}'],
    ['a name twice, once escaped', '{"a":1,"\\u0061":1}'],
    ['a name twice, deep inside', '{"a":[{"b":{"c":1,"d":"}","c":2}}]}'],
    ['a name twice, after a string with quotes', '{"a":"\\"\\\\","a":1}'],
  ])('%s', (_, text) => {
    expect(() => read(text)).toThrow(expect.objectContaining({ code: 'invalid_request' }))
  })

  test('what is not UTF-8', () => {
    expect(() => readMessage(Uint8Array.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]))).toThrow(
      expect.objectContaining({ code: 'invalid_request' }),
    )
  })

  test.each([
    ['a'],
    ['a==='],
    ['aGk=='],
    ['aG=k'],
    ['a b='],
    ['+_aa'],
    ['aGk=\u0000'],
    ['ä'],
    [5],
    [{}],
    [true],
    [['aGk=']],
  ])('%j as bytes', (value) => {
    expect(() => bytesField(read(JSON.stringify({ b: value })), 'b')).toThrow(
      expect.objectContaining({ code: 'invalid_request' }),
    )
  })

  test.each([[5], [true], [{}], [['x']]])('%j as a string or message', (value) => {
    const message = read(JSON.stringify({ b: value }))
    expect(() => stringField(message, 'b')).toThrow(expect.objectContaining({ code: 'invalid_request' }))
    if (typeof value !== 'object' || Array.isArray(value)) {
      expect(() => messageField(message, 'b')).toThrow(expect.objectContaining({ code: 'invalid_request' }))
    }
  })

  test('both arms of a oneof', () => {
    expect(() => {
      refuseBoth(read('{"a":{},"b":""}'), 'a', 'b')
    }).toThrow(expect.objectContaining({ code: 'invalid_request' }))
  })
})
