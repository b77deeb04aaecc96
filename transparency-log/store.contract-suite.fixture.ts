/** What every `LogStore` must keep (store.ts). Two logs are open at once in each test: neither may see the other. */
import { hash } from 'node:crypto'
import { emptyRoot, leafHash, MerkleTree } from '#tlog'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Batch, CommittedHead, LogIdentity, LogStore, NewEntry, StoredSeal } from './store.ts'

/** How the suite gets at one implementation. */
export interface StoreUnderTest {
  /** Opens the store of this log, made if it is not there. The same name again is the same log. */
  open(name: string, identity?: Partial<LogIdentity>): Promise<LogStore>
  /** Ends with everything that the test made. */
  dispose(): Promise<void>
}

const text = (value: string): Uint8Array => new TextEncoder().encode(value)
const digest = (value: string): Uint8Array => new Uint8Array(hash('sha256', value, 'buffer'))
const EMPTY: CommittedHead = { size: 0, rootHash: emptyRoot(), timestampMs: 0 }

function entry(name: string, extra: Partial<NewEntry> = {}): NewEntry {
  const leaf = text(name)
  return { dedupeKey: digest(name), leafHash: leafHash(leaf), leaf, tileData: leaf, searchKeys: [], ...extra }
}

/** A log's own copy of its tree, to compute the heads that are committed. */
class Writer {
  readonly store: LogStore
  readonly tree = new MerkleTree()
  head = EMPTY

  constructor(store: LogStore) {
    this.store = store
  }

  batch(entries: readonly NewEntry[], timestampMs = 1_000): Batch {
    for (const { leafHash } of entries) this.tree.append(leafHash)
    return { head: { size: this.tree.size, rootHash: this.tree.root(), timestampMs }, entries }
  }

  async commit(entries: readonly NewEntry[], timestampMs = 1_000): Promise<void> {
    const batch = this.batch(entries, timestampMs)
    expect(await this.store.commit(batch, this.head)).toBe('committed')
    this.head = batch.head
  }

  seal(change: Partial<StoredSeal> = {}): StoredSeal {
    return { ...this.head, note: 'note\n', signature: text('signature'), ...change }
  }
}

