/** Signatures that minisign 0.11 of Debian made (test vectors below), against our own check. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { minisignFault } from './minisign.ts'

const folder = mkdtempSync(join(tmpdir(), 'chancery-minisign-'))
const message = Buffer.from('chancery ceremony statement v1\n')
let publicKey: string
let otherKey: string
let signature: string
let legacy: string

beforeAll(() => {
  const keyIn = (name: string) => {
    const open = join(folder, `${name}.pub`)
    execFileSync('minisign', ['-G', '-W', '-p', open, '-s', join(folder, `${name}.key`)], { stdio: 'ignore' })
    return readFileSync(open, 'utf8').split('\n')[1] ?? ''
  }
  publicKey = keyIn('own')
  otherKey = keyIn('other')
  const file = join(folder, 'message')
  writeFileSync(file, message)
  const signed = (...words: string[]) => {
    const out = join(folder, 'signature')
    const common = ['-S', '-s', join(folder, 'own.key'), '-m', file, '-x', out, '-t', 'an approval']
    execFileSync('minisign', [...common, ...words], { stdio: 'ignore' })
    return readFileSync(out, 'utf8')
  }
  signature = signed('-H')
  legacy = signed('-l')
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

const linesOf = (text: string) => text.split('\n')
const changedAt = (line: number, byte: number) => {
  const lines = linesOf(signature)
  const bytes = Buffer.from(lines[line] ?? '', 'base64')
  bytes[byte] = (bytes[byte] ?? 0) ^ 1
  return lines.with(line, bytes.toString('base64')).join('\n')
}

describe('a signature of minisign', () => {
  test('holds', () => expect(minisignFault(publicKey, message, signature)).toBeUndefined())

  test.each([
    ['of another message', () => minisignFault(publicKey, Buffer.from('other'), signature), /does not verify/],
    ['of another key', () => minisignFault(otherKey, message, signature), /another key/],
    ['over the file itself', () => minisignFault(publicKey, message, legacy), /not over a digest/],
    [
      'with another comment',
      () => minisignFault(publicKey, message, signature.replace('approval', 'refusal')),
      /comment/,
    ],
    [
      'with one bit of the signature changed',
      () => minisignFault(publicKey, message, changedAt(1, 40)),
      /does not verify/,
    ],
    [
      'with one bit of the second signature changed',
      () => minisignFault(publicKey, message, changedAt(3, 5)),
      /comment/,
    ],
    ['with one bit of the key id changed', () => minisignFault(publicKey, message, changedAt(1, 4)), /another key/],
    ['with a line more', () => minisignFault(publicKey, message, `${signature}x\n`), /no signature file/],
    ['cut off', () => minisignFault(publicKey, message, signature.slice(0, 90)), /no signature file/],
    ['of nothing', () => minisignFault(publicKey, message, ''), /no signature file/],
    ['with a key that is none', () => minisignFault(signature, message, signature), /public key is none/],
  ])('%s is refused', (_what, fault, words) => {
    expect(fault()).toMatch(words)
  })
})
