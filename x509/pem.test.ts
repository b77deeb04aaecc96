import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { X509Error } from './errors.ts'
import { decodePem, encodePem } from './pem.ts'

const ONE = '-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n'

describe('pem', () => {
  test('writes lines of 64 characters as Node does', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 400 }), (der) => {
        const lines =
          Buffer.from(der)
            .toString('base64')
            .match(/.{1,64}/g) ?? []
        const text = encodePem('PUBLIC KEY', der)
        expect(text).toBe(['-----BEGIN PUBLIC KEY-----', ...lines, '-----END PUBLIC KEY-----', ''].join('\n'))
        expect(decodePem(text)).toEqual([{ label: 'PUBLIC KEY', der }])
      }),
    )
  })

  test('reads several blocks, CRLF and blank lines between', () => {
    const blocks = decodePem(`\n${ONE}\n${ONE.replaceAll('\n', '\r\n')}`)
    expect(blocks.map((block) => [...block.der])).toEqual([
      [1, 2, 3],
      [1, 2, 3],
    ])
  })

  test.each([
    ['nothing', ''],
    ['text before', `subject=/CN=x\n${ONE}`],
    ['text behind', `${ONE}more`],
    ['no end', ONE.slice(0, 40)],
    ['another end', ONE.replace('END CERTIFICATE', 'END PUBLIC KEY')],
    ['a header', ONE.replace('AQID', 'Proc-Type: 4,ENCRYPTED\nAQID')],
    ['missing padding', ONE.replace('AQID', 'AQI')],
    ['stray bits', ONE.replace('AQID', 'AQJ=')],
    ['url-safe letters', ONE.replace('AQID', 'A_-D')],
    ['a space inside', ONE.replace('AQID', 'AQ ID')],
    ['no content', ONE.replace('AQID\n', '')],
    ['an unwanted label', ONE.replaceAll('CERTIFICATE', 'PRIVATE KEY')],
    ['one too many', ONE + ONE + ONE],
  ])('refuses %s', (_, text) => {
    expect(() => decodePem(text, { labels: ['CERTIFICATE'], max: 2 })).toThrow(X509Error)
  })
})
