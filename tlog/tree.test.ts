import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { MerkleTree as OracleTree } from 'merkletreejs'
import { describe, expect, test } from 'vitest'
import { rootFromInclusionProof, verifyConsistency, verifyInclusion } from './proof.ts'
import { sha256 as browserSha256 } from './sha256.browser.ts'
import { sha256 } from './sha256.node.ts'
import { tilesForGrowth } from './tiles.ts'
import { emptyRoot, leafHash, MerkleTree } from './tree.ts'

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const unhex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'hex'))
const oracleHash = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest()

/** Leaf i is the decimal text of i. */
function grown(size: number): MerkleTree {
  const tree = new MerkleTree()
  for (let i = 0; i < size; i++) tree.append(leafHash(new TextEncoder().encode(String(i))))
  return tree
}

/** merkletreejs as RFC 6962 wants it: leaves hashed with 0x00 beforehand, 0x01 added by the hash function. */
function oracleRoot(size: number): string {
  const leaves = Array.from({ length: size }, (_, i) => oracleHash(Buffer.from(`\0${i}`)))
  if (size === 0) return hex(oracleHash(Buffer.of()))
  return new OracleTree(leaves, (node: Buffer) => oracleHash(Buffer.concat([Buffer.of(1), node]))).getHexRoot().slice(2)
}

/**
 * The reference tree of the Certificate Transparency project: leaves and roots from `GetTestLeaves` and `GetTestRoots`
 * of certificate-transparency (merkletree/merkle_tree_test.cc), kept in transparency-dev/merkle testonly/constants.go.
 */
const REFERENCE_LEAVES = [
  '',
  '00',
  '10',
  '2021',
  '3031',
  '40414243',
  '5051525354555657',
  '606162636465666768696a6b6c6d6e6f',
]
const REFERENCE_ROOTS = [
  'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
  '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
  'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
  'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
  'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
  '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4',
  '76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef',
  'ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c',
  '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
]

function referenceTree(): MerkleTree {
  const tree = new MerkleTree()
  for (const leaf of REFERENCE_LEAVES) tree.append(leafHash(unhex(leaf)))
  return tree
}

describe('the reference tree of Certificate Transparency', () => {
  test.each(REFERENCE_ROOTS.map((root, size) => [size, root] as const))('size %i has root %s', (size, root) => {
    expect(hex(referenceTree().root(size))).toBe(root)
  })

  test.each([
    [0, 1, []],
    [
      5,
      8,
      [
        'bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b',
        'ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0',
        'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
      ],
    ],
    [2, 3, ['fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125']],
  ])('inclusion of leaf %i in size %i', (index, size, proof) => {
    expect(referenceTree().inclusionProof(index, size).map(hex)).toEqual(proof)
  })

  test.each([
    [1, 1, []],
    [
      1,
      8,
      [
        '96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7',
        '5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e',
        '6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4',
      ],
    ],
    [
      6,
      8,
      [
        '0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a',
        'ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0',
        'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
      ],
    ],
    [
      2,
      5,
      [
        '5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e',
        'bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b',
      ],
    ],
  ])('consistency from %i to %i', (first, second, proof) => {
    expect(referenceTree().consistencyProof(first, second).map(hex)).toEqual(proof)
  })
})

describe('merkletreejs as second opinion', () => {
  test('the root is the same for every size up to 600, asked of one tree of 600', () => {
    const tree = grown(600)
    for (let size = 0; size <= 600; size++) expect([size, hex(tree.root(size))]).toEqual([size, oracleRoot(size)])
  }, 120_000)

  test('and for random larger ones', () => {
    const tree = grown(6000)
    fc.assert(
      fc.property(fc.integer({ min: 601, max: 6000 }), (size) => {
        expect(hex(tree.root(size))).toBe(oracleRoot(size))
      }),
      { numRuns: 15 },
    )
  }, 120_000)
})

const TREE = grown(1100)
const size = fc.integer({ min: 1, max: TREE.size })

