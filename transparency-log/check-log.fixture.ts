/**
 * The whole-log check that follows every scenario. It reads only what an auditor can read and recomputes everything
 * from the entry bundles with merkletreejs; it shares no code with sequencer, tree or store.
 */
import { createHash, createPublicKey, verify } from 'node:crypto'
import { MerkleTree } from 'merkletreejs'
import { expect } from 'vitest'
import type { Log, SealedHead } from './log.ts'

const sha256 = (...parts: Uint8Array[]): Buffer => {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest()
}
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** Checks all there is of a log and returns its leaves. `earlier` are heads that were seen before. */
export async function checkLog(log: Log, earlier: readonly SealedHead[] = []): Promise<Buffer[]> {
  const head = log.head()
  const leaves = await bundledEntries(log, head.size)
  const hashes = leaves.map((leaf) => sha256(Buffer.of(0), leaf))
  expect(hex(head.rootHash), 'root recomputed from the bundles').toBe(hex(rootOf(hashes)))
  checkSignature(log, head)
  await checkTiles(log, hashes)

  const entries = []
  while (entries.length < head.size) entries.push(...(await log.entries(entries.length, 256)))
  expect(entries.length).toBe(head.size)
  let newest = 0
  for (const [index, entry] of entries.entries()) {
    expect(entry.index).toBe(index)
    expect(hex(entry.tileData)).toBe(hex(leaves[index] ?? Buffer.of()))
    expect(hex(entry.leafHash)).toBe(hex(hashes[index] ?? Buffer.of()))
    expect(entry.timestampMs, 'times never step back').toBeGreaterThanOrEqual(newest)
    newest = entry.timestampMs
    expect(await log.indexOfLeafHash(entry.leafHash)).toBe(index)
    const proof = await log.inclusionProof(index, head.size)
    expect(hex(climb(index, head.size, hashes[index] ?? Buffer.of(), proof))).toBe(hex(head.rootHash))
  }
  expect(head.timestampMs).toBeGreaterThanOrEqual(newest)
  expect(await log.entry(head.size)).toBeUndefined()
  for (const old of earlier) {
    expect(old.size, 'the log never shrinks').toBeLessThanOrEqual(head.size)
    expect(hex(old.rootHash), `root at size ${old.size}`).toBe(hex(rootOf(hashes.slice(0, old.size))))
  }
  return leaves
}

function rootOf(hashes: readonly Buffer[]): Uint8Array {
  if (hashes.length === 0) return sha256()
  return new MerkleTree([...hashes], (node: Buffer) => sha256(Buffer.of(1), node)).getRoot()
}

async function bundledEntries(log: Log, size: number): Promise<Buffer[]> {
  const entries: Buffer[] = []
  for (let n = 0; n * 256 < size; n++) {
    const bundle = await log.entryBundle(n, Math.min(256, size - n * 256))
    if (bundle === undefined) throw new Error(`bundle ${n} is missing`)
    for (let rest = Buffer.from(bundle); rest.length > 0; ) {
      const length = rest.readUInt16BE(0)
      expect(rest.length).toBeGreaterThanOrEqual(2 + length)
      entries.push(rest.subarray(2, 2 + length))
      rest = rest.subarray(2 + length)
    }
  }
  expect(entries.length).toBe(size)
  return entries
}

async function checkTiles(log: Log, hashes: readonly Buffer[]): Promise<void> {
  let row: readonly Buffer[] = hashes
  for (let level = 0; row.length > 0; level++) {
    const above: Buffer[] = []
    for (let n = 0; n * 256 < row.length; n++) {
      const expected = row.slice(n * 256, (n + 1) * 256)
      const tile = await log.tile(level, n, expected.length)
      expect(hex(tile ?? Buffer.of()), `tile ${level}/${n}`).toBe(hex(Buffer.concat(expected)))
      if (expected.length === 256) above.push(Buffer.from(rootOf(expected)))
    }
    row = above
  }
}

function checkSignature(log: Log, head: SealedHead): void {
  const key = createPublicKey({ key: Buffer.from(log.spkiDer), type: 'spki', format: 'der' })
  if (head.note === '') {
    const input = Buffer.alloc(50)
    input[1] = 1
    input.writeBigUInt64BE(BigInt(head.timestampMs), 2)
    input.writeBigUInt64BE(BigInt(head.size), 10)
    input.set(head.rootHash, 18)
    expect(verify('sha256', input, key, head.signature), 'tree head signature').toBe(true)
    return
  }
  const [text = '', lines = ''] = head.note.split('\n\n')
  expect(text).toBe(`${log.origin}\n${head.size}\n${Buffer.from(head.rootHash).toString('base64')}`)
  const signature = Buffer.from(lines.trimEnd().split(' ').at(-1) ?? '', 'base64').subarray(4)
  expect(verify('sha256', Buffer.from(`${text}\n`), key, signature), 'checkpoint signature').toBe(true)
}

/** RFC 9162 §2.1.3.2, whose iterative form is not the one of tlog/proof.ts. */
function climb(index: number, size: number, leaf: Uint8Array, proof: readonly Uint8Array[]): Uint8Array {
  let fn = index
  let sn = size - 1
  let root = leaf
  for (const hash of proof) {
    expect(sn).not.toBe(0)
    if (fn % 2 === 1 || fn === sn) {
      root = sha256(Buffer.of(1), hash, root)
      while (fn % 2 === 0 && fn !== 0) {
        fn = Math.floor(fn / 2)
        sn = Math.floor(sn / 2)
      }
    } else {
      root = sha256(Buffer.of(1), root, hash)
    }
    fn = Math.floor(fn / 2)
    sn = Math.floor(sn / 2)
  }
  expect(sn).toBe(0)
  return root
}
