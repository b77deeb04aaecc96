import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { leafHash, MerkleTree } from '#tlog'
import { ANCHOR_MARK, anchorFile, fileAnchor, type Statement } from './index.ts'

const ORIGIN = 'rekor-v1.example - 5'
let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-anchor-'))
  writeFileSync(join(folder, ANCHOR_MARK), '')
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function tree(size: number, content = 'leaf'): MerkleTree {
  const made = new MerkleTree()
  for (let index = 0; index < size; index++) made.append(leafHash(Buffer.from(`${content} ${index}`)))
  return made
}

/** Signed by a word: what a note of this test needs to be believed. */
function statement(size: number, content?: string, origin = ORIGIN): Statement {
  const own = tree(size, content)
  const rootHash = own.root()
  return {
    origin,
    size,
    rootHash,
    note: `${size} ${Buffer.from(rootHash).toString('hex')} signed`,
    consistencyProof: (first) => Promise.resolve(own.consistencyProof(first, size)),
    verify: (note) => {
      const [held = '', root = '', word] = note.split(' ')
      if (word !== 'signed') throw new Error('not signed')
      return { size: Number(held), rootHash: Uint8Array.from(Buffer.from(root, 'hex')) }
    },
  }
}

const anchor = () => fileAnchor({ name: 'volume', folder })
const held = (origin = ORIGIN) => readFileSync(anchorFile(folder, origin), 'utf8')

describe('an anchor in a folder', () => {
  test('keeps the newest note of each origin, and nothing else', async () => {
    for (const size of [0, 1, 3, 3, 9]) {
      await anchor().submit(statement(size))
      expect(held()).toBe(statement(size).note)
    }
    await anchor().submit(statement(2, 'other', 'account.example'))
    expect(held()).toBe(statement(9).note)
    expect(readdirSync(folder).toSorted()).toEqual(
      [ANCHOR_MARK, 'account.example.note', 'rekor-v1.example%20-%205.note'].toSorted(),
    )
  })

  test('keeps a chain that is no tree, by its size alone', async () => {
    const { consistencyProof: _, ...chained } = statement(5)
    await anchor().submit(chained)
    const { consistencyProof: __, ...longer } = statement(6, 'another content')
    await anchor().submit(longer)
    await expect(anchor().submit(chained)).rejects.toMatchObject({ code: 'ahead', heldSize: 6 })
  })

  test.each([
    ['a smaller size', 8, undefined, 'ahead'],
    ['nothing at all', 0, undefined, 'ahead'],
    ['another root at the same size', 9, 'other', 'disagrees'],
    ['a larger size that grew from something else', 12, 'other', 'disagrees'],
  ])('never goes back: %s is refused, with what it holds as evidence', async (_, size, content, code) => {
    const kept = statement(9)
    await anchor().submit(kept)
    const refused = anchor().submit(statement(size, content))
    await expect(refused).rejects.toMatchObject({ code, heldSize: 9, evidence: kept.note })
    expect(held()).toBe(kept.note)
  })

  test.each([
    ['an unsigned note', '99 00 forged'],
    ['nothing', ''],
    ['a file without end', 'x'.repeat(100_000)],
  ])('distrusts %s, and leaves it there', async (_, text) => {
    writeFileSync(anchorFile(folder, ORIGIN), text)
    await expect(anchor().submit(statement(3))).rejects.toMatchObject({ code: 'distrusted', evidence: undefined })
    expect(held()).toBe(text)
  })

  test('is away without its mark: an empty mount point remembers nothing', async () => {
    rmSync(join(folder, ANCHOR_MARK))
    await expect(anchor().submit(statement(3))).rejects.toMatchObject({ code: 'away' })
    expect(readdirSync(folder)).toEqual([])
  })

  test('is away where it cannot be read or written', async () => {
    mkdirSync(anchorFile(folder, ORIGIN))
    await expect(anchor().submit(statement(3))).rejects.toMatchObject({ code: 'away' })
    await expect(fileAnchor({ name: 'gone', folder: join(folder, 'gone') }).submit(statement(3))).rejects.toMatchObject(
      { code: 'away' },
    )
    mkdirSync(`${anchorFile(folder, 'b.example')}.part`)
    await expect(anchor().submit(statement(3, 'leaf', 'b.example'))).rejects.toMatchObject({ code: 'away' })
  })

  test('is away while its volume hangs, and is there again when that is over', async () => {
    execFileSync('mkfifo', [anchorFile(folder, ORIGIN)])
    const hanging = fileAnchor({ name: 'nfs', folder, timeoutMs: 100 })
    await expect(hanging.submit(statement(3))).rejects.toMatchObject({
      code: 'away',
      message: expect.stringMatching(/does not answer/),
    })
    await expect(hanging.submit(statement(3))).rejects.toMatchObject({
      code: 'away',
      message: expect.stringMatching(/not answered yet/),
    })
    // Another origin waits behind it, in a queue and not in a thread.
    await expect(hanging.submit(statement(3, 'leaf', 'b.example'))).rejects.toMatchObject({ code: 'away' })
    expect(existsSync(anchorFile(folder, 'b.example'))).toBe(false)
    execFileSync('sh', ['-c', 'echo nonsense > "$0"', anchorFile(folder, ORIGIN)])
    await expect.poll(() => existsSync(anchorFile(folder, 'b.example'))).toBe(true)
    rmSync(anchorFile(folder, ORIGIN))
    await hanging.submit(statement(3))
    expect(held()).toBe(statement(3).note)
  })

  test('takes one statement of an origin at a time', async () => {
    const one = anchor()
    const both = await Promise.allSettled([one.submit(statement(4)), one.submit(statement(5))])
    expect(both.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    await one.submit(statement(5))
  })

  test('an origin names a file in the folder and nowhere else', () => {
    for (const origin of ['../../etc/passwd', 'a/b', '..', 'a\0b']) {
      expect(anchorFile('/x', origin).split('/')).toHaveLength(3)
    }
  })
})