/** Registers the suite. */
export function testStore(name: string, make: () => StoreUnderTest): void {
  describe(name, () => {
    let under: StoreUnderTest
    let one: Writer
    let two: Writer

    beforeEach(async () => {
      under = make()
      one = new Writer(await under.open('one'))
      two = new Writer(await under.open('two'))
    })
    afterEach(async () => {
      await one.store.close()
      await two.store.close()
      await under.dispose()
    })

    test('a new log is empty, committed at size 0 and never sealed', async () => {
      expect(await one.store.head()).toEqual({ committed: EMPTY })
      expect(await one.store.entries(0, 10)).toEqual([])
      expect(await one.store.placesOf([digest('a')])).toEqual([undefined])
      expect((await one.store.leafHashes(0)).length).toBe(0)
    })

    test('entries come back as they were committed, each in its own log', async () => {
      await one.commit([entry('a', { attachment: text('beside') }), entry('b', { tileData: text('tile') })], 1_000)
      await two.commit([entry('c')], 2_000)
      const none = new Uint8Array(0)
      expect(await one.store.entries(0, 10)).toEqual([
        {
          index: 0,
          timestampMs: 1_000,
          leaf: text('a'),
          tileData: text('a'),
          attachment: text('beside'),
          entrySignature: none,
        },
        { index: 1, timestampMs: 1_000, leaf: text('b'), tileData: text('tile'), entrySignature: none },
      ])
      expect(await one.store.entries(1, 1)).toHaveLength(1)
      expect(await one.store.tileData(0, 5)).toEqual([text('a'), text('tile')])
      expect((await two.store.entries(0, 10)).map(({ leaf }) => leaf)).toEqual([text('c')])
      expect((await one.store.head()).committed).toEqual(one.head)
    })

    test.each([
      ['another size', () => ({ ...EMPTY, size: 1 })],
      ['another root', () => ({ ...EMPTY, rootHash: digest('other') })],
    ])('a commit that expects %s conflicts and changes nothing', async (_, expected) => {
      expect(await one.store.commit(one.batch([entry('a')]), expected())).toBe('conflict')
      expect(await one.store.head()).toEqual({ committed: EMPTY })
      expect(await one.store.entries(0, 1)).toEqual([])
      expect(await one.store.placesOf([digest('a')])).toEqual([undefined])
      expect(await one.store.indexOfLeafHash(leafHash(text('a')))).toBeUndefined()
    })

    test('of two commits on the same head one conflicts', async () => {
      const rival = new Writer(one.store)
      const outcomes = await Promise.all([
        one.store.commit(one.batch([entry('a')]), EMPTY),
        one.store.commit(rival.batch([entry('b')]), EMPTY),
      ])
      expect(outcomes.toSorted()).toEqual(['committed', 'conflict'])
      expect((await one.store.head()).committed.size).toBe(1)
      expect(await one.store.entries(0, 5)).toHaveLength(1)
    })

    test('a batch whose head does not count its entries is refused whole', async () => {
      const batch = one.batch([entry('a'), entry('b')])
      await expect(one.store.commit({ ...batch, entries: batch.entries.slice(1) }, EMPTY)).rejects.toThrow()
      expect(await one.store.head()).toEqual({ committed: EMPTY })
      expect(await one.store.entries(0, 5)).toEqual([])
    })

    test('a seal is stored with the signatures of its entries, and replaced by a later one of the same size', async () => {
      await one.commit([entry('a'), entry('b')])
      const signatures = [0, 1].map((index) => ({ index, signature: text(`signature ${index}`) }))
      expect(await one.store.seal(one.seal(), signatures)).toBe('sealed')
      expect((await one.store.head()).sealed).toEqual(one.seal())
      expect((await one.store.entries(1, 1))[0]?.entrySignature).toEqual(text('signature 1'))
      expect(await one.store.seal(one.seal({ timestampMs: 9_000 }), [])).toBe('sealed')
      expect((await one.store.head()).sealed?.timestampMs).toBe(9_000)
      expect((await two.store.head()).sealed).toBeUndefined()
    })

    test.each([
      ['a size that is not committed', { size: 3 }],
      ['an earlier size', { size: 0, rootHash: emptyRoot() }],
      ['another root', { rootHash: digest('other') }],
    ])('a seal of %s conflicts and changes nothing', async (_, change) => {
      await one.commit([entry('a')])
      expect(await one.store.seal(one.seal(change), [{ index: 0, signature: text('s') }])).toBe('conflict')
      expect((await one.store.head()).sealed).toBeUndefined()
      expect((await one.store.entries(0, 1))[0]?.entrySignature.length).toBe(0)
    })

    test('leaf hashes come back for loading, over rows of 256 and across batches of any size', async () => {
      let count = 0
      for (const size of [1, 254, 2, 300, 1]) {
        await one.commit(Array.from({ length: size }, () => entry(`entry ${count++}`)))
      }
      const loaded = new MerkleTree()
      for (let start = 0; start < one.head.size; start += 256) {
        const hashes = await one.store.leafHashes(start)
        for (let at = 0; at < hashes.length; at += 32) loaded.append(hashes.subarray(at, at + 32))
      }
      expect(loaded.size).toBe(558)
      expect(loaded.root()).toEqual(one.head.rootHash)
    })

    test('entries are found by dedupe key and by leaf hash, those with the same first 8 bytes apart', async () => {
      const key = digest('a')
      const near = Uint8Array.from(key, (byte, at) => (at < 8 ? byte : byte ^ 1))
      await one.commit([entry('a'), entry('b', { dedupeKey: near })])
      const places = await one.store.placesOf([near, digest('nothing'), key])
      expect(places.map((place) => place?.index)).toEqual([1, undefined, 0])
      expect(places[2]).toEqual({ index: 0, timestampMs: 1_000, delivered: false })
      expect(await one.store.indexOfLeafHash(leafHash(text('b')))).toBe(1)
      const nearLeaf = leafHash(text('b')).map((byte, at) => (at < 8 ? byte : byte ^ 1))
      expect(await one.store.indexOfLeafHash(nearLeaf)).toBeUndefined()
      expect(await two.store.placesOf([key])).toEqual([undefined])
      expect(await two.store.indexOfLeafHash(leafHash(text('b')))).toBeUndefined()
    })

    test('search keys are found exactly, newest first, in pages', async () => {
      await one.commit(
        Array.from({ length: 10 }, (_, i) =>
          entry(`${i}`, { searchKeys: ['email:all@example.com', i % 2 === 0 ? 'even' : 'odd', 'odd', 'odd'] }),
        ),
      )
      await two.commit([entry('x', { searchKeys: ['odd'] })])
      expect(await one.store.lookup('even', 100, 3)).toEqual([8, 6, 4])
      expect(await one.store.lookup('even', 4, 3)).toEqual([2, 0])
      expect(await one.store.lookup('odd', 100, 100)).toEqual([9, 8, 7, 6, 5, 4, 3, 2, 1, 0])
      expect(await one.store.lookup('email:all@example.com', 1, 100)).toEqual([0])
      expect(await one.store.lookup('email:ALL@example.com', 100, 100)).toEqual([])
      expect(await one.store.lookup('', 100, 100)).toEqual([])
      expect(await two.store.lookup('odd', 100, 100)).toEqual([0])
    })

    test('delivered marks are kept, and setting one twice is no error', async () => {
      await one.commit([entry('a'), entry('b')])
      await one.store.markDelivered([1])
      await one.store.markDelivered([1])
      const places = await one.store.placesOf([digest('a'), digest('b')])
      expect(places.map((place) => place?.delivered)).toEqual([false, true])
    })

    test('all of it is there after closing and opening again, and only then can it be opened again', async () => {
      await one.commit([entry('a', { searchKeys: ['k'] })])
      await one.store.seal(one.seal(), [{ index: 0, signature: text('s') }])
      await one.store.markDelivered([0])
      await one.commit([entry('b')], 5_000)
      const before = await one.store.head()
      const entries = await one.store.entries(0, 5)
      await expect(under.open('one')).rejects.toMatchObject({ code: 'in_use' })
      await one.store.close()
      const again = await under.open('one')
      expect(await again.head()).toEqual(before)
      expect(await again.entries(0, 5)).toEqual(entries)
      expect(await again.lookup('k', 9, 9)).toEqual([0])
      expect(await again.placesOf([digest('a')])).toEqual([{ index: 0, timestampMs: 1_000, delivered: true }])
      await again.close()
    }, 30_000)

    test.each([
      ['kind', { kind: 'ct' }],
      ['origin', { origin: 'other.example' }],
      ['key', { spkiDer: text('other key') }],
    ])('the store of a log with another %s is refused', async (_, identity) => {
      await one.store.close()
      await expect(under.open('one', identity)).rejects.toMatchObject({ code: 'other_log' })
    })

    test('a closed store refuses, and closing it again does nothing', async () => {
      await one.store.close()
      await expect(one.store.head()).rejects.toMatchObject({ code: 'failed' })
      await one.store.close()
    })
  })
}