describe('every proof verifies, and nothing else does', () => {
  test('inclusion', () => {
    fc.assert(
      fc.property(size, fc.nat(), (treeSize, seed) => {
        const index = seed % treeSize
        const proof = TREE.inclusionProof(index, treeSize)
        verifyInclusion({ index, size: treeSize, leafHash: TREE.leaf(index), rootHash: TREE.root(treeSize), proof })
      }),
      { numRuns: 500 },
    )
  })

  test('a mutated byte, a hash too many or too few, another place: inclusion', () => {
    fc.assert(
      fc.property(size, fc.nat(), fc.nat(), (treeSize, seed, where) => {
        const index = seed % treeSize
        const claim = { index, size: treeSize, leafHash: TREE.leaf(index), rootHash: TREE.root(treeSize) }
        const proof = TREE.inclusionProof(index, treeSize)
        for (const wrong of wrongProofs(proof, where))
          expect(() => verifyInclusion({ ...claim, proof: wrong })).toThrow()
        expect(() => verifyInclusion({ ...claim, leafHash: mutated(claim.leafHash, where), proof })).toThrow()
        expect(() => verifyInclusion({ ...claim, rootHash: mutated(claim.rootHash, where), proof })).toThrow()
        if (treeSize > 1) expect(() => verifyInclusion({ ...claim, index: (index + 1) % treeSize, proof })).toThrow()
      }),
      { numRuns: 200 },
    )
  })

  test('consistency', () => {
    fc.assert(
      fc.property(size, fc.nat(), fc.nat(), (second, seed, where) => {
        const first = seed % (second + 1)
        const claim = { first, firstRoot: TREE.root(first), second, secondRoot: TREE.root(second) }
        const proof = TREE.consistencyProof(first, second)
        verifyConsistency({ ...claim, proof })
        for (const wrong of wrongProofs(proof, where)) {
          expect(() => verifyConsistency({ ...claim, proof: wrong })).toThrow()
        }
        if (first > 0) {
          expect(() => verifyConsistency({ ...claim, firstRoot: mutated(claim.firstRoot, where), proof })).toThrow()
          expect(() => verifyConsistency({ ...claim, secondRoot: mutated(claim.secondRoot, where), proof })).toThrow()
        }
      }),
      { numRuns: 300 },
    )
  })

  test('another history of the same length is not consistent', () => {
    const fork = grown(7)
    fork.append(leafHash(new TextEncoder().encode('another')))
    for (let i = 8; i < 20; i++) fork.append(TREE.leaf(i))
    for (let first = 8; first <= 20; first++) {
      const claim = { first, firstRoot: TREE.root(first), second: 20, secondRoot: fork.root() }
      expect(() => verifyConsistency({ ...claim, proof: fork.consistencyProof(first, 20) })).toThrow()
      expect(() => verifyConsistency({ ...claim, proof: TREE.consistencyProof(first, 20) })).toThrow()
    }
  })

  test.each([
    ['an index outside', 3, 3],
    ['a negative index', -1, 3],
    ['a fraction', 0.5, 3],
    ['an unsafe size', 0, 2 ** 53],
    ['the empty tree', 0, 0],
  ])('%s is out of range', (_, index, treeSize) => {
    expect(() => rootFromInclusionProof(index, treeSize, emptyRoot(), [])).toThrow(
      expect.objectContaining({ code: 'out_of_range' }),
    )
  })

  test('hashes of another length are refused', () => {
    expect(() => rootFromInclusionProof(0, 2, new Uint8Array(31), [emptyRoot()])).toThrow('31 bytes')
    expect(() => rootFromInclusionProof(0, 2, emptyRoot(), [new Uint8Array(33)])).toThrow('33 bytes')
  })
})

