/** The judge of the crash tier, judged: what it must not let pass. */
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { CheckError, inclusionProof, isIncluded, recountEntries, verifyCheckpoint } from './checker.ts'

/** RFC 6962 §2.1 as it is written, recursive: the split at the largest power of two below the size. */
function root(leaves: readonly Buffer[]): Buffer {
  if (leaves.length === 0) return createHash('sha256').digest()
  if (leaves.length === 1)
    return createHash('sha256')
      .update(Buffer.from([0]))
      .update(Buffer.concat(leaves))
      .digest()
  const split = 2 ** Math.floor(Math.log2(leaves.length - 1))
  const halves = [root(leaves.slice(0, split)), root(leaves.slice(split))]
  return createHash('sha256')
    .update(Buffer.from([1]))
    .update(Buffer.concat(halves))
    .digest()
}

const entries = Array.from({ length: 300 }, (_, number) => Buffer.from(`entry ${number}`))

test('counts every tree as RFC 6962 does, and its proofs lead to the root', () => {
  for (const size of [0, 1, 2, 3, 7, 8, 255, 256, 257, 300]) {
    const head = { size, root: root(entries.slice(0, size)) }
    const { leafHashes, roots } = recountEntries(entries.slice(0, size), head)
    expect(roots[Math.floor(size / 2)]).toEqual(root(entries.slice(0, Math.floor(size / 2))))
    for (const [index, leafHash] of leafHashes.entries()) {
      expect(isIncluded(leafHash, index, head, inclusionProof(leafHashes, index))).toBe(true)
    }
  }
})

test.each<[string, (all: Buffer[]) => readonly Buffer[]]>([
  ['an entry is missing', (all) => all.slice(0, -1)],
  ['an entry is another', (all) => all.with(120, Buffer.from('other'))],
  [
    'two entries are exchanged',
    (all) => all.with(1, entries[2] ?? Buffer.alloc(0)).with(2, entries[1] ?? Buffer.alloc(0)),
  ],
  ['there is one entry more', (all) => [...all, Buffer.from('more')]],
])('refuses a log in which %s', (_, change) => {
  expect(() => recountEntries(change([...entries]), { size: entries.length, root: root(entries) })).toThrow(CheckError)
})

test('refuses proofs of another place, with a hash too few or too many, or changed', () => {
  const head = { size: 300, root: root(entries) }
  const { leafHashes } = recountEntries(entries, head)
  const leafHash = leafHashes[77] ?? Buffer.alloc(0)
  const proof = inclusionProof(leafHashes, 77)
  expect(isIncluded(leafHash, 76, head, proof)).toBe(false)
  expect(isIncluded(leafHash, -1, head, proof)).toBe(false)
  expect(isIncluded(leafHash, 77, head, proof.slice(1))).toBe(false)
  expect(isIncluded(leafHash, 77, head, [...proof, Buffer.alloc(32)])).toBe(false)
  expect(isIncluded(leafHash, 77, head, proof.with(3, Buffer.alloc(32)))).toBe(false)
  expect(isIncluded(leafHash, 77, { size: 299, root: root(entries.slice(0, 299)) }, proof)).toBe(false)
})

describe('a checkpoint', () => {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const key = { origin: 'log.example', spkiDer: publicKey.export({ type: 'spki', format: 'der' }) }
  const body = `log.example\n3\n${root(entries.slice(0, 3)).toString('base64')}\n`
  const line = (signed: string) =>
    `— log.example ${Buffer.concat([Buffer.alloc(4), sign('sha256', Buffer.from(signed), privateKey)]).toString('base64')}`

  test('is read', () => {
    expect(verifyCheckpoint(`${body}\n${line(body)}\n`, key)).toEqual({ size: 3, root: root(entries.slice(0, 3)) })
  })

  test.each([
    ['of another log', `${body.replace('log', 'other')}\n${line(body.replace('log', 'other'))}\n`],
    ['of another size than was signed', `${body.replace('3', '4')}\n${line(body)}\n`],
    ['without a signature', `${body}\n`],
  ])('%s is refused', (_, text) => {
    expect(() => verifyCheckpoint(text, key)).toThrow(CheckError)
  })
})
