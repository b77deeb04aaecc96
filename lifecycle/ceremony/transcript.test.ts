/** The chain of a transcript's lines, and what is left of it after a kill. */
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { readTranscript, Transcript, TRANSCRIPT_FILE } from './transcript.ts'

let folder: string
const now = () => new Date('2026-11-21T08:00:00Z')
const options = { machine: 'vault', now }
const software = { chancery: '0.1.0', node: 'v24.0.0', openssl: 'OpenSSL 3' }
const text = () => readFileSync(join(folder, TRANSCRIPT_FILE), 'utf8')

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-transcript-'))
  const transcript = new Transcript(folder, options)
  transcript.append({ event: 'begin', planSha256: '00'.repeat(32), plan: 'a: "plan"\n', software })
  transcript.append({ event: 'roles', step: 'roles tuf', roles: '{}\n', output: '11'.repeat(32) })
  for (const dropped of ['', 'eA==', '']) transcript.append({ event: 'resumed', software, dropped })
  transcript.close()
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

describe('a transcript', () => {
  test('is read as it was written, and goes on', () => {
    expect(readTranscript(text())).toHaveLength(5)
    const transcript = new Transcript(folder, options)
    transcript.append({ event: 'end', planSha256: '00'.repeat(32), steps: 0 })
    transcript.close()
    const lines = readTranscript(text())
    expect(lines.map(({ line }) => line)).toEqual([1, 2, 3, 4, 5, 6])
    expect(lines.at(-1)?.hash).toBe(transcript.head)
  })

  test('after a kill the unfinished line is gone, and told of', () => {
    const whole = text()
    appendFileSync(join(folder, TRANSCRIPT_FILE), '{"line":6,"ti')
    expect(() => readTranscript(text())).toThrow(/line 6 .* cut off/)
    const transcript = new Transcript(folder, options)
    expect(Buffer.from(transcript.dropped, 'base64').toString()).toBe('{"line":6,"ti')
    transcript.append({ event: 'resumed', software, dropped: transcript.dropped })
    transcript.close()
    expect(text().startsWith(`${whole}{"line":6,`)).toBe(true)
    expect(readTranscript(text())).toHaveLength(6)
  })

  test('has no line that its form does not allow', () => {
    const transcript = new Transcript(folder, options)
    const before = text()
    // What the types forbid, the schema refuses before anything is written.
    expect(() => transcript.append({ event: 'end', planSha256: 'none', steps: 0 })).toThrow(/planSha256/)
    transcript.close()
    expect(text()).toBe(before)
  })
})

describe('is refused, and the line named', () => {
  const lines = () => text().split('\n')
  const rows: readonly [string, (all: string[]) => string[], RegExp][] = [
    ['nothing', () => [], /line 1 .* empty/],
    ['a line missing', (all) => all.toSpliced(2, 1), /line 3 .* it is line 4/],
    ['the first line missing', (all) => all.slice(1), /line 1 .* it is line 2/],
    ['two lines exchanged', (all) => all.with(2, all[3] ?? '').with(3, all[2] ?? ''), /line 3 .* it is line 4/],
    ['a line twice', (all) => all.toSpliced(1, 0, all[1] ?? ''), /line 3 .* it is line 2/],
    ['an empty line', (all) => all.toSpliced(1, 0, ''), /line 2 .* not JSON/],
    ['a blank in it', (all) => all.with(1, (all[1] ?? '').replace(':', ': ')), /line 2 .* another way/],
    ['its members in another order', (all) => all.with(0, reversed(all[0] ?? '')), /line 1 /],
    ['a number in another form', (all) => all.with(1, (all[1] ?? '').replace('"line":2', '"line":2.0')), /line 2 /],
    ['text behind the end', (all) => [...all.slice(0, -1), 'x'], /line 6 .* cut off, or was added/],
    ['its last octet missing', (all) => all.slice(0, -1), /line 5 .* cut off/],
    ['lines ended as on Windows', (all) => all.map((each) => (each === '' ? each : `${each}\r`)), /line 1 /],
  ]
  test.each(rows)('%s', (_what, change, words) => {
    const changed = change(lines()).join('\n')
    expect(() => readTranscript(changed)).toThrow(words)
    expect(() => readTranscript(changed)).toThrow(expect.objectContaining({ code: 'ceremony_transcript_damaged' }))
  })

  test('any one octet changed, wherever it is', () => {
    const bytes = Buffer.from(text())
    for (let at = 0; at < bytes.length; at++) {
      const changed = Buffer.from(bytes)
      changed[at] = (changed[at] ?? 0) ^ 1
      const line = bytes.subarray(0, at).toString().split('\n').length
      // A line break that became something else joins two lines; the first is named, or the one that it was.
      expect(() => readTranscript(changed.toString()), `octet ${at}`).toThrow(
        new RegExp(`line (?:${line}|${line + 1}) `),
      )
    }
  })

  test('and a run does not go on with it', () => {
    writeFileSync(join(folder, TRANSCRIPT_FILE), text().replace('plan', 'plot'))
    expect(() => new Transcript(folder, options)).toThrow(/line 1 .* it was changed/)
  })
})

function reversed(line: string): string {
  return JSON.stringify(Object.fromEntries(Object.entries(JSON.parse(line) as object).toReversed()))
}