describe('the tree', () => {
  test('truncated and grown again it is as if it had never held the rest', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 0, max: 300 }), (a, b) => {
        const [kept, all] = [Math.min(a, b), Math.max(a, b)]
        const tree = grown(kept)
        for (let i = kept; i < all; i++) tree.append(leafHash(Uint8Array.of(255, i % 256)))
        tree.truncate(kept)
        expect(hex(tree.root())).toBe(hex(TREE.root(kept)))
        for (let i = kept; i < all; i++) tree.append(TREE.leaf(i))
        expect(hex(tree.root())).toBe(hex(TREE.root(all)))
      }),
      { numRuns: 50 },
    )
  })

  test('what it returns is not its memory', () => {
    const tree = grown(4)
    const root = hex(tree.root())
    tree.root().fill(0)
    tree.leaf(0).fill(0)
    tree.inclusionProof(0, 4).forEach((hash) => hash.fill(0))
    tree.tile(0, 0, 4)?.fill(0)
    expect(hex(tree.root())).toBe(root)
    verifyInclusion({
      index: 0,
      size: 4,
      leafHash: tree.leaf(0),
      rootHash: tree.root(),
      proof: tree.inclusionProof(0, 4),
    })
  })

  test.each([
    ['root past the end', (tree: MerkleTree) => tree.root(5)],
    ['negative root', (tree: MerkleTree) => tree.root(-1)],
    ['leaf past the end', (tree: MerkleTree) => tree.leaf(4)],
    ['inclusion of a leaf outside', (tree: MerkleTree) => tree.inclusionProof(3, 3)],
    ['inclusion in a tree too large', (tree: MerkleTree) => tree.inclusionProof(0, 5)],
    ['consistency backwards', (tree: MerkleTree) => tree.consistencyProof(3, 2)],
    ['consistency past the end', (tree: MerkleTree) => tree.consistencyProof(3, 5)],
    ['truncating upwards', (tree: MerkleTree) => tree.truncate(5)],
    ['appending what is no hash', (tree: MerkleTree) => tree.append(new Uint8Array(20))],
  ])('%s is out of range', (_, act) => {
    expect(() => act(grown(4))).toThrow(expect.objectContaining({ code: 'out_of_range' }))
  })

  test('the example of C2SP tlog-tiles: a tree of 70 000', () => {
    const tiles = tilesForGrowth(0, 70_000)
    expect(tiles.filter(({ level }) => level === 0).length).toBe(274)
    expect(tiles.slice(273)).toEqual([
      { level: 0, n: 273, width: 112 },
      { level: 1, n: 0, width: 256 },
      { level: 1, n: 1, width: 17 },
      { level: 2, n: 0, width: 1 },
    ])
    expect(tilesForGrowth(0, 256)).toEqual([
      { level: 0, n: 0, width: 256 },
      { level: 1, n: 0, width: 1 },
    ])
  })

  test('tiles hold the hashes of complete subtrees, and only tiles that the size has', () => {
    expect(hex(TREE.tile(1, 0, 4) ?? emptyRoot())).toBe(
      [0, 1, 2, 3].map((n) => hex(treeOf(n * 256, (n + 1) * 256).root())).join(''),
    )
    expect(TREE.tile(1, 0, 5)).toBeUndefined()
    expect(TREE.tile(2, 0, 1)).toBeUndefined()
    expect(TREE.tile(0, 4, 77)).toBeUndefined()
    expect(TREE.tile(0, 4, 76)?.length).toBe(76 * 32)
    expect(TREE.tile(0, 0, 0)).toBeUndefined()
    expect(TREE.tile(0, 0, 257)).toBeUndefined()
    expect(TREE.tile(0, 0.5, 1)).toBeUndefined()
    expect(TREE.tile(0, 0, 2, 1)).toBeUndefined()
  })

  test('both implementations of SHA-256 agree', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(browserSha256(bytes)).toEqual(sha256(bytes))
      }),
    )
  })
})

function treeOf(start: number, end: number): MerkleTree {
  const tree = new MerkleTree()
  for (let i = start; i < end; i++) tree.append(TREE.leaf(i))
  return tree
}

function mutated(bytes: Uint8Array, where: number): Uint8Array {
  const changed = bytes.slice()
  changed[where % 32] = (changed[where % 32] ?? 0) ^ (1 + (where % 255))
  return changed
}

function wrongProofs(proof: readonly Uint8Array[], where: number): Uint8Array[][] {
  const wrong = [
    [...proof, emptyRoot()],
    [emptyRoot(), ...proof],
  ]
  const at = where % proof.length
  if (proof.length > 0) {
    wrong.push(proof.slice(1), proof.slice(0, -1))
    wrong.push(proof.map((hash, i) => (i === at ? mutated(hash, where) : hash)))
  }
  if (proof.length > 1) wrong.push(proof.toReversed())
  return wrong
}
