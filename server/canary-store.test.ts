import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
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
const canary = (minute: number, bundles: readonly CanaryBundle[]) => ({
  madeAt: at(minute),
  endedAt: at(minute + 1),
  identity: 'https://x/canary',
  bundles,
})

test('of each set of keys the first and the newest are kept, whatever came between', () => {
  const store = new CanaryStore(folder)
  expect(store.all()).toEqual([])
  for (const [minute, ct] of 'aaabbbbac'.split('').entries()) store.keep(canary(minute, [bundle(ct)]))
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
  store.keep(canary(0, [bundle('a'), second]))
  store.keep(canary(1, [bundle('a')]))
  store.keep(canary(2, [bundle('a'), second]))
  expect(store.all()).toHaveLength(3)
})

test.each([
  ['no JSON', 'x'],
  ['another form', '{"schemaVersion":2}'],
  ['no bundles', JSON.stringify({ schemaVersion: 1, madeAt: at(0).toISOString(), identity: 'https://x', bundles: [] })],
])('a file with %s is no canary, and is not passed over', (_, text) => {
  const store = new CanaryStore(folder)
  store.keep(canary(0, [bundle('a')]))
  writeFileSync(join(folder, 'canaries', '2026.json'), text)
  expect(() => store.all()).toThrow(/2026\.json is no canary/)
})

test('what is given up is given up from the earliest time that was told, and nothing before', () => {
  const list = new DistrustedList(folder)
  expect(list.keysBetween(at(0), at(0)).size).toBe(0)
  list.add({ item: 'ct', key: key('a'), from: at(5) })
  list.add({ item: 'ct', key: key('a'), from: at(7) })
  list.add({ item: 'tsa', key: key('b'), from: at(6) })
  expect([...list.keysBetween(at(4), at(4))]).toEqual([])
  expect([...list.keysBetween(at(5), at(5))]).toEqual([key('a')])
  // Begun before, ended after: some of it is given up.
  expect([...list.keysBetween(at(4), at(5))]).toEqual([key('a')])
  list.add({ item: 'ct', key: key('a'), from: at(3) })
  expect([...list.keysBetween(at(4), at(4))]).toEqual([key('a')])
  expect(new CanaryStore(folder).all()).toEqual([])
  list.add({ item: 'v1', key: key('c'), from: at(0), until: at(1) })
  expect([...list.keysBetween(at(1), at(2))]).toEqual([key('c')])
  expect([...list.keysBetween(at(2), at(2))]).toEqual([])
})

test('one of an earlier release has no time of its end', () => {
  const store = new CanaryStore(folder)
  store.keep(canary(0, [bundle('a')]))
  const [name = ''] = readdirSync(join(folder, 'canaries'))
  const path = join(folder, 'canaries', name)
  writeFileSync(path, readFileSync(path, 'utf8').replace(/"endedAt".*\n/, ''))
  expect(store.all()).toMatchObject([{ madeAt: at(0), endedAt: at(0) }])
})
