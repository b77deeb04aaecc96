import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatKeyUri, parseKeyUri, parseTokenUri, Pkcs11UriError } from './pkcs11-uri.ts'

describe('PKCS#11 URIs', () => {
  test('name a token by all that is given', () => {
    expect(parseTokenUri('pkcs11:token=my%20token;serial=12')).toEqual({ token: 'my token', serial: '12' })
    expect(parseTokenUri('pkcs11:token=a+b')).toEqual({ token: 'a+b' })
  })

  test('of keys come back as they were written', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 32 }), fc.string({ minLength: 1 }), (id, token) => {
        const uri = formatKeyUri({ token, id, object: 'label' })
        expect(parseKeyUri(uri)).toEqual({ token, id, object: 'label' })
      }),
    )
  })

  test.each([
    'token=a',
    'pkcs11:',
    'pkcs11:token',
    'pkcs11:token=a;token=a',
    'pkcs11:slot-id=0',
    'pkcs11:token=a?pin-value=1234',
    'pkcs11:token=a?module-path=/x',
    'pkcs11:token=a b',
    'pkcs11:token=%zz',
    'pkcs11:token=%ff',
    'pkcs11:id=%01',
  ])('refuses %s as a token', (uri) => {
    expect(() => parseTokenUri(uri)).toThrow(Pkcs11UriError)
  })

  test.each(['pkcs11:object=a', 'pkcs11:id=', 'pkcs11:id=%01;type=public', `pkcs11:id=${'a'.repeat(256)}`])(
    'refuses %s as a key',
    (uri) => {
      expect(() => parseKeyUri(uri)).toThrow(Pkcs11UriError)
    },
  )

  test('never repeats a PIN in an error', () => {
    expect(() => parseTokenUri('pkcs11:token=a?pin-value=hunter2')).toThrow(/^(?!.*hunter2)/)
  })
})
