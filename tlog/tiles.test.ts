import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  decodeEntryBundle,
  encodeEntryBundle,
  entryBundlePath,
  parseTilePath,
  tilePath,
  tilesForGrowth,
} from './tiles.ts'

describe('paths', () => {
  test.each([
    // The example of c2sp.org/tlog-tiles.
    [tilePath(0, 1_234_067), 'tile/0/x001/x234/067'],
    [tilePath(0, 273, 112), 'tile/0/273.p/112'],
    [tilePath(2, 0, 1), 'tile/2/000.p/1'],
    [tilePath(63, 999), 'tile/63/999'],
    [tilePath(1, 1000), 'tile/1/x001/000'],
    [entryBundlePath(1_234_067, 255), 'tile/entries/x001/x234/067.p/255'],
  ])('%s', (path, expected) => {
    expect(path).toBe(expected)
  })

  test('what is written is parsed back', () => {
    const n = fc.integer({ min: 0, max: 2 ** 44 })
    const width = fc.integer({ min: 1, max: 256 })
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 63 }), n, width, (level, n, width) => {
        expect(parseTilePath(tilePath(level, n, width))).toEqual({ kind: 'hashes', level, n, width })
        expect(parseTilePath(entryBundlePath(n, width))).toEqual({ kind: 'entries', n, width })
      }),
    )
  })

  test.each([
    '',
    '/tile/0/000',
    'tile/0',
    'tile/0/',
    'tile/64/000',
    'tile/00/000',
    'tile/-1/000',
    'tile/0/0',
    'tile/0/00',
    'tile/0/0000',
    'tile/0/x000/000',
    'tile/0/001/000',
    'tile/0/x001',
    'tile/0/x001/x000',
    'tile/0/000.p/0',
    'tile/0/000.p/256',
    'tile/0/000.p/01',
    'tile/0/000.p/',
    'tile/0/000.p',
    'tile/0/000.p/1/',
    'tile/entry/000',
    'tile/entries/000/',
    'tile/entries/000\n',
    'tile/0/x9/000',
    'tile/0/x999/x999/x999/x999/x999/x999/999',
    'tile/0/../000',
  ])('%j is no path of a tile', (path) => {
    expect(() => parseTilePath(path)).toThrow(expect.objectContaining({ code: 'malformed_tile' }))
  })

  test.each([
    [-1, 0, 1],
    [64, 0, 1],
    [0, -1, 1],
    [0, 0.5, 1],
    [0, 0, 0],
    [0, 0, 257],
  ])('level %d, index %d, width %d cannot be written', (level, n, width) => {
    expect(() => tilePath(level, n, width)).toThrow()
  })
})

describe('entry bundles', () => {
  test('what is encoded is decoded', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 400 }), { maxLength: 256 }), (entries) => {
        expect(decodeEntryBundle(encodeEntryBundle(entries))).toEqual(entries)
      }),
    )
    expect(encodeEntryBundle([Uint8Array.of(7), new Uint8Array(0)])).toEqual(Uint8Array.of(0, 1, 7, 0, 0))
    expect(decodeEntryBundle(encodeEntryBundle([new Uint8Array(65_535)]))[0]?.length).toBe(65_535)
  })

  test.each([
    ['half a length', Uint8Array.of(0)],
    ['a length alone', Uint8Array.of(0, 1)],
    ['a cut entry', Uint8Array.of(0, 2, 7)],
    ['a stray byte', Uint8Array.of(0, 1, 7, 0)],
    ['257 entries', new Uint8Array(514)],
  ])('%s is refused', (_, bundle) => {
    expect(() => decodeEntryBundle(bundle)).toThrow(expect.objectContaining({ code: 'malformed_tile' }))
  })

  test('257 entries or an entry of 65 536 bytes cannot be encoded', () => {
    expect(() => encodeEntryBundle(Array.from({ length: 257 }, () => new Uint8Array(1)))).toThrow()
    expect(() => encodeEntryBundle([new Uint8Array(65_536)])).toThrow()
  })
})

test('growing step by step writes exactly the tiles that the sizes have', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 70_000 }), { minLength: 1, maxLength: 6 }), (sizes) => {
      const written = new Set<string>()
      let size = 0
      for (const next of sizes.toSorted((a, b) => a - b)) {
        for (const { level, n, width } of tilesForGrowth(size, next)) written.add(tilePath(level, n, width))
        size = next
        for (let level = 0; 256 ** level <= size; level++) {
          const count = Math.floor(size / 256 ** level)
          for (let n = 0; n * 256 < count; n++) {
            expect(written.has(tilePath(level, n, Math.min(256, count - n * 256)))).toBe(true)
          }
        }
      }
    }),
    { numRuns: 30 },
  )
  expect(() => tilesForGrowth(3, 2)).toThrow(expect.objectContaining({ code: 'out_of_range' }))
})
