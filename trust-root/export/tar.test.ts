import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { tar } from './tar.ts'

const WINDOW = 32 * 1024

/** Where the contents of plain files lie, by the headers alone. */
function contents(archive: Uint8Array): { at: number; size: number }[] {
  const found: { at: number; size: number }[] = []
  for (let at = 0; archive[at] !== 0; ) {
    const field = (from: number, length: number) => Buffer.from(archive.subarray(at + from, at + from + length))
    const size = Number.parseInt(field(124, 11).toString(), 8)
    if (field(156, 1).toString() === '0') found.push({ at: at + 512, size })
    at += 512 + Math.ceil(size / 512) * 512
  }
  return found
}

test('no content lies across a multiple of 32 KiB, whatever lengths and names it has; tar reads it all', () => {
  const folder = mkdtempSync(join(tmpdir(), 'chancery-tar-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  for (const step of [1, 511, 512, 700, 4096, 15_000, 31_000, 32_768]) {
    const files = new Map(
      Array.from({ length: 40 }, (_, n): [string, Uint8Array] => [
        `targets/${n % 3 === 0 ? 'a'.repeat(120) : 'b'}${n}.json`,
        new Uint8Array(Math.min(WINDOW, ((n * step) % WINDOW) + 1)).fill(n + 1),
      ]),
    )
    const archive = tar(files)
    expect(contents(archive).map(({ size }) => size)).toEqual([...files.values()].map(({ length }) => length))
    for (const { at, size } of contents(archive)) {
      expect(Math.floor(at / WINDOW), `content of ${size} at ${at}`).toBe(Math.floor((at + size - 1) / WINDOW))
    }
    execFileSync('tar', ['xf', '-', '-C', folder], { input: archive })
    for (const [name, bytes] of files) expect(readFileSync(join(folder, name)).equals(bytes), name).toBe(true)
  }
})
