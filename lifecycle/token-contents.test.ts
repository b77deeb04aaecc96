import { describe, expect, test } from 'vitest'
import type { TokenObject } from '#hsm'
import { judgeAttributes, judgeObjects, type Verdict } from './token-contents.ts'

const object = (changes: Partial<TokenObject>): TokenObject => ({
  class: 'private key',
  keyType: 'EC',
  label: 'a',
  idHex: 'aa',
  spkiDer: new Uint8Array(0),
  attributes: {},
  ...changes,
})
const half = (of: TokenObject['class'], idHex: string, label = 'a') => object({ class: of, idHex, label })
const record = { name: 'ct', token: 'online', idHex: 'c7' }

describe('what an object is', () => {
  test.each<[string, TokenObject[], Verdict[]]>([
    ['a configured pair', [half('private key', 'c7'), half('public key', 'c7')], ['configured', 'configured']],
    ['a pair that nobody configured', [half('private key', 'aa'), half('public key', 'aa')], ['spare', 'spare']],
    ['a private half', [half('private key', 'aa')], ['half pair']],
    ['a public half', [half('public key', 'aa')], ['half pair']],
    ['a public half of another id', [half('private key', 'aa'), half('public key', 'ab')], ['half pair', 'half pair']],
    ['a label without an id', [half('public key', '')], ['half pair']],
    ['neither id nor label', [half('private key', '', '')], ['nameless']],
    [
      'two private keys of one id, configured too',
      [half('private key', 'c7'), half('private key', 'c7'), half('public key', 'c7')],
      ['duplicate', 'duplicate', 'configured'],
    ],
    ['a secret key', [object({ class: 'secret key', keyType: 'AES' })], ['unknown secret key']],
    [
      'a secret key that only has the name of ours',
      [object({ class: 'secret key', label: 'chancery-kek', attributes: { TRUSTED: 'no' } })],
      ['unknown secret key'],
    ],
    [
      'one whose trust is not told',
      [object({ class: 'secret key', label: 'chancery-kek', attributes: { TRUSTED: 'unknown' } })],
      ['unknown secret key'],
    ],
    [
      'the key-encryption key',
      [object({ class: 'secret key', label: 'chancery-kek', attributes: { TRUSTED: 'yes' } })],
      ['key-encryption key'],
    ],
    ['a key on its way', [half('private key', 'aa', 'chancery-kek-transport')], ['transport key']],
    ['a certificate', [half('certificate', 'c7')], ['foreign']],
    ['data', [half('data', '')], ['foreign']],
    ['what nobody knows', [half('other', '')], ['foreign']],
  ])('%s', (_what, objects, verdicts) => {
    expect(judgeObjects('online', objects, [record]).map(({ verdict }) => verdict)).toEqual(verdicts)
  })

  test('a configured key on another token is none here', () => {
    expect(judgeObjects('recovery', [half('private key', 'c7')], [record])).toMatchObject([
      { key: undefined, verdict: 'half pair' },
    ])
  })
})

describe('attributes', () => {
  const good = {
    PRIVATE: 'yes',
    SENSITIVE: 'yes',
    SIGN: 'yes',
    EXTRACTABLE: 'no',
    NEVER_EXTRACTABLE: 'yes',
    ALWAYS_SENSITIVE: 'yes',
    LOCAL: 'yes',
    DECRYPT: 'no',
    UNWRAP: 'no',
    DERIVE: 'no',
    SIGN_RECOVER: 'no',
  } as const
  const verdicts = (changes: object) =>
    judgeAttributes(object({ attributes: { ...good, ...changes } }))
      .findings.filter(({ verdict }) => verdict !== 'as wanted')
      .map(({ name, verdict }) => `${name} ${verdict}`)

  test.each([
    [{}, []],
    [{ SENSITIVE: 'no' }, ['SENSITIVE VIOLATED']],
    [{ SIGN: 'no' }, ['SIGN VIOLATED']],
    [{ PRIVATE: 'no' }, ['PRIVATE VIOLATED']],
    [{ SENSITIVE: 'unknown' }, ['SENSITIVE unproven']],
    [{ LOCAL: 'no' }, ['LOCAL unproven']],
    [{ DECRYPT: 'yes', DERIVE: 'unknown' }, ['DECRYPT unproven', 'DERIVE unproven']],
    // Extractable: for backup, if a trusted key alone may wrap it.
    [{ EXTRACTABLE: 'yes', WRAP_WITH_TRUSTED: 'yes', NEVER_EXTRACTABLE: 'no' }, []],
    [{ EXTRACTABLE: 'yes', WRAP_WITH_TRUSTED: 'no' }, ['WRAP_WITH_TRUSTED VIOLATED']],
    [{ EXTRACTABLE: 'yes' }, ['WRAP_WITH_TRUSTED unproven']],
  ])('%j', (changes, expected) => {
    expect(verdicts(changes)).toEqual(expected)
  })
})
