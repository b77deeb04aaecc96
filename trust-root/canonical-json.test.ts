import { createRequire } from 'node:module'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type CanonicalValue, canonicalJson } from './canonical-json.ts'

const text = (value: CanonicalValue) => new TextDecoder().decode(canonicalJson(value))

describe('canonical JSON', () => {
  test.each([
    ['sorts keys', { b: 1, a: 2 }, '{"a":2,"b":1}'],
    ['escapes only quote and backslash', 'a"b\\c', '"a\\"b\\\\c"'],
    ['leaves line feeds as they are', 'a\nb', '"a\nb"'],
    ['leaves non-ASCII as it is', 'ü', '"ü"'],
    ['has no spaces', [1, [true, null], {}], '[1,[true,null],{}]'],
    ['has no negative zero', -0, '0'],
    ['sorts by code point beyond U+FFFF', { '\u{1F600}': 1, '\uFFFD': 2 }, '{"\uFFFD":2,"\u{1F600}":1}'],
  ] as const)('%s', (_, value, expected) => expect(text(value)).toBe(expected))

  test.each([
    ['a fraction', 1.5],
    ['not a number', Number.NaN],
    ['an unsafe integer', 2 ** 53],
    ['a lone surrogate', '\uD800'],
    ['a fraction deep inside', { a: [{ b: 0.1 }] }],
  ])('refuses %s', (_, value) =>
    expect(() => canonicalJson(value)).toThrow(expect.objectContaining({ code: 'not_canonical' })),
  )

  test('agrees with the canonical form that tuf-js signs', () => {
    const models = createRequire(import.meta.resolve('@tufjs/models'))
    const { canonicalize } = models('@tufjs/canonical-json') as { canonicalize: (value: unknown) => string }
    const ascii = fc.string({ unit: 'grapheme-ascii' })
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof(
        { depthSize: 'small' },
        fc.integer(),
        fc.boolean(),
        fc.constant(null),
        fc.string(),
        fc.array(tie('value')),
        fc.dictionary(ascii, tie('value')),
      ),
    }))
    fc.assert(fc.property(value, (sample) => text(sample as CanonicalValue) === canonicalize(sample)))
  })
})
