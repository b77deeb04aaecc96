import { describe, expect, test } from 'vitest'
import { type CeremonyStatement, formatStatement, parseStatement } from './ceremony-statement.ts'

const common = { ceremony: 'root-2026', planSha256: 'ab'.repeat(32), name: 'alice', atMs: 1_790_000_000_000 } as const
const approval: CeremonyStatement = { ...common, act: 'approve' }
const witness: CeremonyStatement = { ...common, act: 'witness', lines: 12, head: 'cd'.repeat(32) }

describe('statements of a ceremony', () => {
  test('are a few lines that a person reads before signing', () => {
    expect(formatStatement(witness)).toBe(
      `chancery ceremony statement v1\nact: witness\nceremony: root-2026\nplan: sha256:${'ab'.repeat(32)}\n` +
        `transcript: 12 lines, sha256:${'cd'.repeat(32)}\nname: alice\nat: 2026-09-21T14:13:20Z\n`,
    )
  })

  test.each([approval, witness])('are read as they were written: $act', (statement) => {
    expect(parseStatement(formatStatement(statement))).toEqual(statement)
  })

  const text = formatStatement(approval)
  test.each([
    ['another title', text.replace('v1', 'v2')],
    ['an act that is none', text.replace('approve', 'agree')],
    ['another digest', text.replace('sha256:ab', 'sha256:AB')],
    ['a digest that is short', text.replace('sha256:ab', 'sha256:')],
    ['a name of two words', text.replace('alice', 'alice smith')],
    ['a name of two lines', text.replace('alice', 'alice\nbob')],
    ['a time with a zone', text.replace('Z\n', '+00:00\n')],
    ['a time with a fraction', text.replace('Z\n', '.500Z\n')],
    ['a day that is none', text.replace('09-21', '02-30')],
    ['no line at the end', text.trimEnd()],
    ['a line too many', `${text}\n`],
    ['lines ended as on Windows', text.replaceAll('\n', '\r\n')],
    ['a transcript in an approval', text.replace('name:', `transcript: 1 lines, sha256:${'cd'.repeat(32)}\nname:`)],
    ['a witness of no transcript', text.replace('approve', 'witness')],
    ['a witness of no line', formatStatement(witness).replace('12 lines', '0 lines')],
    ['a number in another form', formatStatement(witness).replace('12 lines', '012 lines')],
  ])('are refused with %s', (_what, other) => {
    expect(parseStatement(other)).toBeUndefined()
  })

  test.each([
    ['a name with a line break', { ...approval, name: 'alice\nact: witness' }],
    ['a digest that is none', { ...approval, planSha256: '' }],
    ['half a second', { ...approval, atMs: 1500 }],
    ['no line', { ...witness, lines: 0 }],
  ] as const)('are not written with %s', (_what, statement) => {
    expect(() => formatStatement(statement)).toThrow(TypeError)
  })
})
