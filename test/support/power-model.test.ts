/** The judge of the tests of power loss, judged: what a disk may lose, and what it may not. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { DiskRecord } from './disk-shim.ts'
import { drawFrom } from './on-shim.ts'
import { Disk, type Fate } from './power-model.ts'

let scratch: string
let root: string
let disk: Disk

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'chancery-model-'))
  root = join(scratch, 'root')
  mkdirSync(root)
  writeFileSync(join(root, 'old'), 'old content')
  disk = new Disk(root)
})

afterEach(() => rmSync(scratch, { recursive: true }))

const apply = (type: DiskRecord['type'], name: string, more: Partial<DiskRecord> = {}): void =>
  disk.apply({ type, path: join(root, name), inode: 1n, offset: 0, bytes: undefined, process: 1, ...more })
const write = (name: string, text: string, offset = 0, inode = 1n): void =>
  apply('write', name, { bytes: Buffer.from(text), offset, inode })

let states = 0

/** What is left, by name. */
function after(fate: Fate, seed = 1): Record<string, string> {
  const into = join(scratch, `state-${states++}`)
  disk.materialise(into, fate, drawFrom(seed))
  return Object.fromEntries(readdirSync(into).map((name) => [name, readFileSync(join(into, name), 'utf8')]))
}

test('what was synced is there whatever the fate', () => {
  apply('create', 'new')
  write('new', 'content')
  apply('sync', 'new')
  disk.apply({ type: 'sync-folder', path: root, inode: 9n, offset: 0, bytes: undefined, process: 1 })
  for (const fate of ['nothing', 'everything', 'beginning', 'torn'] as const) {
    expect(after(fate), fate).toEqual({ old: 'old content', new: 'content' })
  }
})

test('content that was not synced, and a name whose folder was not, are lost', () => {
  apply('create', 'new')
  write('new', 'content')
  expect(after('nothing')).toEqual({ old: 'old content' })
  apply('sync', 'new')
  expect(after('nothing'), 'a synced file without a synced name').toEqual({ old: 'old content' })
  expect(after('everything')).toEqual({ old: 'old content', new: 'content' })
})

test('a rename happens whole or not at all', () => {
  apply('create', 'part')
  write('part', 'new content')
  apply('sync', 'part')
  apply('rename', 'part', { bytes: Buffer.from(join(root, 'old')) })
  const seen = new Set(Array.from({ length: 40 }, (_, seed) => JSON.stringify(after('torn', seed))))
  const states = [{ old: 'new content' }, { old: 'old content' }, { old: 'old content', part: 'new content' }]
  expect(seen).toEqual(new Set(states.map((state) => JSON.stringify(state))))
})

test('unsynced writes are torn at sectors, and come in any order', () => {
  apply('create', 'file')
  write('file', 'a'.repeat(1024))
  apply('sync', 'file')
  disk.apply({ type: 'sync-folder', path: root, inode: 9n, offset: 0, bytes: undefined, process: 1 })
  write('file', 'b'.repeat(1024))
  const seen = new Set(Array.from({ length: 60 }, (_, seed) => after('torn', seed)['file'] ?? ''))
  const [a, b] = ['a'.repeat(512), 'b'.repeat(512)]
  expect(seen).toEqual(new Set([a + a, b + b, a + b, b + a]))
})

test('what a failed sync dropped no later sync brings back, unless it is written again', () => {
  apply('create', 'file')
  disk.apply({ type: 'sync-folder', path: root, inode: 9n, offset: 0, bytes: undefined, process: 1 })
  write('file', 'first')
  apply('failed-sync', 'file')
  write('file', 'second', 5)
  apply('sync', 'file')
  expect(after('nothing')['file']).toBe('\0\0\0\0\0second')
  write('file', 'first')
  apply('sync', 'file')
  expect(after('nothing')['file']).toBe('firstsecond')
})

test('a file that was cut short and grows again has zeros where nothing was written', () => {
  apply('create', 'file')
  write('file', 'long content')
  apply('truncate', 'file', { offset: 0 })
  write('file', 'x', 4)
  expect(after('everything')['file']).toBe('\0\0\0\0x')
  apply('sync', 'file')
  disk.apply({ type: 'sync-folder', path: root, inode: 9n, offset: 0, bytes: undefined, process: 1 })
  expect(after('nothing')['file']).toBe('\0\0\0\0x')
})

test('a record of a file that was never seen is an error: the shim has missed something', () => {
  expect(() => write('unknown', 'x', 0, 77n)).toThrow(/never seen/)
  expect(statSync(root).isDirectory()).toBe(true)
})
