import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { CanaryBundle } from './canary-bundle.ts'
import { DistrustedList } from './canary-distrust.ts'
import { CanaryStore } from './canary-store.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-canaries-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

const key = (letter: string) => letter.repeat(64)
const at = (minute: number) => new Date(Date.UTC(2026, 7, 1, 12, minute))
const bundle = (ct: string): CanaryBundle => ({ log: 'rekor-v1', signedBy: { 'ct-log': key(ct) }, bundle: { of: ct } })

test('of each set of keys the first and the newest are kept, whatever came between', () => {
  const store = new CanaryStore(folder)
  expect(store.all()).toEqual([])
  for (const [minute, ct] of 'aaabbbbac'.split('').entries()) store.keep(at(minute), 'https://x/canary', [bundle(ct)])
  expect(store.all().map(({ madeAt, bundles }) => [madeAt.getUTCMinutes(), bundles[0]?.bundle])).toEqual([
    [0, { of: 'a' }],
    [3, { of: 'b' }],
    [6, { of: 'b' }],
    [7, { of: 'a' }],
    [8, { of: 'c' }],
  ])
  expect(readdirSync(join(folder, 'canaries')).filter((name) => name.endsWith('.part'))).toEqual([])
})

test('a bundle more is another set of keys', () => {
  const store = new CanaryStore(folder)
  const second: CanaryBundle = { log: 'rekor-v2', signedBy: { 'ct-log': key('a'), 'rekor-v2': key('d') }, bundle: {} }
  store.keep(at(0), 'https://x/canary', [bundle('a'), second])
  store.keep(at(1), 'https://x/canary', [bundle('a')])
  store.keep(at(2), 'https://x/canary', [bundle('a'), second])
  expect(store.all()).toHaveLength(3)
})

test.each([
  ['no JSON', 'x'],
  ['another form', '{"schemaVersion":2}'],
  ['no bundles', JSON.stringify({ schemaVersion: 1, madeAt: at(0).toISOString(), identity: 'https://x', bundles: [] })],
])('a file with %s is no canary, and is not passed over', (_, text) => {
  const store = new CanaryStore(folder)
  store.keep(at(0), 'https://x/canary', [bundle('a')])
  writeFileSync(join(folder, 'canaries', '2026.json'), text)
  expect(() => store.all()).toThrow(/2026\.json is no canary/)
})

test('what is given up is given up from the earliest time that was told, and nothing before', () => {
  const list = new DistrustedList(folder)
  expect(list.keysAt(at(0)).size).toBe(0)
  list.add({ item: 'ct', key: key('a'), from: at(5) })
  list.add({ item: 'ct', key: key('a'), from: at(7) })
  list.add({ item: 'tsa', key: key('b'), from: at(6) })
  expect([...list.keysAt(at(4))]).toEqual([])
  expect([...list.keysAt(at(5))]).toEqual([key('a')])
  list.add({ item: 'ct', key: key('a'), from: at(3) })
  expect([...list.keysAt(at(4))]).toEqual([key('a')])
  expect(new CanaryStore(folder).all()).toEqual([])
})
